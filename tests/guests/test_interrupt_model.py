"""No interrupt is lost, none comes twice, none out of order: random guests against a simple model of a local APIC.

A guest sends itself interrupts, has a card and a line send it some, changes its task priority and its interrupt flag,
and sleeps; its handlers do the same, and each writes its vector to a log. All that is the guest's own doing, so the
model knows the exact log. Two more vectors come from outside, at any instruction, alone or together: each must come as
often as it was sent.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.interrupt_guest import FROM_CARD, LINE, MOST, SENT, VECTORS, WAKING, Op
from tests.interrupt_rig import Cut, run_guest, vectors_of
from tests.support import (
    NATIVE_AVIC,
    NATIVE_HW,
    NATIVE_METAL,
    NATIVE_POSTED,
    NATIVE_TRANSLATED,
    NATIVE_TRAP,
    PORTABLE_AVIC,
    PORTABLE_HW,
    PORTABLE_METAL,
    PORTABLE_POSTED,
    Where,
)

TECHNIQUES = {
    "metal": NATIVE_METAL, "metal-portable": PORTABLE_METAL, "emulated": NATIVE_HW, "emulated-portable": PORTABLE_HW,
    "deprivileged": NATIVE_TRAP, "translated": NATIVE_TRANSLATED, "posted": NATIVE_POSTED,
    "posted-portable": PORTABLE_POSTED, "avic": NATIVE_AVIC, "avic-portable": PORTABLE_AVIC,
}  # fmt: skip


class Model:
    """The APM's local APIC (vol. 2, 16.6) and a CPU that runs `main` and the handlers' `bodies`.

    With `posts` requests from outside wait in a posted-interrupt descriptor while notifications are suppressed.
    """

    def __init__(self, main: list[Op], bodies: list[list[Op]], *, posts: bool) -> None:
        self.bodies, self.posts = dict(zip(VECTORS, bodies, strict=True)), posts
        self.posted: set[int] = set()
        self.requested: set[int] = set()
        self.in_service: list[int] = []
        self.tpr, self.enabled, self.suppressed, self.budget = 0, False, False, MOST
        self.line = 0  # interrupts for which it stays high
        self.remote_irr = False  # of the I/O APIC: the line's last one has not been ended
        self.log = bytearray()
        self.run(main)
        self.tpr, self.enabled = 0, True
        self.interrupts()
        self.do("allow", 0)
        self.interrupts()

    def run(self, ops: list[Op]) -> None:
        for op in ops:
            self.do(*op)
            self.interrupts()

    def do(self, kind: str, value: int) -> None:
        if kind in ("send", "card", "urgent", "device", "raise"):
            self.budget -= 1
            if self.budget >= 0:
                self.send(kind, value)
        elif kind in ("tpr", "cr8"):
            self.tpr = value
        elif kind in ("on", "popf"):
            self.enabled = True
        elif kind in ("off", "blink"):
            self.enabled = False
        elif kind == "say":
            self.log.append(value)
        elif kind == "sleep":
            self.requested.add(WAKING)
            self.enabled = True
        elif kind == "doze":
            self.do("allow", 0)
            self.enabled = True
        elif kind == "suppress":
            self.suppressed = self.posts
        elif kind == "allow":
            self.suppressed = False
            self.notify()
        elif kind == "notify":
            self.notify()

    # --- where interrupts come from ---------------------------------------------------------------------------

    def send(self, kind: str, value: int) -> None:
        if kind == "send":
            self.requested.add(value)
        elif kind == "raise":
            self.line = value
            self.fire()
        else:
            self.post(set(vectors_of(value)), urgent=kind == "urgent")

    def fire(self) -> None:
        if self.line and not self.remote_irr:
            self.remote_irr = True
            self.post({LINE})

    def post(self, vectors: set[int], *, urgent: bool = False) -> None:
        self.posted |= vectors
        if urgent or not self.suppressed:
            self.notify()

    def notify(self) -> None:
        self.requested |= self.posted
        self.posted = set()

    # --- where they go ----------------------------------------------------------------------------------------

    def interrupts(self) -> None:
        """Take what exceeds the priority, the highest first."""
        while self.enabled and self.requested:
            vector = max(self.requested)
            if vector >> 4 <= max([self.tpr, *(other >> 4 for other in self.in_service)]):
                return
            self.requested.remove(vector)
            self.in_service.append(vector)
            self.log.append(vector)
            self.enabled, before = False, self.tpr
            self.run(self.bodies[vector])
            self.tpr = before
            self.interrupts()
            self.end(vector)
            self.interrupts()
            self.enabled = True  # IRET

    def end(self, vector: int) -> None:
        self.in_service.remove(vector)
        if vector == LINE:
            self.line = max(0, self.line - 1)
            self.remote_irr = False
            self.fire()


# --- the cases --------------------------------------------------------------------------------------------------------

some = st.sampled_from(SENT)
several = st.lists(some, min_size=1, max_size=3, unique=True).map(lambda v: int.from_bytes(bytes(v), "little"))
priority = st.builds(Op, st.sampled_from(["tpr", "cr8"]), st.sampled_from([0, 0, 2, 3, 4, 5, 7, 9, 12, 15]))
plain = [
    some.map(lambda v: Op("send", v)),
    several.map(lambda vectors: Op("card", vectors)),
    st.builds(Op, st.sampled_from(["urgent", "device"]), several),
    st.integers(1, 3).map(lambda n: Op("raise", n)),
    priority,
    st.sampled_from([Op("on"), Op("on"), Op("popf"), Op("off"), Op("blink")]),
    st.sampled_from([Op("suppress"), Op("suppress"), Op("allow"), Op("notify")]),
    st.one_of(st.integers(1, 9).map(lambda n: Op("say", n)), st.integers(1, 300).map(lambda n: Op("spin", n)),
              st.just(Op("exit"))),
]  # fmt: skip
body = st.builds(
    lambda open, ops: [Op("on")] * open + ops, st.booleans(), st.lists(st.one_of(plain), min_size=3, max_size=8)
)
LEAST_ASLEEP = {"sleep": WAKING >> 4, "doze": FROM_CARD[-1] >> 4}


def awake(ops: list[Op]) -> list[Op]:
    """No sleep while the task priority holds back what would end it."""
    out, tpr = [Op("on")], 0
    for op in ops:
        tpr = op.value if op.kind in ("tpr", "cr8") else tpr
        if tpr < LEAST_ASLEEP.get(op.kind, 16):
            out.append(op)
    return out


class Case(NamedTuple):
    """The scripts of the main program and of the handlers, and what happens meanwhile."""

    main: list[Op]
    bodies: list[list[Op]]
    cuts: list[Cut]
    snapshots: bool


cuts = st.builds(Cut, st.integers(1, 3_000), st.frozensets(st.sampled_from(FROM_CARD)), st.booleans())
cases = st.builds(
    Case,
    st.lists(st.one_of(*plain, st.sampled_from([Op("sleep"), Op("doze")])), min_size=20, max_size=40).map(awake),
    st.lists(body, min_size=len(VECTORS), max_size=len(VECTORS)), st.lists(cuts, max_size=10), st.booleans(),
)  # fmt: skip


def check(where: Where, case: Case) -> None:
    log = run_guest(where, case.main, case.bodies, case.cuts, snapshots=case.snapshots)
    assert log == bytes(Model(case.main, case.bodies, posts=where.interrupts is not None).log)


@pytest.mark.parametrize("where", TECHNIQUES.values(), ids=TECHNIQUES)
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(case=cases)
def test_the_log_is_the_models(where: Where, case: Case) -> None:
    check(where, case)

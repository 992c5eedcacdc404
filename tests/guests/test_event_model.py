"""No event is lost and none comes twice: random guests of Xen's against a simple model of event channels.

For the ports of words 0 and 1, which the guest raises itself, the model knows the exact log. Those of word 2 come from
outside, at any instruction: of them each that was clear must come once, and at once if the guest takes upcalls. Event
channels have no priorities: the guest's handler takes the lowest port first.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hv.silicon.x86_64.machine import Idle
from modes.paravirt.abi import BACKEND_DOMID, GUEST_DOMID, VIRQ_TIMER
from modes.paravirt.events import INTERDOMAIN, IPI, MASK, PENDING, VIRQ
from modes.paravirt.state import Channel
from tests.event_rig import TECHNIQUES, Make, Spy
from tests.event_script import BODIES, MAIN, MOST, Op, script

LIMIT = 20_000_000  # cycles

ECHO, WAKE, TIMER, OUTSIDE = 100, 127, 140, 150
ECHO_BACKEND, OUTSIDE_BACKEND = 50, 51  # domain 0's ends
CHANNELS = {
    20: Channel(IPI), 63: Channel(INTERDOMAIN, 0, GUEST_DOMID, 110), 64: Channel(IPI),
    ECHO: Channel(INTERDOMAIN, 0, BACKEND_DOMID, ECHO_BACKEND), 110: Channel(INTERDOMAIN, 0, GUEST_DOMID, 63),
    WAKE: Channel(IPI), TIMER: Channel(VIRQ, virq=VIRQ_TIMER),
    OUTSIDE: Channel(INTERDOMAIN, 0, BACKEND_DOMID, OUTSIDE_BACKEND),
}  # fmt: skip
RAISES = {20: 20, 63: 110, 64: 64, ECHO: ECHO, 110: 63}  # by sending to it: domain 0 answers the echo at once
FROM_OUTSIDE = (TIMER, OUTSIDE)


class Model:
    """The bits of public/xen.h, a guest that runs `main`, and its handler, which runs `bodies`."""

    def __init__(self, main: list[Op], bodies: dict[int, list[Op]]) -> None:
        self.bodies = bodies
        self.pending: set[int] = set()
        self.masked: set[int] = set()
        self.selector: set[int] = set()
        self.upcall_pending, self.enabled, self.budget = False, True, MOST
        self.log = bytearray()
        self.run(main)
        assert self.pending <= self.masked  # by a handler, in the end

    def run(self, ops: list[Op]) -> None:
        for op in ops:
            self.do(*op)
            if self.enabled and self.upcall_pending:
                self.upcall()

    def do(self, kind: str, value: int) -> None:
        if kind in ("send", "send_at_alarm"):
            self.budget -= 1
            if self.budget >= 0:
                self.pend(RAISES[value])
        elif kind == "mask":
            self.masked.add(value)
        elif kind in ("unmask", "unmask_by_memory"):
            self.masked.discard(value)
            if value in self.pending:
                self.select(value)
        elif kind in ("on", "nap"):
            self.enabled = True
        elif kind in ("off", "blink"):
            self.enabled = False
        elif kind == "say":
            self.log.append(value)
        elif kind in ("sleep", "block"):
            self.pend(WAKE)
            self.enabled = True

    def pend(self, port: int) -> None:
        if port not in self.pending:
            self.pending.add(port)
            if port not in self.masked:
                self.select(port)

    def select(self, port: int) -> None:
        if port // 64 not in self.selector:
            self.selector.add(port // 64)
            self.upcall_pending = True

    def upcall(self) -> None:
        self.enabled = False
        while self.upcall_pending:
            self.upcall_pending = False
            words, self.selector = sorted(self.selector), set()
            for word in words:
                while ports := [port for port in self.pending - self.masked if port // 64 == word]:
                    self.pending.remove(min(ports))
                    self.log.append(min(ports))
                    self.run(self.bodies.get(min(ports), []))
        self.enabled = True  # as it was


# --- the test ---------------------------------------------------------------------------------------------------------

some_port = st.sampled_from(sorted(RAISES))
maskable = st.sampled_from([*sorted(RAISES), OUTSIDE])
plain = [
    some_port.map(lambda port: Op("send", port)),
    some_port.map(lambda port: Op("send", port)),
    st.builds(Op, st.sampled_from(["mask", "unmask", "unmask_by_memory"]), maskable),
    st.sampled_from([Op("on"), Op("off"), Op("blink"), Op("call")]),
    st.integers(1, 9).map(lambda n: Op("say", n)),
    st.integers(1, 60).map(lambda n: Op("spin", n)),
]
times = st.integers(0, 120)
alarms = st.builds(Op, st.sampled_from(["alarm", "nap"]), times)
sleeping = [
    alarms,
    some_port.map(lambda port: Op("send_at_alarm", port)),
    st.sampled_from([Op("sleep", WAKE), Op("block", WAKE)]),
]
body = st.lists(st.one_of(plain), max_size=5)
main = st.lists(st.one_of(*plain, *sleeping), min_size=8, max_size=30)
LAST = [*(Op("unmask", port) for port in (*RAISES, OUTSIDE)), Op("on")]


class Cut(NamedTuple):
    """After so many cycles: an event from outside, or none; a snapshot, or none."""

    cycles: int
    event: bool
    snapshot: bool


cuts = st.lists(st.builds(Cut, st.integers(1, 20_000), st.booleans(), st.booleans()), max_size=8)


class Case(NamedTuple):
    """The scripts of the main program and of ports' handlers, and what happens meanwhile."""

    main: list[Op]
    bodies: dict[int, list[Op]]
    cuts: list[Cut]


cases = st.builds(Case, main, st.fixed_dictionaries(dict.fromkeys([*RAISES, WAKE], body)), cuts)


def check(make: Make, case: Case) -> None:
    main = case.main + LAST
    memory = {MAIN[0]: script(main)} | {BODIES + 16 * port: script(ops) for port, ops in case.bodies.items()}
    guest = make(CHANNELS, memory | {BODIES + 16 * TIMER: script([Op("note")])})
    guest.events.backends[ECHO_BACKEND] = lambda: guest.notify(ECHO)
    spy = Spy(guest, FROM_OUTSIDE)
    try:
        assert isinstance(guest.run(), Idle)
        for cut in [Cut(1, True, False), *case.cuts, Cut(LIMIT, True, True)]:
            if cut.event:
                guest.notify(OUTSIDE)
            if cut.snapshot:
                guest.vm.restore(guest.vm.snapshot())
            guest.run(cut.cycles)
        assert isinstance(guest.run(LIMIT), Idle)
        log, left, model = guest.log(), guest.ports(PENDING), Model(main, case.bodies)
        assert bytes(entry for entry in log if entry not in FROM_OUTSIDE) == bytes(model.log)
        assert left.difference(FROM_OUTSIDE) == model.pending
        assert left <= guest.ports(MASK)
        assert Counter(entry for entry in [*log, *left] if entry in FROM_OUTSIDE) == spy.raised
        assert all(log[place] in ports for place, ports in spy.next.items())
        armed, noted, early = guest.alarms()
        assert (noted, early) == (armed, 0)
    finally:
        guest.close()


@pytest.mark.parametrize("make", TECHNIQUES.values(), ids=TECHNIQUES)
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(case=cases)
def test_the_log_is_the_models(make: Make, case: Case) -> None:
    check(make, case)

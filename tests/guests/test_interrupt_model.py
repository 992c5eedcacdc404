"""No interrupt is lost, none comes twice, none out of order: random guests against a simple model of a local APIC.

A guest sends itself interrupts, changes its task priority and its interrupt flag, and sleeps; its handlers do the same,
and each writes its vector to a log. All that is the guest's own doing, so the model knows the exact log. Two more
vectors are a card's, and come at any instruction, alone or together: each must come as often as it was sent.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hv.silicon.posted import Descriptor
from hv.silicon.x86_64.machine import Idle
from modes.bare_metal import BareMetal
from tests.support import (
    DATA,
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
    RawGuest,
    Where,
)

VECTORS = (0x31, 0x3A, 0x52, 0x5F, 0x9C, 0xF0)
WAKING = VECTORS[-1]
FROM_CARD = (0x21, 0xE1)  # not while the last one is under way, since requests for one vector merge
COUNTS = DATA + 0x10  # words of 32 bits: how often each of them has come
TEXT = DATA + 0x100  # the log
BUDGET = DATA  # interrupts that may still be sent: handlers that send to each other come to an end
MOST = 40
LIMIT = 20_000_000  # cycles: each step of a deprivileged guest is an exit
MAIN, BODIES = 0x2_0000, 0x2_1000

HANDLERS = "".join(
    f"""h{vector:x}: movb ${vector}, (%r8); inc %r8; push %rax; push %rbx; push %rcx; push %rdx
    mov ${BODIES + 0x400 * number}, %eax; call *%rax
    pop %rdx; pop %rcx; pop %rbx; pop %rax; movl $0, 0xB0(%rbp); nop; iretq
    """
    for number, vector in enumerate(VECTORS)
)
HANDLERS += "".join(
    f"h{vector:x}: incl {COUNTS + 4 * number}; movl $0, 0xB0(%rbp); nop; iretq\n"
    for number, vector in enumerate(FROM_CARD)
)
FRAME = f"""mov ${TEXT}, %r8; lapic 0xF0, 0x1FF; movl ${MOST}, {BUDGET}; sti; hlt; cli; mov ${MAIN}, %eax; call *%rax
    movl $0, 0x80(%rbp); 1: sti; hlt; jmp 1b
    {HANDLERS}"""
GATES: Mapping[int, tuple[str, Mapping[str, int]]] = {vector: (f"h{vector:x}", {}) for vector in (*VECTORS, *FROM_CARD)}


class Op(NamedTuple):
    """What a guest does: a kind, and a vector, a priority class, a letter or a count."""

    kind: str
    value: int = 0


def code(op: Op) -> bytes:
    """RBP is the local APIC's address, R8 the end of the log."""
    command, priority = b"\xc7\x85" + struct.pack("<I", 0x300), b"\xc7\x85" + struct.pack("<I", 0x80)
    match op.kind:
        case "send":  # decl budget; js over it; movl to the command register: to oneself
            send = command + struct.pack("<I", 0x4_4000 | op.value)
            return b"\xff\x0c\x25" + struct.pack("<I", BUDGET) + b"\x78" + bytes([len(send)]) + send
        case "tpr":
            return priority + struct.pack("<I", op.value << 4)
        case "cr8":
            return b"\xb8" + struct.pack("<I", op.value) + b"\x44\x0f\x22\xc0"
        case "on":
            return b"\xfb\x90"  # STI, and one instruction more before it counts
        case "popf":
            return b"\x68" + struct.pack("<I", 0x202) + b"\x9d"
        case "off":
            return b"\xfa"
        case "blink":
            return b"\xfb\xfa"
        case "say":
            return b"\x41\xc6\x00" + bytes([op.value]) + b"\x49\xff\xc0"
        case "sleep":  # with an interrupt that waits, and is not let in before HLT
            return b"\xfa" + command + struct.pack("<I", 0x4_4000 | WAKING) + b"\xfb\xf4"
        case "exit":
            return b"\x0f\xa2"  # CPUID, which is an exit under a hypervisor
        case _:
            return b"\xb9" + struct.pack("<I", op.value) + b"\xff\xc9\x75\xfc"  # a loop


def handler_body(ops: list[Op]) -> bytes:
    """A handler gives the task priority back as it was."""
    save, restore = b"\x44\x0f\x20\xc0\x50", b"\x58\x44\x0f\x22\xc0"
    return save + b"".join(map(code, ops)) + restore + b"\xc3"


class Model:
    """The APM's local APIC (vol. 2, 16.6) and a CPU that runs `main` and the handlers' `bodies`."""

    def __init__(self, main: list[Op], bodies: list[list[Op]]) -> None:
        self.bodies = dict(zip(VECTORS, bodies, strict=True))
        self.requested: set[int] = set()
        self.in_service: list[int] = []
        self.tpr, self.enabled, self.budget = 0, False, MOST
        self.log = bytearray()
        self.run(main)
        self.tpr, self.enabled = 0, True
        self.interrupts()

    def run(self, ops: list[Op]) -> None:
        for op in ops:
            self.do(op)
            self.interrupts()

    def do(self, op: Op) -> None:
        if op.kind == "send":
            self.budget -= 1
            if self.budget >= 0:
                self.requested.add(op.value)
        elif op.kind in ("tpr", "cr8"):
            self.tpr = op.value
        elif op.kind in ("on", "popf"):
            self.enabled = True
        elif op.kind in ("off", "blink"):
            self.enabled = False
        elif op.kind == "say":
            self.log.append(op.value)
        elif op.kind == "sleep":
            self.requested.add(WAKING)
            self.enabled = True

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
            self.in_service.remove(vector)  # the end of the interrupt
            self.interrupts()
            self.enabled = True  # IRET


vector = st.sampled_from(VECTORS)
plain = [
    vector.map(lambda v: Op("send", v)),
    vector.map(lambda v: Op("send", v)),
    st.integers(0, 15).map(lambda n: Op("tpr", n)),
    st.integers(0, 15).map(lambda n: Op("cr8", n)),
    st.sampled_from([Op("on"), Op("popf"), Op("off"), Op("blink"), Op("exit")]),
    st.integers(1, 9).map(lambda n: Op("say", n)),
    st.integers(1, 300).map(lambda n: Op("spin", n)),
]
body = st.lists(st.one_of(plain), max_size=5)
main = st.lists(st.one_of(*plain, st.just(Op("sleep"))), min_size=8, max_size=30).map(lambda ops: [Op("on"), *ops])


def awake(ops: list[Op]) -> list[Op]:
    """No sleep while the task priority holds the waking vector back: nothing would end it."""
    out, tpr = [], 0
    for op in ops:
        tpr = op.value if op.kind in ("tpr", "cr8") else tpr
        if op.kind != "sleep" or tpr < WAKING >> 4:
            out.append(op)
    return out


TECHNIQUES = {
    "metal": NATIVE_METAL, "metal-portable": PORTABLE_METAL, "emulated": NATIVE_HW, "emulated-portable": PORTABLE_HW,
    "deprivileged": NATIVE_TRAP, "translated": NATIVE_TRANSLATED, "posted": NATIVE_POSTED,
    "posted-portable": PORTABLE_POSTED, "avic": NATIVE_AVIC, "avic-portable": PORTABLE_AVIC,
}  # fmt: skip


class Cut(NamedTuple):
    """After so many cycles the card sends some of its vectors."""

    cycles: int
    sent: frozenset[int]


def send(guest: RawGuest, where: Where, vector: int) -> None:
    """The card's message: the IOMMU posts it if it can; if not, the hypervisor, if any, gets a physical interrupt."""
    if where.interrupts is not None:
        guest.machine.post(Descriptor(guest.machine.memory, guest.vmcb.posted_descriptor), vector)
        return
    guest.vm.board.message(0xFEE0_0000, vector)
    if where.mode is not BareMetal:
        guest.cpu.host_interrupt = True


def run_guest(where: Where, main: list[Op], bodies: list[list[Op]], cuts: list[Cut], *, snapshots: bool) -> bytes:
    """The log of a guest that is interrupted, and moved, wherever `cuts` says."""
    memory = {MAIN: b"".join(map(code, main)) + b"\xc3"}
    memory |= {BODIES + 0x400 * number: handler_body(ops) for number, ops in enumerate(bodies)}
    guest = RawGuest(FRAME, where, gates=GATES, memory=memory)
    sent = dict.fromkeys(FROM_CARD, 0)

    def came() -> dict[int, int]:
        return dict(zip(FROM_CARD, struct.unpack("<2I", guest.read(COUNTS, 8)), strict=True))

    try:
        assert isinstance(guest.run(), Idle)
        for cut in [Cut(1, frozenset(FROM_CARD[:1])), *cuts]:
            guest.run(cut.cycles)
            before = came()
            for vector in sorted(vector for vector in cut.sent if sent[vector] == before[vector]):
                sent[vector] += 1
                send(guest, where, vector)
            if snapshots:
                guest.vm.restore(guest.vm.snapshot())
        assert isinstance(guest.run(LIMIT), Idle)
        assert came() == sent
        return guest.read(TEXT, 0x1000).rstrip(b"\0")
    finally:
        guest.close()


@pytest.mark.parametrize("where", TECHNIQUES.values(), ids=TECHNIQUES)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    main=main.map(awake), bodies=st.lists(body, min_size=len(VECTORS), max_size=len(VECTORS)),
    cuts=st.lists(st.builds(Cut, st.integers(1, 3_000), st.frozensets(st.sampled_from(FROM_CARD))), max_size=10),
    snapshots=st.booleans(),
)  # fmt: skip
def test_the_log_is_the_models(
    where: Where, main: list[Op], bodies: list[list[Op]], cuts: list[Cut], snapshots: bool
) -> None:  # fmt: skip
    assert run_guest(where, main, bodies, cuts, snapshots=snapshots) == bytes(Model(main, bodies).log)

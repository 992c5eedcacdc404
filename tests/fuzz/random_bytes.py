"""Random bytes run as code, at ring 0 and 3: the guest ends, pauses or crashes with one line, and hv lives."""

from __future__ import annotations

import random
from collections.abc import Iterable

from hv.silicon.x86_64.machine import Ended, Idle
from hv.silicon.x86_64.svm import Vmcb
from tests.support import CODE, DATA, GDT, NATIVE, PML4, PT, RawGuest, Where

PLACES = (DATA, CODE, 0xFEE0_0000, 0xFEC0_0000, 0x40_0000, 0xFFFF_8000_0000_0000, 0, 0x1000, PT, PML4)
FIRST = 1 << 20  # the suite has the first few hundred


def at_ring_3(vmcb: Vmcb) -> None:
    vmcb.cs.selector, vmcb.cs.attrib = 0x2B, 0xAFB
    vmcb.ss.selector, vmcb.ss.attrib, vmcb.cpl = 0x23, 0xCF3, 3


def run_random_bytes(seed: int, where: Where) -> str:
    """How it ended."""
    chosen = random.Random(seed)
    code = chosen.randbytes(256)
    memory = {DATA: chosen.randbytes(0x1000)}
    if seed % 3 == 0:
        memory[GDT + 8 * chosen.randrange(1, 6)] = chosen.randbytes(8)
    guest = RawGuest(code, where, memory=memory, prepare=at_ring_3 if seed % 2 else None)
    registers = guest.machine.engine.state.regs
    for register in range(16):
        if register != 4:
            registers[register] = chosen.choice(PLACES) + chosen.getrandbits(8) * chosen.getrandbits(1)
    outcome = guest.run(40_000)
    if isinstance(outcome, Ended):
        assert outcome.report
        assert "\n" not in outcome.report
    guest.registers()
    guest.close()
    return "crash" if isinstance(outcome, Ended) else "halt" if isinstance(outcome, Idle) else "time"


def case(seed: int) -> Iterable[str]:
    return [f"{where.mode.id} {run_random_bytes(FIRST + seed, where)}" for where in NATIVE]

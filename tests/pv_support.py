"""Raw guests for the paravirt mode: a few instructions that start as a PV domain's kernel.

A raw PV guest starts at BASE + 0x10_0000, with its data page DATA behind the hypercall page. Everything is mapped at
BASE plus its pseudo-physical address, RSI points to start_info. `hypercall NAME` calls through the hypercall page.
"""

from __future__ import annotations

import struct
from pathlib import Path

from hv.host.console import Console
from hv.host.outside import Outside
from hv.loader import Guest, Segment, XenNotes
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Ended, Idle, Paused
from hv.silicon.x86_64.state import REGISTERS
from hv.vm import Vm
from modes.paravirt.abi import HYPERCALLS
from modes.paravirt.mode import Paravirt
from tests.support import Code, assemble, costs

BASE = 0xFFFF_FFFF_8000_0000
CODE, HYPERCALL_PAGE, DATA, STACK = (BASE + at for at in (0x10_0000, 0x10_4000, 0x10_5000, 0x10_9000))
END = 0x10_9000
MIB = 16
LIMIT = 2_000_000 * MILLI

PRELUDE = f"""
.set BASE, {BASE:#x}
.set DATA, {DATA:#x}
.set STACK, {STACK:#x}
.macro hypercall number
    mov ${HYPERCALL_PAGE:#x} + 32 * \\number, %rax
    call *%rax
.endm
.macro finish reason=0
    movl $\\reason, DATA + 0xf00
    mov $2, %edi
    mov $DATA + 0xf00, %rsi
    hypercall sched_op
.endm
""" + "".join(f".set {name}, {number}\n" for number, name in HYPERCALLS.items())


class PvGuest:
    """A raw guest in a domain of 16 MiB."""

    def __init__(self, code: str, *, portable: bool = False, mib: int = MIB, smp: int = 1) -> None:
        self.code: Code = assemble(PRELUDE + code, CODE)
        data = self.code.data
        segments = [Segment(CODE - BASE, END - (CODE - BASE), data)]
        notes = XenNotes(CODE, HYPERCALL_PAGE, BASE, 0)
        guest = Guest(Path("raw"), "", CODE - BASE, segments, {}, b"", notes)
        self.console = Console()
        self.vm = Vm(Paravirt, guest, costs(), mib=mib, smp=smp, portable=portable, outside=Outside(self.console))
        mode = self.vm.mode
        assert isinstance(mode, Paravirt)
        self.mode, self.domain = mode, mode.domain
        self.v = self.domain.vcpus[0]

    def run(self, cycles: int | None = None) -> Ended | Idle | Paused:
        return self.vm.run(LIMIT if cycles is None else self.vm.now + cycles * MILLI)

    def finish(self) -> PvGuest:
        """Run until the guest powers off."""
        outcome = self.run()
        assert isinstance(outcome, Ended), outcome
        assert outcome.cause == "power-off", outcome
        return self

    def crash(self) -> str:
        """Run until the domain is crashed. The report."""
        outcome = self.run()
        assert isinstance(outcome, Ended), outcome
        assert outcome.cause == "crash", outcome
        assert "\n" not in outcome.report
        return outcome.report

    def words(self, count: int, address: int = DATA) -> list[int]:
        """Words of the guest's memory, at an address of the kernel's."""
        return list(struct.unpack(f"<{count}Q", self.v.memory.read(address, 8 * count)))

    def register(self, name: str) -> int:
        self.v.cpu.leave()
        return self.v.cpu.state.regs[REGISTERS.index(name)]

    @property
    def exits(self) -> dict[str, int]:
        return self.vm.ledger.totals()

    def close(self) -> None:
        self.vm.close()

"""A trial: a student's mode, a tiny guest, and every exit between the two written down.

The mode joins by the contract of hv/mode.py, and Vm takes it as it takes ours. It is watched by a class that inherits
from it. A guest that does not end is ended by a budget of virtual time.
"""

from __future__ import annotations

import struct
import sys
from contextlib import closing
from pathlib import Path

import capstone
import msgspec

from hv.costs import load
from hv.exits import REASONS
from hv.loader import Guest
from hv.mode import Mode
from hv.silicon.timing import MILLI
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import Exit, Shutdown
from hv.silicon.x86_64.machine import Ended, Outcome, Paused
from hv.vcpu import Vcpu
from hv.vm import SMALLEST_MIB, Vm
from labs.grader.guest import CODE, FAULTS, RESULTS
from labs.grader.step import Finding
from labs.grader.student import explain

BUDGET = 2_000_000 * MILLI  # virtual time; a tiny guest needs less than a tenth of it
SHOWN = 6  # exits in an explanation
NAMES = {getattr(svm, name): name for name in ("CPUID", "HLT", "IOIO", "MSR", "SHUTDOWN", "VMRUN", "NPF")}
DISASSEMBLER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
NO_ERROR = "handle() answers every exit without an error"
A_REASON = "handle() returns the id of a reason"


class Seen(msgspec.Struct):
    """One exit, as it looked before and after the student's handler."""

    name: str
    rip: int
    instruction: str
    answer: str = "no answer"
    moved: int = 0

    def __str__(self) -> str:
        step = f", RIP {self.moved:+d}" if self.moved else ", RIP as before"
        return f"{self.name:<8} at {self.rip:#x}  {self.instruction:<16} {self.answer}{step}"


class Trial:
    """One run, to its end. `said` is the console's text, `counts` the ledger's, `rip` where the guest stands."""

    def __init__(self, mode: type[Mode], guest: Guest) -> None:
        self.seen: list[Seen] = []
        try:
            with closing(Vm(_watched(mode, self), guest, load(), mib=SMALLEST_MIB)) as vm:
                self.outcome: Outcome = vm.run(BUDGET)
                self.said, self.counts, self.rip = vm.console.take(), vm.ledger.totals(), vm.machine.cpus[0].rip
                self._results = vm.machine.memory.read(vm.mode_base + RESULTS, 0x1000)
                self._faults = vm.machine.memory.read(vm.mode_base + FAULTS, 0x1000)
        except Finding:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the student's code may do anything
            path = Path(getattr(sys.modules[mode.__module__], "__file__", None) or "")
            raise Finding(NO_ERROR, explain(error, path), self.tail()) from None

    def finish(self, expected: str) -> Trial:
        """Insist on a guest that came to its last HLT."""
        last = self.seen[-1] if self.seen else None
        if isinstance(self.outcome, Paused):
            same = last is not None and sum(seen.rip == last.rip for seen in self.seen) > SHOWN
            why = ": the same instruction exits again and again" if same else ""
            raise Finding(expected, f"the guest still ran after {BUDGET // MILLI} cycles{why}", self.tail())
        if isinstance(self.outcome, Ended):
            raise Finding(expected, f"the guest was ended: {self.outcome.report}", self.tail())
        return self

    def expect(self, good: bool, expected: str, happened: str) -> None:
        """Raise a Finding unless this is good."""
        if not good:
            raise Finding(expected, happened, self.tail())

    def tail(self) -> list[str]:
        """The last exits, numbered."""
        first = max(0, len(self.seen) - SHOWN)
        return [f"{number + 1:>3}  {seen}" for number, seen in enumerate(self.seen)][first:]

    def registers(self, slot: int) -> tuple[int, int, int, int]:
        """EAX, EBX, ECX and EDX as the guest saved them."""
        a, b, c, d = struct.unpack_from("<4I", self._results, 16 * slot)
        return a, b, c, d

    @property
    def faults(self) -> list[tuple[int, int]]:
        """(error code, offset of the instruction) of each #GP that the guest took."""
        noted = int.from_bytes(self._faults[:4], "little")
        words = struct.unpack_from(f"<{noted // 4}I", self._faults, 4)
        return [(error, rip - CODE) for error, rip in zip(words[::2], words[1::2], strict=True)]


def _watched(mode: type[Mode], trial: Trial) -> type[Mode]:
    """The student's mode with a witness around handle()."""

    def handle(self: Mode, vcpu: Vcpu, exit: Exit) -> str:
        cpu = vcpu.cpu
        rip = cpu.rip
        code = next(DISASSEMBLER.disasm_lite(cpu.instruction_bytes(), rip), (0, 0, "?", ""))
        seen = Seen(NAMES.get(exit.code, f"{exit.code:#x}"), rip, f"{code[2]} {code[3]}".strip())
        trial.seen.append(seen)
        try:
            reason = mode.handle(self, vcpu, exit)
        except Shutdown:
            seen.answer = "Shutdown"
            raise
        except (Exception, SystemExit) as error:
            seen.answer = type(error).__name__
            raise
        seen.answer, seen.moved = repr(reason), cpu.rip - rip
        _check_reason(mode, reason, trial)
        return reason

    return type("Watched", (mode,), {"handle": handle})


def _check_reason(mode: type[Mode], reason: object, trial: Trial) -> None:
    """What handle() returns is checked before hv itself trips over it."""
    if not isinstance(reason, str):
        kind = "nothing (is there a return?)" if reason is None else f"{reason!r} ({type(reason).__name__})"
        raise Finding(f"{A_REASON}, a str such as 'hlt'", f"it returned {kind}", trial.tail())
    if reason not in REASONS:
        known = ", ".join(REASONS)
        raise Finding(f"{A_REASON} that exists: {known}", f"it returned {reason!r}", trial.tail())
    if reason not in mode.reasons:
        text = f"it returned {reason!r}, which is not in `reasons` at the top of the class"
        raise Finding(f"{A_REASON} that the mode declares", text, trial.tail())

"""`hv bench`: how fast, as ratios within one run. No number here depends on how fast the machine is, only on noise.

Guest speed: the same user-mode loop under each mode and on bare Unicorn, which is stopped every so many instructions by
its own `count=`. An exit: CPUID under hw-assist, and CLI at ring 3, against a Python hook of Unicorn that does nothing.
A doorbell: the way from the guest's store to the card and the card's looks at its queue. Nothing exits there.
Interrupts: interrupt_bench.py.
Translated code: the kernel's compute loop from the translation cache, against the same loop at its own address; a loop
of calls and returns, and recursion_bench.py (docs/binary-translation.md says what a return costs, and why).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import msgspec

from hv.interrupt_bench import InterruptBench
from hv.loader import Guest, Segment
from hv.measure import RowRunner, Settings, run_table
from hv.mode import Mode
from hv.ops import OPS
from hv.recursion_bench import recursion
from hv.silicon.deadlines import NEVER
from hv.silicon.ixgbe.rings import CONTROL, ENABLE, TAIL
from hv.silicon.ixgbe.virtual import TX_RINGS
from hv.silicon.nvme.spec import ACQ, AQA, ASQ, CC, DOORBELLS, PAGE
from hv.silicon.pci import BAR0, COMMAND, COMMAND_MASTER, COMMAND_MEMORY
from hv.silicon.x86_64.bare import bare_loop, empty_hook
from hv.silicon.x86_64.machine import Idle
from hv.silicon.x86_64.state import RAX
from hv.table import customize, find_row
from hv.vm import Vm
from hv.x86_64.assigned import AssignedFunction

CODE, QUEUES, WINDOW = 0x10_0000, 0x20_0000, 0xFE00_0000  # guest-physical: of the guest that rings doorbells
ROUNDS = 5  # the best of so many is taken
SLICE = 100_000
TRAPPED = "emulated+cpu=trap-and-emulate"


class Ratio(msgspec.Struct):
    """`value` in `unit`; `bound` is what it may not cross, and in which direction."""

    name: str
    value: float
    unit: str
    bound: float
    at_most: bool

    @property
    def good(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


class Rung(msgspec.Struct, frozen=True):
    """A card whose doorbell is measured: what it is written to before, by offset in its window."""

    name: str
    column: str
    doorbell: int
    registers: tuple[tuple[int, int], ...]


RING = ((TX_RINGS, QUEUES), (TX_RINGS + 8, PAGE), (TX_RINGS + CONTROL, ENABLE))
CARDS = (
    Rung("drive", "local", DOORBELLS, ((AQA, 0x3F_003F), (ASQ, QUEUES), (ACQ, QUEUES + PAGE), (CC, 0x46_0001))),
    Rung("network card", "net", TX_RINGS + TAIL, RING),
)


def _best(work: Callable[[], float]) -> float:
    return min(work() for _ in range(ROUNDS))


class Bench:
    """Measures, one ratio after the other."""

    def __init__(self, modes: Mapping[str, type[Mode]], settings: Settings) -> None:
        self.modes, self.settings = modes, settings

    def run(self, progress: Callable[[str], None]) -> list[Ratio]:
        out = []
        progress("bare Unicorn")
        instructions = 40 * SLICE
        bare = instructions / _best(lambda: self._bare_loop(instructions))
        for row in ("metal", "nitro", "emulated"):
            progress(f"guest speed on {row}")
            speed = self._guest_speed(row, instructions)
            out.append(Ratio(f"user code on {row} / bare Unicorn, same preemption", speed / bare, "x", 0.8, False))
        progress("exits")
        empty = _best(lambda: empty_hook(20_000))
        # Both operations are loops of eleven instructions; only one of them exits.
        cpuid = self._seconds_per_op("nitro", "cpu.cpuid") - self._seconds_per_op("nitro", "cpu.irq_mask")
        out.append(Ratio("a CPUID exit under hw-assist / an empty Python hook", cpuid / empty, "hooks", 10, True))
        # The loops differ by the two instructions that trap.
        pair = self._seconds_per_op(TRAPPED, "cpu.irq_mask") - self._seconds_per_op(TRAPPED, "cpu.callret")
        out.append(Ratio("a trapped CLI, deprivileged / an empty Python hook", pair / 2 / empty, "hooks", 20, True))
        for card in CARDS:
            name = f"a doorbell of a {card.name} that the guest was given / an empty Python hook"
            out.append(Ratio(name, self._doorbell(20_000, card) / empty, "hooks", 8, True))
        progress("interrupts")
        interrupts = InterruptBench(self.modes, self.settings.costs, ROUNDS)
        for name, cost in (("posted interrupt", interrupts.posted_interrupt), ("virtual EOI", interrupts.virtual_eoi)):
            out.append(Ratio(f"a {name} / an empty Python hook", cost(20_000) / empty, "hooks", 5, True))
        progress("translated code")
        direct, translated = (self._seconds_per_op(row, "cpu.compute") for row in (TRAPPED, "emulated"))
        out.append(Ratio("kernel code, translated / run directly", direct / translated, "x", 0.7, False))
        direct, translated = (self._seconds_between_marks(row, "cpu.callret") for row in (TRAPPED, "emulated"))
        out.append(Ratio("calls and returns, translated / run directly", direct / translated, "x", 0.6, False))
        recursive = recursion(self.modes, self.settings.costs, ROUNDS)
        out.append(Ratio("a recursive function, translated / run directly", recursive, "x", 0.7, False))
        progress("the table")
        started = time.perf_counter()
        run_table([find_row("nitro"), find_row("metal")], list(OPS.values()), self.modes, self.settings)
        out.append(Ratio("hv table, nitro and metal, all operations", time.perf_counter() - started, "s", 10, True))
        return out

    def _bare_loop(self, instructions: int) -> float:
        guest = self.settings.guest
        entry = guest.symbols["spin_work"]
        return bare_loop(guest.user_text(), guest.symbols["user_text_start"], entry, instructions, SLICE)

    def _guest_speed(self, row: str, instructions: int) -> float:
        """Instructions per host second while two processes of the guest compute."""
        runner = RowRunner(find_row(row), self.modes, self.settings)
        vm = runner.vm
        vm.console.feed(b"spin\n")
        cpi = vm.costs.timing.cpi
        vm.run(vm.now + 5_000_000 * cpi)

        def once() -> float:
            before = vm.machine.cpus[0].m.retired
            started = time.perf_counter()
            vm.run(vm.now + instructions * cpi)
            return (time.perf_counter() - started) / (vm.machine.cpus[0].m.retired - before)

        speed = 1 / _best(once)
        runner.close()
        return speed

    def _doorbell(self, count: int, card: Rung) -> float:
        """Host seconds for one write to a doorbell that is mapped into the guest."""
        code = b"\xb9" + count.to_bytes(4, "little") + b"\xa3" + (WINDOW + card.doorbell).to_bytes(4, "little")
        code += bytes.fromhex("4975f8faf4")  # mov ecx, count; 1: mov [doorbell], eax; dec ecx; jnz 1b; cli; hlt
        guest = Guest(Path("doorbells"), "", CODE, [Segment(CODE, len(code), code)], {}, b"")

        def once() -> float:
            vm = Vm({"cpu": self.modes["hw-assist"], card.column: self.modes["sriov"]}, guest, self.settings.costs)
            with closing(vm):
                functions = vm.board.pci.functions.values()
                (function,) = (function for function in functions if isinstance(function, AssignedFunction))
                for offset, value in ((BAR0, WINDOW), (COMMAND, COMMAND_MEMORY | COMMAND_MASTER)):
                    vm.board.pci.config_write(function, offset, 4, value)
                for register, value in card.registers:
                    function.write(0, register, 4, value)
                vm.machine.engine.state.regs[RAX] = 0
                cards = vm.machine.cards
                while cards is not None and cards.deadline != NEVER:
                    cards.advance(cards.deadline)
                started = time.perf_counter()
                vm.run()
                return (time.perf_counter() - started) / count

        return _best(once)

    def _seconds_between_marks(self, row: str, op: str, count: int = 100_000) -> float:
        """Host seconds for one operation of a short loop, without what a command costs besides: the best slice's."""
        name, *changes = row.split("+")
        best = float("inf")
        with closing(RowRunner(customize(find_row(name), changes, self.modes), self.modes, self.settings)) as runner:
            vm = runner.vm
            probe, cpu, cpi = vm.machine.probe, vm.machine.cpus[0], vm.costs.timing.cpi
            for _ in range(ROUNDS):
                vm.restore(runner.prompt)
                vm.console.feed(f"bench {op} {count} 0\n".encode())
                idle = False
                while not idle:
                    window, before, started = probe.window, cpu.m.retired, time.perf_counter()
                    idle = isinstance(vm.run(vm.now + SLICE * cpi), Idle)
                    if window & 1 and probe.window == window:
                        best = min(best, (time.perf_counter() - started) / (cpu.m.retired - before))
            return best * probe.windows[-1].retired / count

    def _seconds_per_op(self, row: str, op: str, count: int = 10_000) -> float:
        """Host seconds for one operation."""
        name, *changes = row.split("+")
        runner = RowRunner(customize(find_row(name), changes, self.modes), self.modes, self.settings)
        vm = runner.vm

        def once() -> float:
            vm.restore(runner.prompt)
            vm.console.feed(f"bench {op} {count} 0\n".encode())
            started = time.perf_counter()
            vm.run()
            return (time.perf_counter() - started) / count / 2  # two rounds

        seconds = _best(once)
        runner.close()
        return seconds

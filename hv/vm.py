"""A virtual machine: a row's modes, a guest, a machine, a board, the world outside, a ledger."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from hv.errors import HvError
from hv.host.console import Console, SerialEnd
from hv.host.outside import Outside
from hv.ledger import Ledger, LedgerState
from hv.loader import Guest, load_firmware
from hv.neighbours import Neighbours
from hv.silicon.fw_cfg import ITEM_CPUS, ITEM_KERNEL_DATA, ITEM_KERNEL_SIZE, ITEM_RAM_SIZE
from hv.silicon.x86_64.cpu import NEVER
from hv.silicon.x86_64.machine import HOLE, Idle, Machine, Outcome, Snapshot
from hv.silicon.x86_64.pc import Pc
from hv.silicon.x86_64.selftest import self_test
from hv.vcpu import Vcpu
from hv.x86_64.board import Board
from hv.x86_64.mp_table import write_mp_table
from hv.x86_64.pvh import write_start_info

if TYPE_CHECKING:
    from hv.costs import CostModel
    from hv.mode import Mode

MIB = 1 << 20
DEFAULT_MIB, SMALLEST_MIB = 64, 16
DEFAULT_CPUS = 2


class VmSnapshot(msgspec.Struct):
    """The whole state of a VM as plain records."""

    machine: Snapshot
    modes: list[Any]
    board: list[Any] | None  # None on metal, where it is the machine's
    outside: Any
    ledger: LedgerState


class Vm:
    """`run()` lets the guest run until something ends, pauses, or waits for input that nobody has typed.

    `modes` gives a mode for each column that the machine has; a mode alone stands for the cpu column and nothing else.
    """

    def __init__(
        self, modes: type[Mode] | Mapping[str, type[Mode]], guest: Guest, costs: CostModel, *, mib: int = DEFAULT_MIB,
        smp: int | None = None, portable: bool = False, outside: Outside | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:  # fmt: skip
        kinds = {"cpu": modes} if isinstance(modes, type) else dict(modes)
        cpu = kinds["cpu"]
        check_size(guest, mib)
        cpus = count_cpus(cpu, smp)
        self_test(costs.timing, portable=portable)
        self.guest, self.costs = guest, costs
        reasons = {"shutdown"}.union(*(kind.reasons for kind in kinds.values()))
        self.work = {reason: costs.work_of(reason) for reason in sorted(reasons)}
        self.outside = outside or Outside()
        self.neighbours = neighbours or Neighbours([self.outside])
        self.number = self.neighbours.join(self)
        self.machine = Machine(costs.timing, mib * MIB, ram_base=cpu.ram_base, cpus=cpus, portable=portable)
        self.ledger = Ledger(self.machine.probe)
        self.vcpus = [Vcpu(self, cpu) for cpu in self.machine.cpus]
        # Who owns the hardware finds the silicon's board, everybody else one that stands behind exits.
        owns_it = cpu.cells.get("cpu") == "H"
        self.board: Pc = self.machine.build_board(self.console.sink) if owns_it else Board(self)
        self.serial: SerialEnd = self.board.uart
        low = min(mib * MIB, HOLE)
        self.board.cmos.describe(low, mib * MIB - low, cpus)
        self._objects = {kind: kind(self) for kind in dict.fromkeys(kinds.values())}
        self.mode = self._objects[cpu]
        if not owns_it:
            self.machine.dma_written = self.mode.memory_written
        self.physical_interrupts: dict[int, Callable[[], None]] = {}  # who handles those of cards, by vector
        self.image = guest  # what is in memory when the CPU starts; the boot column may put a firmware there
        for column, kind in kinds.items():
            if column != "cpu":
                self._objects[kind].equip(column)
        self.start_info = 0
        self.mode.load(self.image)
        self.mode.start(self.image)
        self.machine.watch_marks(*guest.marks())

    def boot_firmware(self) -> None:
        """Let a firmware start the CPU and find the kernel, as on a PC. What happens until it is up is an operation."""
        image = self.guest.image
        self.image = load_firmware()
        self.board.fw_cfg.items |= {
            ITEM_RAM_SIZE: self.machine.ram_size.to_bytes(8, "little"),
            ITEM_CPUS: len(self.vcpus).to_bytes(2, "little"),
            ITEM_KERNEL_SIZE: len(image).to_bytes(4, "little"),
            ITEM_KERNEL_DATA: image,
        }
        self.machine.probe.open()

    @property
    def console(self) -> Console:
        """The other end of the serial line."""
        return self.outside.console

    def load(self, guest: Guest) -> None:
        """Put the image where it wants to be, and for a kernel that starts by itself the PVH start information."""
        for segment in guest.segments:
            self.write(segment.address, segment.data)
        if guest is self.guest:
            self.start_info = write_start_info(self.write, self.machine.ram_size, "")
            write_mp_table(self.write, len(self.machine.cpus))

    def write(self, address: int, data: bytes) -> None:
        """Write to guest-physical memory from outside, as a loader does."""
        self.machine.memory.write(self.mode_base + address, data)

    @property
    def mode_base(self) -> int:
        return self.machine.ram_base

    def run(self, budget: int = NEVER) -> Outcome:
        """Run until the end, until the guest waits for input, or until virtual time `budget` (millicycles)."""
        while True:
            outcome = self.machine.run(budget)
            if not (isinstance(outcome, Idle) and self.console.pump(self.serial)):
                return outcome

    @property
    def outlives(self) -> int:
        """When a card next acts by itself although the guest has ended."""
        cards = self.machine.cards
        return NEVER if cards is None or self.machine.ended is None else cards.deadline

    def outlive(self, until: int) -> None:
        """The guest has ended. Its cards go on, which others may share, and the hypervisor hears of interrupts."""
        self.machine.outlive(until)
        self.take_interrupts(0)

    def take_interrupts(self, cpu: int) -> None:
        """A physical interrupt has come to a CPU. If a card has sent it, its handler makes the guest's of it."""
        cards = self.machine.cards
        while cards is not None and (vector := cards.take_vector(cpu)) is not None:
            self.physical_interrupts[vector]()

    @property
    def now(self) -> int:
        """Virtual time in millicycles."""
        return self.machine.now

    def snapshot(self) -> VmSnapshot:
        """Everything, so that a run continued from it is the run that never stopped."""
        return VmSnapshot(
            machine=self.machine.snapshot(),
            modes=[copy.deepcopy(mode.state()) for mode in self._objects.values()],
            board=self.board.save() if isinstance(self.board, Board) else None,
            outside=self.outside.save(),
            ledger=copy.deepcopy(self.ledger.state),
        )

    def restore(self, saved: VmSnapshot) -> None:
        """Go back to a snapshot of this VM, or of one assembled in the same way."""
        self.machine.restore(saved.machine)
        if saved.board is not None:
            self.board.load(saved.board)
        for mode, state in zip(self._objects.values(), saved.modes, strict=True):
            mode.set_state(copy.deepcopy(state))
        self.outside.load(saved.outside)
        self.ledger.state = copy.deepcopy(saved.ledger)

    def close(self) -> None:
        """Finish the files outside, and give the memory back."""
        for mode in self._objects.values():
            mode.close()
        self.outside.close()
        self.machine.close()


def count_cpus(cpu: type[Mode], smp: int | None) -> int:
    """How many CPUs a guest gets who wants `smp`, or says nothing. Refuses more than the mode can give."""
    cpus = min(DEFAULT_CPUS, cpu.most_cpus) if smp is None else smp
    if not 1 <= cpus <= cpu.most_cpus:
        raise HvError(f"-smp takes 1 to {cpu.most_cpus} CPUs under {cpu.id}, not {cpus}")
    return cpus


def check_size(guest: Guest, mib: int) -> None:
    """Refuse a memory size that the guest does not fit in, or that the host does not have."""
    if mib < SMALLEST_MIB or mib % 2:
        raise HvError(f"-m takes an even number of MiB, {SMALLEST_MIB} or more, not {mib}")
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if mib * MIB > host * 3 // 4:
        raise HvError(f"-m {mib} is more than this host can give ({host * 3 // 4 // MIB} MiB)")
    if guest.segments[-1].address + guest.segments[-1].size > mib * MIB:
        raise HvError(f"guest {guest.path} does not fit in {mib} MiB")

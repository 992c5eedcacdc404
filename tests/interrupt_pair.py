"""The guest of pair_script.py in its machine, with the card and the device that it asks for interrupts."""

from __future__ import annotations

import struct

from hv.silicon.posted import Descriptor
from hv.silicon.x86_64.engine import BUS_BASE
from hv.silicon.x86_64.machine import MetalBoard
from hv.x86_64.board import Board
from modes.bare_metal import BareMetal
from modes.hw_assist.mode import HwAssist
from tests.pair_script import BLOCK, CAME, CARD, CODE, MACROS, OUTSIDE, PORTS, SCRIPTS, SENT, STUBS, VECTORS, Op, script
from tests.support import DATA, LAPIC, RawGuest, Where, two_cpus


class Pair:
    """Two CPUs, and a script for each."""

    def __init__(self, where: Where, scripts: tuple[list[Op], list[Op]]) -> None:
        memory = {DATA + at: script(ops) for at, ops in zip(SCRIPTS, scripts, strict=True)}
        self.guest = RawGuest(
            two_cpus(MACROS + CODE + STUBS), where, cpus=2, memory=memory,
            gates={vector: (f"h{vector:x}", {}) for vector in VECTORS},
        )  # fmt: skip
        self.vm, self.run, self.close = self.guest.vm, self.guest.run, self.guest.close
        board, mode, self.machine = self.vm.board, self.vm.mode, self.guest.machine
        assert isinstance(board, Board | MetalBoard)
        self.board, self.on_metal = board, where.mode is BareMetal
        board.ports.add(PORTS, 8, self)
        board.mmio.add(CARD, 0x1000, self)
        self.descriptors: list[Descriptor] = []
        if where.interrupts is not None:
            assert isinstance(mode, HwAssist)
            self.descriptors = [Descriptor(self.machine.memory, vmcb.posted_descriptor) for vmcb in mode.vmcbs]
            self.machine.engine.map_chip(BUS_BASE, 0x1000, self.mmio_read, self.mmio_write)
            mode.npt.map(CARD, BUS_BASE)

    def port_read(self, offset: int, size: int) -> int:
        return 0

    def port_write(self, offset: int, size: int, value: int) -> None:
        self.board.message(LAPIC | offset // 4 << 12, value & 0xFF)

    def mmio_read(self, offset: int, size: int) -> int:
        return 0

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        if self.descriptors:
            self.machine.post(self.descriptors[offset // 4], value & 0xFF)
        else:
            self.port_write(offset, size, value)

    def wake(self, cpu: int) -> None:
        """An interrupt from outside. The time is that of the CPU that has come furthest, also for one that sleeps."""
        if all(own.halted for own in self.machine.cpus):
            self.machine.sleep(self.vm.now)
        self.mmio_write(4 * cpu, 4, OUTSIDE[cpu])
        if not cpu and not self.descriptors and not self.on_metal:
            self.machine.cpus[0].host_interrupt = True

    def own(self, cpu: int, offset: int) -> int:
        return self._word(BLOCK * cpu + offset)

    def came(self, vector: int) -> int:
        return self._word(CAME + 4 * vector)

    def sent(self, vector: int) -> int:
        return self._word(SENT + 4 * vector)

    def _word(self, offset: int) -> int:
        return int(struct.unpack("<I", self.guest.read(DATA + offset, 4))[0])

"""The IDE function of a PIIX3 (Intel 82371FB/SB data sheet, 2.4 and 2.7): two ATA channels and their bus masters.

In compatibility mode: the channels are at the ports and on the interrupts of the PC/AT, whatever PCI says; window 4
holds the bus master registers. A channel answers when its IDETIM register has decoding enabled and the command
register I/O space. Simplified: timings (IDETIM's other bits, SIDETIM) are kept and have no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from hv.devices.ata_channel import Channel, ChannelState, ControlBlock
from hv.devices.ata_drive import Drive
from hv.devices.ata_state import DriveState
from hv.devices.ide_bus_master import BusMaster, BusMasterState
from hv.host.store import Store
from hv.silicon.bus import PortBus
from hv.silicon.pci import COMMAND_IO, Bar, Function, Header
from hv.silicon.timing import DiskTimes

INTEL, PIIX3_IDE = 0x8086, 0x7010
IDE_BUS_MASTER = 0x010180  # class: IDE controller in compatibility mode, bus master
IDETIM, SIDETIM = 0x40, 0x44
DECODE = 0x8000  # in IDETIM: the channel answers
BUS_MASTERS = 4  # the window; 8 bytes a channel


class Legacy(NamedTuple):
    """Where a channel is on a PC/AT."""

    command: int
    control: int
    irq: int


LEGACY = (Legacy(0x1F0, 0x3F6, 14), Legacy(0x170, 0x376, 15))
HEADER = Header(
    vendor=INTEL, device=PIIX3_IDE, class_code=IDE_BUS_MASTER, legacy_io=True, bars={BUS_MASTERS: Bar(16, io=True)}
)


class IdeState(msgspec.Struct):
    """Everything that the controller remembers, by channel."""

    channels: list[tuple[ChannelState, list[DriveState]]]
    masters: list[BusMasterState]


class Ide(Function):
    """`lines` are IRQ 14 and IRQ 15, `ports` the bus on which the legacy ports are."""

    def __init__(self, ports: PortBus, lines: tuple[Callable[[bool], None], Callable[[bool], None]]) -> None:
        super().__init__(HEADER)
        self.register(IDETIM, 2, 0, 0xFFFF)
        self.register(IDETIM + 2, 2, 0, 0xFFFF)
        self.register(SIDETIM, 1, 0, 0xFF)
        self.channels = [Channel(self._line(number, line), self._reschedule) for number, line in enumerate(lines)]
        self.masters = [BusMaster(lambda: self.slot, self._started(channel)) for channel in self.channels]
        self._deadline: int | None = None
        for number, (channel, legacy) in enumerate(zip(self.channels, LEGACY, strict=True)):
            ports.add(legacy.command, 8, Decoded(self, number, channel))
            ports.add(legacy.control, 1, Decoded(self, number, ControlBlock(channel)))

    def attach(self, number: int, device: int, store: Store, times: DiskTimes, model: str) -> None:
        """Put a drive on channel `number`, as device 0 or 1."""
        channel = self.channels[number]
        channel.drives[device] = Drive(
            store, times, model, device, lambda: self.slot.now, channel.update, self.masters[number]
        )

    def decodes(self, number: int) -> bool:
        """The channel answers at its legacy ports."""
        at = IDETIM + 2 * number
        return bool(self.command & COMMAND_IO and int.from_bytes(self.config[at : at + 2], "little") & DECODE)

    # --- wires ------------------------------------------------------------------------------------------------

    def _line(self, number: int, line: Callable[[bool], None]) -> Callable[[bool], None]:
        def drive(level: bool) -> None:
            if level:
                self.masters[number].interrupted()
            line(level)

        return drive

    def _started(self, channel: Channel) -> Callable[[], None]:
        def started() -> None:
            for drive in channel.present:
                drive.bus_master_started()

        return started

    def _reschedule(self) -> None:
        due = [channel.deadline for channel in self.channels]
        deadline = min((time for time in due if time is not None), default=None)
        if deadline != self._deadline:
            self._deadline = deadline
            self.slot.reschedule()

    @property
    def deadline(self) -> int | None:
        return self._deadline

    def advance(self, now: int) -> None:
        for channel in self.channels:
            channel.advance(now)

    # --- window 4 ---------------------------------------------------------------------------------------------

    def read(self, bar: int, offset: int, size: int) -> int:
        return sum(self._byte(offset + i) << 8 * i for i in range(size))

    def _byte(self, offset: int) -> int:
        return self.masters[offset >> 3].read(offset & 7) if offset < HEADER.bars[BUS_MASTERS].size else 0xFF

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        for at in range(offset, min(offset + size, HEADER.bars[BUS_MASTERS].size)):
            self.masters[at >> 3].write(at & 7, value >> 8 * (at - offset) & 0xFF)

    # --- snapshots --------------------------------------------------------------------------------------------

    @property
    def state(self) -> IdeState:
        return IdeState([channel.save() for channel in self.channels], [master.state for master in self.masters])

    @state.setter
    def state(self, state: IdeState) -> None:
        for channel, saved in zip(self.channels, state.channels, strict=True):
            channel.load(saved)
        for master, kept in zip(self.masters, state.masters, strict=True):
            master.state = kept
        self._reschedule()


class Decoded:
    """A register block at its legacy port, while the controller decodes it."""

    def __init__(self, ide: Ide, number: int, block: Channel | ControlBlock) -> None:
        self.ide, self.number, self.block = ide, number, block

    def port_read(self, offset: int, size: int) -> int:
        if not self.ide.decodes(self.number):
            return (1 << 8 * size) - 1
        return self.block.port_read(offset, size)

    def port_write(self, offset: int, size: int, value: int) -> None:
        if self.ide.decodes(self.number):
            self.block.port_write(offset, size, value)

    def port_read_string(self, offset: int, size: int, count: int) -> bytes | None:
        block = self.block
        if not isinstance(block, Channel) or not self.ide.decodes(self.number):
            return None
        return block.port_read_string(offset, size, count)

    def port_write_string(self, offset: int, size: int, data: bytes) -> bool:
        block = self.block
        return (
            isinstance(block, Channel) and self.ide.decodes(self.number) and block.port_write_string(offset, size, data)
        )

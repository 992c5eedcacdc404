"""What the parts of the 82540EM share: the registers, the timers, the way to memory and to the wire.

Every part is told of the time by `now`. While the chip catches up with its timers, that is the time of each timer, not
of the look at them, so that a late look changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from hv.devices.e1000.registers import AT, PBA
from hv.silicon.device import Slot
from hv.silicon.memory import BusError

NS_PER_SECOND = 10**9
ALL_ONES = b"\xff"


class SerialState(msgspec.Struct):
    """The EEPROM's serial port."""

    bits: int = 0  # shifted in since chip select, a one in front
    out: int = 1  # the level of its data output
    reading: int | None = None  # the word that is being shifted out
    shifted: int = 0  # bits of it that are out
    writes_enabled: bool = False


class OffloadState(msgspec.Struct):
    """The two contexts of the transmitter, and what the packet in the making asks for."""

    checksum: bytes = bytes(16)  # context descriptors as they came
    segmentation: bytes = bytes(16)
    started: bool = False
    options: int = 0  # POPTS
    tag: int | None = None  # VLAN tag to insert
    header: bytes = b""  # the prototype, from which segments are made
    segments: int = 0  # that have left
    sent: int = 0  # bytes of payload in them


class ChipState(msgspec.Struct):
    """Everything that the chip remembers."""

    registers: dict[int, int] = {}  # by offset; those that are not here have their reset value
    timers: dict[str, int] = {}  # when each goes off, in millicycles
    line: bool = False  # the interrupt pin
    quiet_until: int = 0  # no new interrupt before then (ITR)
    io_address: int = 0  # IOADDR
    phy: dict[int, int] = {}
    phy_link: bool = True
    link_was_lost: bool = False  # since the PHY was last asked
    eeprom: list[int] = []  # 64 words of 16 bits
    serial: SerialState = msgspec.field(default_factory=SerialState)
    receive_fifo: list[bytes] = []  # frames that wait for descriptors, without their FCS
    receive_done: int = 0  # bytes of the first of them that are stored
    asked_to_pause: bool = False  # we have sent XOFF
    wire_free: int = 0  # when the last frame has left
    packet: bytearray = msgspec.field(default_factory=bytearray)  # that the transmitter is putting together
    descriptor_done: int = 0  # bytes taken from the transmit descriptor at the head
    offload: OffloadState = msgspec.field(default_factory=OffloadState)


class Chip:
    """Registers by offset. `send(frame, at)` puts a frame, without its FCS, on the wire at a time."""

    slot: Slot

    def __init__(self, tsc_hz: int) -> None:
        self.tsc_hz = tsc_hz
        self.send: Callable[[bytes, int], None] = lambda frame, at: None  # no cable
        self.state = ChipState()
        self.catching_up: int | None = None

    # --- registers --------------------------------------------------------------------------------------------

    def __getitem__(self, offset: int) -> int:
        value = self.state.registers.get(offset)
        return AT[offset].reset if value is None else value

    def __setitem__(self, offset: int, value: int) -> None:
        self.state.registers[offset] = value & 0xFFFF_FFFF

    def store(self, offset: int, value: int) -> None:
        """A write by software: only the bits that it may change."""
        writable = AT[offset].writable
        self[offset] = self[offset] & ~writable | value & writable

    def forget(self) -> None:
        """The registers' part of a reset."""
        registers = self.state.registers
        self.state.registers = {offset: value for offset, value in registers.items() if AT[offset].kept}

    # --- time -------------------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        return self.slot.now if self.catching_up is None else self.catching_up

    def span(self, ns: int) -> int:
        """Nanoseconds in millicycles."""
        return ns * self.tsc_hz * 1000 // NS_PER_SECOND

    def start(self, timer: str, at: int) -> None:
        self.state.timers[timer] = at
        self.slot.reschedule()

    def stop(self, timer: str) -> None:
        if self.state.timers.pop(timer, None) is not None:
            self.slot.reschedule()

    # --- memory -----------------------------------------------------------------------------------------------

    def dma_read(self, address: int, size: int) -> bytes:
        """As a PCI master sees it: where nobody answers, all ones (PCI 2.2, 3.3.3.1)."""
        try:
            return self.slot.read(address & (1 << 64) - 1, size)
        except BusError:
            return ALL_ONES * size

    def dma_write(self, address: int, data: bytes) -> None:
        """Where nobody answers, nobody takes it."""
        with contextlib.suppress(BusError):
            self.slot.write(address & (1 << 64) - 1, data)

    @property
    def receive_room(self) -> int:
        """Bytes of the packet buffer that hold received frames (PBA)."""
        return (self[PBA] & 0x3F) << 10

"""PCI: a bus of cards that say themselves what they are and are told where to be (PCI Local Bus Specification 2.2).

A card is a `Function` with a type 0 header. The bus is reached by configuration mechanism #1 (3.2.2.3.2): ports 0xCF8
and 0xCFC. Interrupt pins lead to four wires, PIRQA to PIRQD, as the slots of Intel's 440FX boards do; the ISA bridge
routes each wire to an IRQ of the interrupt controllers (82371SB data sheet, PIRQRC).
What PCI Express adds is in pcie.py and sriov.py.
Simplified: no bridges, so all buses are one, whose functions are named by bus << 8 | device << 3 | function; 32-bit
base addresses, no expansion ROMs, no parity or system errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from hv.silicon.bus import MmioBus, MmioRange, PortBus, PortRange
from hv.silicon.device import Slot
from hv.silicon.memory import BusError

CONFIG_ADDRESS, CONFIG_DATA = 0xCF8, 0xCFC
# Header offsets (PCI 2.2, 6.1 and 6.2).
VENDOR, COMMAND, STATUS, REVISION, CACHE_LINE, HEADER = 0, 4, 6, 8, 12, 14
BAR0, SUBSYSTEM_VENDOR, CAPABILITIES, INTERRUPT_LINE, INTERRUPT_PIN = 0x10, 0x2C, 0x34, 0x3C, 0x3D
COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER, COMMAND_PARITY, COMMAND_SERR = 1, 2, 4, 0x40, 0x100
STATUS_CAPABILITIES, STATUS_ERRORS = 0x10, 0xF900  # the latter are cleared by writing ones
MULTIFUNCTION = 0x80
PIRQS = 4


class Bar(msgspec.Struct, frozen=True):
    """An address window of a card: so many bytes (a power of two) of memory or of I/O space."""

    size: int
    io: bool = False
    prefetchable: bool = False


class Header(msgspec.Struct, frozen=True):
    """What a card says of itself. `pin`: 0 no interrupt, 1 to 4 INTA to INTD. `bars` by number, 0 to 5."""

    vendor: int
    device: int
    class_code: int  # 24 bits: class, subclass, programming interface
    revision: int = 0
    subsystem_vendor: int = 0
    subsystem: int = 0
    pin: int = 0
    multifunction: bool = False
    legacy_io: bool = False  # it has I/O ports besides those of its windows, which the command register switches on
    bars: Mapping[int, Bar] = {}


class Function:
    """A card's function. A subclass gives the registers behind its windows, and `state` if it remembers anything."""

    config_size: ClassVar[int] = 256
    slot: Slot  # where it is plugged in
    state: Any = None
    bus: PciBus
    present = True  # it answers in configuration space
    followers: Sequence[tuple[int, Function]] = ()  # functions that come with it, and how far behind it they are

    def __init__(self, header: Header) -> None:
        self.header = header
        self.config, self._writable = bytearray(self.config_size), bytearray(self.config_size)
        io = header.legacy_io or any(bar.io for bar in header.bars.values())
        memory = not all(bar.io for bar in header.bars.values())
        self._put(VENDOR, 4, header.vendor | header.device << 16)
        command = io * COMMAND_IO | memory * COMMAND_MEMORY | COMMAND_MASTER | COMMAND_PARITY | COMMAND_SERR
        self._put(COMMAND, 2, 0, command)
        self._put(REVISION, 4, header.class_code << 8 | header.revision)
        self._put(CACHE_LINE, 2, 0, 0xFFFF)
        self._put(HEADER, 1, MULTIFUNCTION if header.multifunction else 0)
        for number, bar in header.bars.items():
            kind = 1 if bar.io else 8 * bar.prefetchable
            self._put(BAR0 + 4 * number, 4, kind, -bar.size & (0xFFFF_FFFC if bar.io else 0xFFFF_FFF0))
        self._put(SUBSYSTEM_VENDOR, 4, header.subsystem_vendor | header.subsystem << 16)
        self._put(INTERRUPT_LINE, 1, 0, 0xFF if header.pin else 0)
        self._put(INTERRUPT_PIN, 1, header.pin)

    def _put(self, offset: int, size: int, value: int, writable: int = 0) -> None:
        self.config[offset : offset + size] = value.to_bytes(size, "little")
        self._writable[offset : offset + size] = writable.to_bytes(size, "little")

    # --- for a subclass ---------------------------------------------------------------------------------------

    def register(self, offset: int, size: int, value: int = 0, writable: int = 0) -> None:
        """A register of its own in configuration space: first value, and the bits that a write changes."""
        self._put(offset, size, value, writable)

    def capability(self, offset: int, id: int, body: bytes, writable: bytes = b"") -> None:
        """Put a capability (PCI 2.2, 6.7) at `offset`, in front of those that are there already."""
        first = self.config[CAPABILITIES]
        self._put(offset, 2, id | first << 8)
        self.config[offset + 2 : offset + 2 + len(body)] = body
        self._writable[offset + 2 : offset + 2 + len(writable)] = writable
        self.config[CAPABILITIES] = offset
        self.config[STATUS] |= STATUS_CAPABILITIES

    def configured(self, offset: int, size: int) -> None:
        """The guest has written to configuration space."""

    def read(self, bar: int, offset: int, size: int) -> int:
        """A register behind window `bar`."""
        return (1 << 8 * size) - 1

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """The same, a write."""

    @property
    def deadline(self) -> int | None:
        return None

    def advance(self, now: int) -> None:
        pass

    # --- for the bus ------------------------------------------------------------------------------------------

    @property
    def command(self) -> int:
        return int.from_bytes(self.config[COMMAND : COMMAND + 2], "little")

    def bar_address(self, number: int) -> int | None:
        """Where the window is, or None while it is switched off or has no place."""
        bar = self.header.bars[number]
        at = BAR0 + 4 * number
        address = int.from_bytes(self.config[at : at + 4], "little") & (~3 if bar.io else ~15)
        on = self.command & (COMMAND_IO if bar.io else COMMAND_MEMORY)
        end = 1 << (16 if bar.io else 32)
        return address if on and 0 < address <= end - bar.size else None

    def config_read(self, offset: int, size: int) -> int:
        if offset + size > len(self.config):
            return (1 << 8 * size) - 1
        return int.from_bytes(self.config[offset : offset + size], "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        if offset + size > len(self.config):
            return
        for at, byte in enumerate(value.to_bytes(size, "little"), offset):
            if at in (STATUS, STATUS + 1):
                self.config[at] &= ~(byte & STATUS_ERRORS >> 8 * (at - STATUS) & 0xFF)
            else:
                writable = self._writable[at]
                self.config[at] = self.config[at] & ~writable | byte & writable


class Window:
    """A card's window on a bus."""

    def __init__(self, function: Function, bar: int) -> None:
        self.function, self.bar = function, bar

    def port_read(self, offset: int, size: int) -> int:
        return self.function.read(self.bar, offset, size)

    def port_write(self, offset: int, size: int, value: int) -> None:
        self.function.write(self.bar, offset, size, value)

    mmio_read, mmio_write = port_read, port_write


class PciSlot:
    """The machine from a card's place: DMA while it may be bus master, an interrupt pin."""

    def __init__(self, bus: PciBus, function: Function, wire: int, outside: Slot) -> None:
        self.bus, self.function, self.wire, self.outside = bus, function, wire, outside
        self.number = bus.source()

    @property
    def now(self) -> int:
        return self.outside.now

    def read(self, address: int, size: int) -> bytes:
        self._master(address)
        return self.outside.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        self._master(address)
        self.outside.write(address, data)

    def _master(self, address: int) -> None:
        if not self.function.config[COMMAND] & COMMAND_MASTER:
            raise BusError(f"a card that is no bus master wants {address:#x}")

    def interrupt(self, level: bool) -> None:
        if self.function.header.pin:
            self.bus.pin(self.number, self.wire, level)

    def reschedule(self) -> None:
        self.outside.reschedule()


class PciState(msgspec.Struct):
    """Everything that the bus remembers: the address register, and who pulls which wire (a bit a wire)."""

    address: int = 0
    levels: list[int] = []
    configs: dict[int, bytes] = {}


class PciBus:
    """`wired(wire, level)` is told of each change of PIRQA to PIRQD (0 to 3)."""

    def __init__(self, ports: PortBus, mmio: MmioBus, wired: Callable[[int, bool], None]) -> None:
        self.ports, self.mmio, self.wired = ports, mmio, wired
        self.functions: dict[int, Function] = {}  # by bus << 8 | device << 3 | function
        self._claimed: list[PortRange | MmioRange] = []
        self._state = PciState()
        ports.add(CONFIG_ADDRESS, 4, _AddressPort(self))
        ports.add(CONFIG_DATA, 4, _DataPort(self))

    def plug(self, function: Function, place: int, outside: Slot) -> None:
        """Put a card's function into a slot. `outside` is what the slot is connected to."""
        self.functions[place] = function
        wire = (function.header.pin - 1 + (place >> 3) - 1) % PIRQS
        function.bus, function.slot = self, PciSlot(self, function, wire, outside)

    @property
    def address(self) -> int:
        """The address register."""
        return self._state.address

    @address.setter
    def address(self, value: int) -> None:
        self._state.address = value

    # --- interrupts -------------------------------------------------------------------------------------------

    def source(self) -> int:
        """A number for one more that drives wires, one at a time."""
        self._state.levels.append(0)
        return len(self._state.levels) - 1

    def pin(self, source: int, wire: int, level: bool) -> None:
        """A card drives its pin; a wire is high while any of its cards pulls it."""
        if self._state.levels[source] == level << wire:
            return
        before = self.level(wire)
        self._state.levels[source] = level << wire
        if self.level(wire) != before:
            self.wired(wire, level)

    def level(self, wire: int) -> bool:
        return any(levels >> wire & 1 for levels in self._state.levels)

    # --- configuration ----------------------------------------------------------------------------------------

    def find(self, place: int) -> Function | None:
        """The function that answers there."""
        function = self.functions.get(place)
        return function if function is not None and function.present else None

    def selected(self) -> Function | None:
        """The function that the address register names."""
        return self.find(self.address >> 8 & 0xFFFF) if self.address >> 31 else None

    def config_write(self, function: Function, offset: int, size: int, value: int) -> None:
        before = bytes(function.config[COMMAND : BAR0 + 24])
        function.config_write(offset, size, value)
        if bytes(function.config[COMMAND : BAR0 + 24]) != before:
            self.remap()
        function.configured(offset, size)

    def remap(self) -> None:
        """The windows of all cards, where they are now."""
        for claimed in self._claimed:
            if isinstance(claimed, PortRange):
                self.ports.remove(claimed)
            else:
                self.mmio.remove(claimed)
        self._claimed.clear()
        for _, function in sorted(self.functions.items()):
            for number, bar in function.header.bars.items():
                address = function.bar_address(number)
                if address is not None:
                    bus = self.ports if bar.io else self.mmio
                    self._claimed.append(bus.add(address, bar.size, Window(function, number)))

    # --- snapshots --------------------------------------------------------------------------------------------

    @property
    def state(self) -> PciState:
        self._state.configs = {at: bytes(function.config) for at, function in self.functions.items()}
        return self._state

    @state.setter
    def state(self, state: PciState) -> None:
        self._state = state
        for at, function in self.functions.items():
            function.config[:] = state.configs[at]
        self.remap()


class _AddressPort:
    """0xCF8: only whole words reach it; smaller accesses are somebody else's (PCI 2.2, 3.2.2.3.2)."""

    def __init__(self, bus: PciBus) -> None:
        self.bus = bus

    def port_read(self, offset: int, size: int) -> int:
        return self.bus.address if (offset, size) == (0, 4) else (1 << 8 * size) - 1

    def port_write(self, offset: int, size: int, value: int) -> None:
        if (offset, size) == (0, 4):
            self.bus.address = value & 0x80FF_FFFC


class _DataPort:
    """0xCFC to 0xCFF: a window onto four bytes of configuration space."""

    def __init__(self, bus: PciBus) -> None:
        self.bus = bus

    def port_read(self, offset: int, size: int) -> int:
        function = self.bus.selected()
        if function is None or offset + size > 4:
            return (1 << 8 * size) - 1
        return function.config_read(self.bus.address & 0xFC | offset, size)

    def port_write(self, offset: int, size: int, value: int) -> None:
        function = self.bus.selected()
        if function is not None and offset + size <= 4:
            self.bus.config_write(function, self.bus.address & 0xFC | offset, size, value)

"""The Intel 82540EM, a gigabit Ethernet controller of 2002 (PCI/PCI-X Family of Gigabit Ethernet Controllers Software
Developer's Manual, 317453), register by register: what a driver reads and writes, and what then happens.

It is a device of software: what a register access starts is done before the access is over; what the line brings, or
holds up, comes by its timers, in virtual time.
Simplified: no flash and no expansion ROM, no wake-up, no management controller, no parity errors; accesses of less than
a whole register read their part of it and write nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hv.devices.e1000 import registers as reg
from hv.devices.e1000.chip import Chip, ChipState
from hv.devices.e1000.eeprom import Eeprom, contents
from hv.devices.e1000.flow import Flow
from hv.devices.e1000.interrupts import Interrupts
from hv.devices.e1000.phy import Phy
from hv.devices.e1000.receive import Receiver
from hv.devices.e1000.statistics import Statistics
from hv.devices.e1000.transmit import Transmitter
from hv.silicon.device import Slot
from hv.silicon.ethernet.register import ALL, read_part, write_whole
from hv.silicon.pci import Bar, Function, Header

VENDOR, DEVICE = 0x8086, 0x100E
MEMORY_BAR, IO_BAR = 0, 2
HEADER = Header(
    VENDOR, DEVICE, class_code=0x02_0000, revision=2, subsystem_vendor=VENDOR, subsystem=DEVICE, pin=1,
    bars={MEMORY_BAR: Bar(128 << 10), IO_BAR: Bar(8, io=True)},
)  # fmt: skip
IO_ADDRESS, IO_DATA = 0, 4  # in the I/O window: which register, and it (13.2.1)
MAC_LOOPBACK = (1, 3)  # RCTL.LBM


class E1000(Function):
    """A PCI card. What it sends goes to `connect`'s `send`; what arrives is given to `receive`."""

    def __init__(self, tsc_hz: int, mac: bytes) -> None:
        super().__init__(HEADER)
        self.chip = chip = Chip(tsc_hz)
        self.interrupts = Interrupts(chip)
        self.phy = Phy(chip, self.interrupts)
        self.eeprom = Eeprom(chip)
        self.statistics = Statistics(chip)
        self.transmitter = Transmitter(chip, self.interrupts, self.statistics, self.phy, self._loop)
        self.flow = Flow(chip, self.statistics, self.phy, self.transmitter.control)
        self.receiver = Receiver(chip, self.interrupts, self.statistics, self.flow)
        chip.state.eeprom = contents(mac, VENDOR, DEVICE)
        self.eeprom.load_address()
        # When timers go off at the same moment, they do in this order.
        self.timers: dict[str, Callable[[], None]] = {
            "link": self._link_up,
            "pause": self.transmitter.work,
            "fetch": self.transmitter.work,
            "receive packet": lambda: self.interrupts.delay_over("receive"),
            "receive absolute": lambda: self.interrupts.delay_over("receive"),
            "transmit packet": lambda: self.interrupts.delay_over("transmit"),
            "transmit absolute": lambda: self.interrupts.delay_over("transmit"),
            "throttle": self.interrupts.update,
        }
        # Registers that do something when they are read or written; the others only keep what is written.
        self.on_read: dict[int, Callable[[], int]] = {
            reg.STATUS: self._status,
            reg.EECD: self.eeprom.read_eecd,
            reg.ICR: self.interrupts.read_cause,
            reg.ICS: lambda: 0,
            reg.IMC: lambda: 0,
            reg.PBA: lambda: chip[reg.PBA] | 64 - chip[reg.PBA] << 16,
            **{at: partial(self.statistics.read, at) for at in range(reg.STATISTICS, reg.STATISTICS_END, 4)},
        }
        self.on_write: dict[int, Callable[[int], None]] = {
            reg.CTRL: self._write_ctrl,
            reg.CTRL_EXT: self._write_ctrl_ext,
            reg.EECD: self.eeprom.write_eecd,
            reg.EERD: self.eeprom.write_eerd,
            reg.MDIC: self.phy.write_mdic,
            reg.ICR: self.interrupts.clear_cause,
            reg.ICS: self.interrupts.raise_cause,
            reg.IMS: lambda value: self.interrupts.mask(on=value),
            reg.IMC: lambda value: self.interrupts.mask(off=value),
            reg.TCTL: self._write_tctl,
            reg.RDTR: lambda value: self._write_delay(reg.RDTR, value, "receive"),
            reg.TIDV: lambda value: self._write_delay(reg.TIDV, value, "transmit"),
            **{at: self._store_and(at, self.transmitter.work) for at in (reg.TDLEN, reg.TDH, reg.TDT)},
            **{at: self._store_and(at, self.receiver.work) for at in (reg.RCTL, reg.RDLEN, reg.RDT)},
        }

    # --- the machine's side -----------------------------------------------------------------------------------

    def connect(self, send: Callable[[bytes, int], None]) -> None:
        """Plug in the cable: `send(frame, at)` takes a frame, without FCS, that has left at a moment of time."""
        self.chip.send = send

    @property
    def slot(self) -> Slot:
        return self.chip.slot

    @slot.setter
    def slot(self, slot: Slot) -> None:
        self.chip.slot = slot

    @property
    def state(self) -> ChipState:
        return self.chip.state

    @state.setter
    def state(self, state: ChipState) -> None:
        self.chip.state = state

    def read(self, bar: int, offset: int, size: int) -> int:
        return read_part(partial(self._read_word, bar), offset, size)

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        write_whole(partial(self._write_word, bar), offset, size, value)

    def _read_word(self, bar: int, at: int) -> int:
        if bar == MEMORY_BAR:
            return self.read_register(at)
        if at == IO_DATA:
            return self.read_register(self.state.io_address)
        return self.state.io_address if at == IO_ADDRESS else ALL

    def _write_word(self, bar: int, at: int, value: int) -> None:
        if bar == MEMORY_BAR:
            self.write_register(at, value)
        elif at == IO_DATA:
            self.write_register(self.state.io_address, value)
        elif at == IO_ADDRESS:
            self.state.io_address = value

    # --- registers --------------------------------------------------------------------------------------------

    def read_register(self, offset: int) -> int:
        """Where there is none: 0."""
        offset = reg.ALIASES.get(offset, offset)
        special = self.on_read.get(offset)
        if special is not None:
            return special()
        return self.chip[offset] if offset in reg.AT else 0

    def write_register(self, offset: int, value: int) -> None:
        offset = reg.ALIASES.get(offset, offset)
        special = self.on_write.get(offset)
        if special is not None:
            special(value)
        elif offset in reg.AT:
            self.chip.store(offset, value)

    def _store_and(self, offset: int, act: Callable[[], None]) -> Callable[[int], None]:
        def write(value: int) -> None:
            self.chip.store(offset, value)
            act()

        return write

    def _status(self) -> int:
        speed = self.phy.speed
        value = speed << reg.STATUS_SPEED_SHIFT | speed << reg.STATUS_ASDV_SHIFT
        value |= reg.STATUS_FD if self.chip[reg.CTRL] & reg.CTRL_FD else 0
        value |= reg.STATUS_TXOFF if "pause" in self.state.timers else 0
        return value | (reg.STATUS_LU if self.phy.link else 0)

    def _write_ctrl(self, value: int) -> None:
        link = self.phy.link
        if value & reg.CTRL_PHY_RST:
            self.phy.reset()
        if value & reg.CTRL_RST:
            self.reset()
            return
        self.chip.store(reg.CTRL, value & ~reg.CTRL_PHY_RST)
        if self.phy.link != link:
            self.interrupts.raise_cause(reg.LSC)
            self.transmitter.work()

    def _write_ctrl_ext(self, value: int) -> None:
        self.chip.store(reg.CTRL_EXT, value & ~reg.CTRL_EXT_EE_RST)
        if value & reg.CTRL_EXT_EE_RST:
            self.eeprom.load_address()

    def _write_tctl(self, value: int) -> None:
        off = value & ~self.chip[reg.TCTL] & reg.TCTL_SWXOFF
        self.chip.store(reg.TCTL, value)
        if off and self.chip[reg.CTRL] & reg.CTRL_TFCE:
            self.flow.ask(True)
        self.transmitter.work()

    def _write_delay(self, register: int, value: int, name: str) -> None:
        self.chip.store(register, value)
        if value & reg.DELAY_FLUSH and f"{name} packet" in self.state.timers:
            self.interrupts.delay_over(name)

    def reset(self) -> None:
        """CTRL.RST: the MAC as after power-on. The PHY, the tables of addresses' hashes and PBA stay (13.4.1)."""
        chip, s = self.chip, self.chip.state
        chip.forget()
        self.transmitter.reset()
        self.receiver.reset()
        for timer in [name for name in s.timers if name != "link"]:
            chip.stop(timer)
        s.quiet_until = 0
        s.asked_to_pause = False
        self.eeprom.load_address()
        self.interrupts.update()

    # --- time and the line ------------------------------------------------------------------------------------

    @property
    def deadline(self) -> int | None:
        return min(self.state.timers.values(), default=None)

    def advance(self, now: int) -> None:
        """Let the timers go off that are due, each at its own time."""
        timers = self.state.timers
        while timers and (when := min(timers.values())) <= now:
            name = next(name for name in self.timers if timers.get(name) == when)
            self.chip.stop(name)
            self._at(when, self.timers[name])

    def receive(self, frame: bytes, at: int) -> None:
        """A frame, without its FCS, has come in from the wire."""
        self.advance(at)
        if self.phy.link and not self._looped:
            self._at(at, lambda: self.receiver.receive(frame))

    def _at(self, when: int, act: Callable[[], None]) -> None:
        self.chip.catching_up = when
        try:
            act()
        finally:
            self.chip.catching_up = None

    def _link_up(self) -> None:
        self.phy.change_link(True)
        self.transmitter.work()

    @property
    def _looped(self) -> bool:
        return self.chip[reg.RCTL] >> reg.RCTL_LBM_SHIFT & 3 in MAC_LOOPBACK or self.phy.looped

    def _loop(self, frame: bytes) -> bool:
        if self._looped:
            self.receiver.receive(frame)
        return self._looped

"""An ATA channel: one cable with up to two drives, and the two register blocks through which a host sees them.

ATA/ATAPI-5, 7 (registers), 9.16 (a drive that answers for one that is absent). The command block is eight bytes with a
16-bit data port at 0; of the control block this is the one byte at 0x3F6 or 0x376. Wider accesses come in pieces, as
an ISA bus splits them; the data port takes 16 bits at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hv.devices.ata_drive import Drive
from hv.devices.ata_state import COMMAND, DATA, DEV, DEVICE, DIAGNOSTIC, READY, DriveState

NO_IEN, SRST, HOB = 0x02, 0x04, 0x80  # device control register
NO_CABLE = 0x7F  # nobody drives the bus; a resistor pulls DD7 down (ATA/ATAPI-5, 4.2)


class ChannelState(msgspec.Struct):
    """Everything that the channel remembers."""

    device: int = 0  # the device register as last written
    control: int = 0
    line: bool = False


class Channel:
    """`line(level)` is INTRQ as the host sees it, `rescheduled()` says that `deadline` may have moved."""

    def __init__(self, line: Callable[[bool], None], rescheduled: Callable[[], None]) -> None:
        self.line, self.rescheduled = line, rescheduled
        self.drives: list[Drive | None] = [None, None]
        self.state = ChannelState()

    @property
    def present(self) -> list[Drive]:
        return [drive for drive in self.drives if drive is not None]

    @property
    def selected(self) -> Drive | None:
        return self.drives[bool(self.state.device & DEV)]

    @property
    def deadline(self) -> int | None:
        """When the first drive has something to do."""
        return min((drive.state.due for drive in self.present if drive.state.due is not None), default=None)

    def advance(self, now: int) -> None:
        for drive in self.present:
            drive.advance(now)

    def update(self) -> None:
        """A drive has changed: drive the interrupt line, which only the selected one reaches."""
        s, drive = self.state, self.selected
        level = drive is not None and drive.state.irq and not s.control & NO_IEN
        if level != s.line:
            s.line = level
            self.line(level)
        self.rescheduled()

    # --- the command block ------------------------------------------------------------------------------------

    def port_read(self, offset: int, size: int) -> int:
        if offset == DATA:
            return int.from_bytes(self._fetch(max(size, 2))[:size], "little")
        return sum(self._read(offset + i) << 8 * i for i in range(size))

    def port_write(self, offset: int, size: int, value: int) -> None:
        if offset == DATA:
            self._bring((value & (1 << 8 * size) - 1).to_bytes(max(size, 2), "little"))
            return
        for i in range(size):
            self._write(offset + i, value >> 8 * i & 0xFF)

    def port_read_string(self, offset: int, size: int, count: int) -> bytes | None:
        """REP INS from the data port in one piece. None: element by element, please."""
        return self._fetch(size * count) if offset == DATA and size > 1 else None

    def port_write_string(self, offset: int, size: int, data: bytes) -> bool:
        """REP OUTS, likewise."""
        if offset != DATA or size == 1:
            return False
        self._bring(data)
        return True

    def _fetch(self, size: int) -> bytes:
        drive = self.selected
        return b"\xff" * size if drive is None else drive.read_data(size)

    def _bring(self, data: bytes) -> None:
        if self.selected is not None:
            self.selected.write_data(data)

    def _read(self, register: int) -> int:
        if register > COMMAND:
            return 0xFF
        if not self.present:
            return NO_CABLE
        drive = self.selected
        if drive is None:  # device 0 answers for a device 1 that is not there, and shows no status
            return 0 if register == COMMAND else self.present[0].read(register, high=bool(self.state.control & HOB))
        if register == DEVICE:
            return drive.state.registers[DEVICE] & ~DEV | self.state.device & DEV
        return drive.read(register, high=bool(self.state.control & HOB))

    def _write(self, register: int, value: int) -> None:
        """Both drives take what is written; the selected one obeys a command."""
        s = self.state
        s.control &= ~HOB
        if register == COMMAND:
            self._command(value)
        elif register < COMMAND and all(drive.state.phase == READY for drive in self.present):
            for drive in self.present:
                drive.write(register, value)
            if register == DEVICE:
                s.device = value
                self.update()

    def _command(self, code: int) -> None:
        if code == DIAGNOSTIC:
            self.state.device &= ~DEV  # device 0 reports for both
            for drive in self.present:
                drive.diagnose()
            self.update()
        elif self.selected is not None:
            self.selected.execute(code)

    # --- the control block ------------------------------------------------------------------------------------

    def alternate_status(self) -> int:
        """The status; reading it here leaves the interrupt alone."""
        if not self.present:
            return NO_CABLE
        return 0 if self.selected is None else self.selected.state.status

    def write_control(self, value: int) -> None:
        s = self.state
        before, s.control = s.control, value & (NO_IEN | SRST | HOB)
        if value & SRST and not before & SRST:
            s.device = 0
            for drive in self.present:
                drive.hold_reset()
        elif before & SRST and not value & SRST:
            for drive in self.present:
                drive.release_reset()
        self.update()

    # --- snapshots --------------------------------------------------------------------------------------------

    def save(self) -> tuple[ChannelState, list[DriveState]]:
        return self.state, [drive.state for drive in self.present]

    def load(self, saved: tuple[ChannelState, list[DriveState]]) -> None:
        self.state, drives = saved
        for drive, state in zip(self.present, drives, strict=True):
            drive.state = state


class ControlBlock:
    """The channel's control block as a chip on the port bus: one byte."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def port_read(self, offset: int, size: int) -> int:
        return self.channel.alternate_status() | (1 << 8 * size) - 1 & ~0xFF

    def port_write(self, offset: int, size: int, value: int) -> None:
        self.channel.write_control(value & 0xFF)

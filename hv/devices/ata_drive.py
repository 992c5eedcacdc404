"""An ATA disk drive, register level: ATA/ATAPI-5 (T13/1321D), 48-bit commands after ATA/ATAPI-6 (T13/1410D).

It knows neither its controller nor its port. Sectors come from a block store, latencies from a cost model. Data for
DMA goes through a `BusMaster`; while it has none to talk to, the drive waits, as the real one does.
Simplified: no SMART, security, host protected area or overlapped commands; the buffer of a block is ready for data as
soon as the command is there; reads after a power-down do not wait for a spindle.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.devices.ata_address import show_address
from hv.devices.ata_identify import DEFAULT_GEOMETRY, MODES, MOST_MULTIPLE, PIO_FLOW, Geometry, identify
from hv.devices.ata_state import (
    ABRT,
    ACTIVE,
    COMMAND,
    COUNT,
    DATA_IN,
    DEVICE,
    DF,
    DIAGNOSTIC,
    DMA,
    DRDY,
    DRQ,
    DSC,
    FEATURE,
    FETCHING,
    FLUSHES,
    HEAD,
    PASSED,
    POWER,
    READS,
    READY,
    RESETTING,
    SECTOR_READS,
    SLEEP,
    STORING,
    UNC,
    VERIFIES,
    WORKING,
)
from hv.devices.ata_transfer import CHUNK, BusMaster, Transfers
from hv.host.store import Store, StoreError
from hv.silicon.timing import DiskTimes


class Drive(Transfers):
    """`changed()` is called when its interrupt or its due time may have changed, `now()` gives virtual time."""

    def __init__(
        self, store: Store, times: DiskTimes, model: str, number: int, now: Callable[[], int],
        changed: Callable[[], None], bus_master: BusMaster,
    ) -> None:  # fmt: skip
        super().__init__(store, times, now, changed, bus_master)
        self.model, self.number = model, number
        self._signature()

    # --- registers --------------------------------------------------------------------------------------------

    def read(self, offset: int, *, high: bool) -> int:
        """A command block register but the data port; `high`: what was in it before (HOB)."""
        s = self.state
        if offset == COMMAND:
            s.irq = False
            self.changed()
            return s.status
        if offset == FEATURE:
            return s.previous[FEATURE] if high else s.error
        return s.previous[offset] if high and offset != DEVICE else s.registers[offset]

    def write(self, offset: int, value: int) -> None:
        """The host writes a register but the data port. A busy drive does not listen."""
        s = self.state
        if s.phase != READY:
            return
        if offset != DEVICE:
            s.previous[offset] = s.registers[offset]
        s.registers[offset] = value

    # --- commands ---------------------------------------------------------------------------------------------

    def execute(self, code: int) -> None:
        """The host writes the command register of the selected drive."""
        s = self.state
        if s.phase != READY or s.power == SLEEP:
            return
        s.command, s.irq, s.error = code, False, 0
        s.status = DRDY | DSC
        run = COMMANDS.get(code)
        if run is None:
            self._fail(ABRT)
        else:
            run(self)
        self.changed()

    def diagnose(self) -> None:
        """EXECUTE DEVICE DIAGNOSTIC, which both drives of a cable obey."""
        s = self.state
        if s.phase != READY or s.power == SLEEP:
            return
        s.command, s.irq = DIAGNOSTIC, False
        self._wait(WORKING, self.times.reset)
        self.changed()

    def advance(self, now: int) -> None:
        """Time has come to `now`: do what is due."""
        s = self.state
        if s.due is None or s.due > now:
            return
        s.due = None
        try:
            if s.phase == FETCHING:
                self._block_in()
            elif s.phase == STORING:
                self._block_out()
            elif s.phase == DMA:
                self._dma()
            elif s.phase == RESETTING:
                self._signature()
            elif s.phase == WORKING:
                self._complete()
        except StoreError as error:
            self._medium_error(error)
        self.changed()

    def _medium_error(self, error: StoreError) -> None:
        """The store cannot: UNC when reading, else ABRT and a write fault. The registers name the sector."""
        s = self.state
        reading = s.command in READS
        show_address(s, max(error.sector, 0))
        self._fail(UNC if reading else ABRT, 0 if reading else DF)

    def _complete(self) -> None:
        s = self.state
        if s.command in FLUSHES:
            self.store.flush()
        elif s.command in VERIFIES:
            while s.left:
                count = min(s.left, CHUNK)
                self.store.read(s.sector, count)
                self._advance_sectors(count)
        elif s.command == DIAGNOSTIC:
            self._signature()
            s.irq = True
            return
        self._finish()

    # --- the other commands -----------------------------------------------------------------------------------

    def identify(self) -> None:
        """IDENTIFY DEVICE: one block of data."""
        self.state.left = 1
        self._wait(WORKING, None)
        s = self.state
        s.buffer, s.at = bytearray(self._identity()), 0
        s.phase, s.status, s.irq = DATA_IN, DRDY | DSC | DRQ, True

    def _identity(self) -> bytes:
        s = self.state
        return identify(
            self.store.sectors, self.model, f"HV{self.number:08d}", geometry=s.geometry, multiple=s.multiple,
            mode=s.mode, write_cache=s.write_cache, look_ahead=s.look_ahead, device=self.number,
        )  # fmt: skip

    def do_nothing(self) -> None:
        """RECALIBRATE, and what only touches the spindle."""
        self._finish()

    def nop(self) -> None:
        """NOP always ends aborted, and leaves the registers alone."""
        self._fail(ABRT)

    def seek(self) -> None:
        self.state.registers[COUNT] = 1  # SEEK has no count
        if self._start_address():
            self._finish()

    def verify(self) -> None:
        """READ VERIFY SECTORS: as a read, and no data."""
        if self._start_address():
            self._wait(WORKING, self.times.read + self._transfer_time(self.state.left))

    def flush(self) -> None:
        self._wait(WORKING, self.times.flush)

    def set_geometry(self) -> None:
        """INITIALIZE DEVICE PARAMETERS: what CHS addresses mean from now on."""
        s = self.state
        sectors = s.registers[COUNT]
        if not 0 < sectors <= 63:
            self._fail(ABRT)
            return
        s.geometry = Geometry((s.registers[DEVICE] & HEAD) + 1, sectors)
        self._finish()

    def set_multiple(self) -> None:
        """SET MULTIPLE MODE: sectors a block, a power of 2; 0 switches READ and WRITE MULTIPLE off."""
        s = self.state
        count = s.registers[COUNT]
        if count > MOST_MULTIPLE or count & count - 1:
            self._fail(ABRT)
            return
        s.multiple = count
        self._finish()

    def set_features(self) -> None:
        s = self.state
        match s.registers[FEATURE]:
            case 0x02 | 0x82 as feature:
                s.write_cache = feature == 0x02
                if not s.write_cache:
                    self._wait(WORKING, self.times.flush)  # what is in the cache goes to the medium first
                    return
            case 0x55 | 0xAA as feature:
                s.look_ahead = feature == 0xAA
            case 0x66 | 0xCC as feature:
                s.keep_settings = feature == 0x66
            case 0x03 if not self._set_mode(s.registers[COUNT]):
                self._fail(ABRT)
                return
            case 0x03:
                pass
            case _:
                self._fail(ABRT)
                return
        self._finish()

    def _set_mode(self, mode: int) -> bool:
        """Choose a transfer mode. False: the drive has it not."""
        kind, number = mode & 0xF8, mode & 7
        if mode <= 1:
            return True  # default PIO mode, with or without flow control
        if number >= MODES.get(kind, 0):
            return False
        if kind != PIO_FLOW:
            self.state.mode = mode
        return True

    def check_power(self) -> None:
        self.state.registers[COUNT] = self.state.power & 0xFF
        self._finish()

    def set_power(self) -> None:
        """IDLE, STANDBY and their IMMEDIATE forms, and SLEEP. Timers are not kept."""
        self.state.power = POWER[self.state.command]
        self._finish()

    # --- resets -----------------------------------------------------------------------------------------------

    def hold_reset(self) -> None:
        """SRST is set: what was going on is over."""
        s = self.state
        s.irq = False
        s.buffer, s.at, s.left = bytearray(), 0, 0
        self._wait(RESETTING, None)
        self.changed()

    def release_reset(self) -> None:
        """SRST is cleared: be busy for a while, then show the signature."""
        s = self.state
        if not s.keep_settings:
            s.multiple, s.geometry, s.write_cache, s.look_ahead = 0, DEFAULT_GEOMETRY, True, True
        self._wait(RESETTING, self.times.reset)
        self.changed()

    def _signature(self) -> None:
        """What a disk drive shows after a reset (9.1)."""
        s = self.state
        s.registers, s.previous = [0, 0, 1, 1, 0, 0, 0], [0] * 7
        s.error, s.status, s.phase, s.due, s.power = PASSED, DRDY | DSC, READY, None, ACTIVE


# Commands by code (8.1, and 8.1 of ATA/ATAPI-6). What is not here is aborted.
COMMANDS: dict[int, Callable[[Drive], None]] = {
    0x00: Drive.nop,
    **dict.fromkeys(range(0x10, 0x20), Drive.do_nothing),  # RECALIBRATE
    **dict.fromkeys(SECTOR_READS, Drive.start_read),
    **dict.fromkeys((0x30, 0x31, 0x34, 0xC5, 0x39), Drive.start_write),
    **dict.fromkeys((0xC8, 0xC9, 0x25, 0xCA, 0xCB, 0x35), Drive.start_dma),
    **dict.fromkeys(VERIFIES, Drive.verify),
    **dict.fromkeys(range(0x70, 0x80), Drive.seek),
    0x91: Drive.set_geometry,
    0xC6: Drive.set_multiple,
    **dict.fromkeys(POWER, Drive.set_power),
    0xE5: Drive.check_power,
    0xE7: Drive.flush,
    0xEA: Drive.flush,
    0xEC: Drive.identify,
    0xEF: Drive.set_features,
}

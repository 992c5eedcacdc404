"""How an ATA drive and its host move a command's sectors: blocks by the data port, chunks by DMA (ATA/ATAPI-5, 9).

Whoever moves the last byte of a block or chunk drives the command on; the medium's part of it is `due` later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hv.devices.ata_address import read_address, show_address
from hv.devices.ata_state import (
    ABRT,
    BSY,
    COUNT,
    DATA_IN,
    DATA_OUT,
    DMA,
    DRDY,
    DRQ,
    DSC,
    ERR,
    EXTENDED,
    FETCHING,
    MULTIPLES,
    READY,
    SECTOR_READS,
    STORING,
    WRITES,
    DriveState,
)
from hv.host.store import SECTOR, Store
from hv.silicon.timing import DiskTimes

CHUNK = 128  # sectors that go by DMA in one step


class BusMaster(Protocol):
    """The other end of a DMA transfer."""

    def ready(self, *, to_memory: bool) -> bool:
        """It is started, in this direction."""

    def push(self, data: bytes) -> int:
        """Data for memory; returns how many bytes were taken. Fewer than all: it has stopped."""

    def pull(self, size: int) -> bytes:
        """Data from memory. Fewer bytes than asked for: it has stopped."""


class Transfers:
    """`changed()` is called when the interrupt or the due time may have changed, `now()` gives virtual time."""

    def __init__(
        self, store: Store, times: DiskTimes, now: Callable[[], int], changed: Callable[[], None], bus_master: BusMaster
    ) -> None:
        self.store, self.times, self.bus_master = store, times, bus_master
        self.now, self.changed = now, changed
        self.state = DriveState()

    def _wait(self, phase: str, time: int | None) -> None:
        """Be busy for so long, or until something happens."""
        s = self.state
        s.phase, s.status = phase, BSY
        s.due = None if time is None else self.now() + time

    def _finish(self) -> None:
        """The command is complete."""
        s = self.state
        s.phase, s.status, s.due, s.irq = READY, DRDY | DSC, None, True
        s.buffer, s.at = bytearray(), 0

    def _fail(self, error: int, status: int = 0) -> None:
        self._finish()
        self.state.error, self.state.status = error, DRDY | DSC | ERR | status

    # --- addresses --------------------------------------------------------------------------------------------

    def _start_address(self) -> bool:
        """First sector and count of the command into `sector` and `left`. False: refused, and the host told so."""
        error = read_address(self.state, self.store.sectors)
        if error:
            self._fail(error)
        return not error

    def _advance_sectors(self, count: int) -> None:
        """So many are done. The registers show the last one and how many are missing (8.27)."""
        s = self.state
        s.sector += count
        s.left -= count
        show_address(s, s.sector - 1)
        s.registers[COUNT] = s.left & 0xFF
        if s.command in EXTENDED:
            s.previous[COUNT] = s.left >> 8 & 0xFF

    # --- data by the port -------------------------------------------------------------------------------------

    def start_read(self) -> None:
        """READ SECTORS, READ MULTIPLE and their 48-bit forms."""
        s = self.state
        if not self._choose_block() or not self._start_address():
            return
        self._wait(FETCHING, self.times.read + self._transfer_time(min(s.left, s.block)))

    def start_write(self) -> None:
        """WRITE SECTORS, WRITE MULTIPLE and their 48-bit forms: the first block needs no interrupt."""
        if not self._choose_block() or self._refused() or not self._start_address():
            return
        self._ask_block()

    def _choose_block(self) -> bool:
        s = self.state
        s.block = s.multiple if s.command in MULTIPLES else 1
        if not s.block:
            self._fail(ABRT)  # SET MULTIPLE MODE must come first
        return bool(s.block)

    def _refused(self) -> bool:
        """A write-protected medium refuses to be written."""
        if self.store.read_only:
            self._fail(ABRT)
        return self.store.read_only

    def read_data(self, size: int) -> bytes:
        """The host fetches from the data port; beyond what is there it finds nobody."""
        s = self.state
        if s.phase != DATA_IN:
            return b"\xff" * size
        data = bytes(s.buffer[s.at : s.at + size])
        s.at += len(data)
        if s.at == len(s.buffer):
            self._fetched()
        return data + b"\xff" * (size - len(data))

    def write_data(self, data: bytes) -> None:
        """The host brings data to the data port; what does not fit is lost."""
        s = self.state
        if s.phase != DATA_OUT:
            return
        part = data[: len(s.buffer) - s.at]
        s.buffer[s.at : s.at + len(part)] = part
        s.at += len(part)
        if s.at == len(s.buffer):
            last = len(s.buffer) == s.left * SECTOR
            self._wait(STORING, self._transfer_time(s.at // SECTOR) + (self._write_time() if last else 0))
            self.changed()

    def _transfer_time(self, sectors: int) -> int:
        return self.times.sector * sectors

    def _write_time(self) -> int:
        """From the last data to the completion: with the cache off, the medium's time comes on top."""
        return self.times.write + (0 if self.state.write_cache else self.times.flush)

    def _block_in(self) -> None:
        """A block has been read: the host may fetch it."""
        s = self.state
        s.buffer, s.at = bytearray(self.store.read(s.sector, min(s.left, s.block))), 0
        s.phase, s.status, s.irq = DATA_IN, DRDY | DSC | DRQ, True

    def _fetched(self) -> None:
        """The host has fetched the whole block. The last one ends the command without an interrupt."""
        s = self.state
        if s.command in SECTOR_READS:
            self._advance_sectors(len(s.buffer) // SECTOR)
        else:
            s.left = 0
        if s.left:
            self._wait(FETCHING, self._transfer_time(min(s.left, s.block)))
        else:
            irq = s.irq
            self._finish()
            s.irq = irq
        self.changed()

    def _ask_block(self) -> None:
        s = self.state
        s.buffer, s.at = bytearray(min(s.left, s.block) * SECTOR), 0
        s.phase, s.status = DATA_OUT, DRDY | DSC | DRQ

    def _block_out(self) -> None:
        """The host has brought a whole block."""
        s = self.state
        self.store.write(s.sector, bytes(s.buffer), durable=not s.write_cache)
        self._advance_sectors(len(s.buffer) // SECTOR)
        if s.left:
            self._ask_block()
            s.irq = True
        else:
            self._finish()

    # --- data by DMA ------------------------------------------------------------------------------------------

    def start_dma(self) -> None:
        """READ DMA, WRITE DMA and their 48-bit forms."""
        s = self.state
        if (s.command in WRITES and self._refused()) or not self._start_address():
            return
        self._next_chunk()

    def _next_chunk(self) -> None:
        s = self.state
        first, count = s.at == 0 and not s.buffer, min(s.left, CHUNK)
        s.buffer, s.at = bytearray(count * SECTOR), 0
        time = self._transfer_time(count)
        if s.command in WRITES:
            time += self._write_time() if s.left == count else 0
        elif first:
            time += self.times.read
        self._wait(DMA, time)

    def bus_master_started(self) -> None:
        """It can move data now: if the drive was waiting for that, go on."""
        s = self.state
        if s.phase == DMA and s.due is None:
            s.due = self.now()
            self.changed()

    def _dma(self) -> None:
        """Move what the bus master moves of this chunk. If it stops in the middle, wait for it."""
        s = self.state
        writing = s.command in WRITES
        if not self.bus_master.ready(to_memory=not writing):
            return
        if writing:
            part = self.bus_master.pull(len(s.buffer) - s.at)
            s.buffer[s.at : s.at + len(part)] = part
            s.at += len(part)
        else:
            if s.at == 0:
                s.buffer[:] = self.store.read(s.sector, len(s.buffer) // SECTOR)
            s.at += self.bus_master.push(bytes(s.buffer[s.at :]))
        if s.at < len(s.buffer):
            return
        if writing:
            self.store.write(s.sector, bytes(s.buffer), durable=not s.write_cache)
        self._advance_sectors(len(s.buffer) // SECTOR)
        if s.left:
            self._next_chunk()
        else:
            self._finish()

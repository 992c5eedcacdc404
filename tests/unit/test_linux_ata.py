"""What Linux does with a PIIX3's IDE function and its drives (drivers/ata: libata-sff.c, libata-core.c, ata_piix.c).

In our own words, access by access: the search for drives, IDENTIFY by polling, transfer modes, transfers, an error.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hv.host.store import SECTOR, MemoryStore
from tests.ide_host import BSY, BUFFER, COMMAND, CONTROL, DRDY, DRQ, ERR, MASTER, TABLE, Host, numbered
from tests.unit.test_ide import Failing

DATA, FEATURE, COUNT, LOW, MID, HIGH, DEVICE, CODE = range(8)
NIEN, SRST, HOB, ALWAYS = 2, 4, 0x80, 8  # device control; bit 3 is written as 1, as of old
NOBODY, DISK = "nobody", "disk"
MASTER_ACTIVE, MASTER_ERROR, MASTER_INTERRUPT, SIMPLEX = 1, 2, 4, 0x80
READ_DMA_EXT, WRITE_DMA_EXT, READ_DMA, FLUSH_EXT, IDENTIFY, SET_FEATURES = 0x25, 0x35, 0xC8, 0xEA, 0xEC, 0xEF


class Result(NamedTuple):
    status: int
    error: int
    lba: int


class Port:
    """One channel as libata drives it. Registers are ports, by number from the command block."""

    def __init__(self, host: Host, channel: int = 0) -> None:
        self.host, self.channel = host, channel
        self.control = self.last_control = ALWAYS

    def get(self, register: int) -> int:
        return self.host.inp(COMMAND[self.channel] + register)

    def put(self, register: int, value: int) -> None:
        self.host.out(COMMAND[self.channel] + register, value)

    def set_control(self, value: int) -> None:
        self.host.out(CONTROL[self.channel], value)
        self.last_control = value

    def select(self, device: int) -> None:
        self.put(DEVICE, 0xB0 if device else 0xA0)
        self.host.inp(CONTROL[self.channel])  # which gives the drive its 400 ns

    def wait(self) -> int:
        """Until the drive is not busy, by the status itself. Returns it."""
        while (status := self.get(CODE)) & BSY:
            assert self.host.pass_time()
        return status

    # --- the search ----------------------------------------------------------------------------------------------

    def decodes(self) -> bool:
        """The enable bit in the controller's configuration space."""
        return bool(self.host.ide.config_read(0x41 + 2 * self.channel, 1) & 0x80)

    def answers(self, device: int) -> bool:
        """Two registers keep what is written to them."""
        self.select(device)
        for count, low in ((0x55, 0xAA), (0xAA, 0x55), (0x55, 0xAA)):
            self.put(COUNT, count)
            self.put(LOW, low)
        return (self.get(COUNT), self.get(LOW)) == (0x55, 0xAA)

    def reset(self) -> list[str]:
        """The soft reset, and what the signatures say of both places."""
        self.wait()
        there = [device for device in (0, 1) if self.answers(device)]
        self.select(0)
        for value in (self.control, self.control | SRST, self.control):
            self.set_control(value)
        self.wait()
        for device in there:
            self.select(device)
            if device:
                while (self.get(COUNT), self.get(LOW)) != (1, 1):
                    assert self.host.pass_time()
            self.wait()
        return [self.classify(device) if device in there else NOBODY for device in (0, 1)]

    def classify(self, device: int) -> str:
        self.select(device)
        self.get(CODE)
        passed = self.get(FEATURE)
        signature = [self.get(register) for register in (COUNT, LOW, MID, HIGH)]
        if passed not in (0x01, 0x81 if device == 0 else 0x01) or signature != [1, 1, 0, 0]:
            return NOBODY
        return DISK if self.get(CODE) else NOBODY

    # --- commands -------------------------------------------------------------------------------------------------

    def load(self, control: int, device: int, *values: int) -> None:
        """A task file: feature, count, low, mid, high; five more before them are the high bytes of a 48-bit command."""
        if control != self.last_control:
            self.set_control(control)
            self.wait()
        for place, value in enumerate(values):
            self.put(FEATURE + place % 5, value)
        self.put(DEVICE, device)
        self.wait()

    def poll_identify(self, device: int) -> tuple[int, ...]:
        """The data come by 32-bit accesses, with the interrupt held back."""
        self.select(device)
        self.load(self.control | NIEN, 0xA0 | device << 4, 0, 0, 0, 0, 0)
        self.put(CODE, IDENTIFY)
        assert not self.wait() & ERR
        assert self.host.inp(CONTROL[self.channel]) & DRQ
        data = b"".join(self.host.inp(COMMAND[self.channel], 4).to_bytes(4, "little") for _ in range(128))
        assert self.wait() & (DRQ | DRDY) == DRDY
        self.set_control(self.control)
        assert not self.host.board.lines[self.channel]
        assert sum(data) & 0xFF == 0
        return struct.unpack("<256H", data)

    def set_mode(self, device: int, mode: int) -> None:
        self.load(self.control | NIEN, 0xA0 | device << 4, 3, mode, 0, 0, 0)
        self.put(CODE, SET_FEATURES)
        assert not self.wait() & ERR
        self.set_control(self.control)

    def master(self, register: int, value: int | None = None, size: int = 1) -> int:
        if value is not None:
            self.host.out(MASTER[self.channel] + register, value, size)
        return self.host.inp(MASTER[self.channel] + register, size)

    def dma(self, code: int, sector: int, count: int, *, write: bool = False) -> Result:
        """A transfer by DMA from or to BUFFER, in pieces of 64 KiB at most. The command comes before the start."""
        size = count * SECTOR
        pieces: list[tuple[int, int]] = []
        while size:
            part = min(size, 0x1_0000)
            pieces.append((BUFFER + len(pieces) * 0x1_0000, part))
            size -= part
        self.host.table(*pieces)
        long = code in (READ_DMA_EXT, WRITE_DMA_EXT)
        low = [sector >> 8 * i & 0xFF for i in range(6)]
        high = [0, count >> 8, *low[3:]] if long else []
        self.load(self.control, 0x40 if long else 0xE0 | sector >> 24, *high, 0, count & 0xFF, *low[:3])
        self.master(4, TABLE, 4)
        command = self.master(0) & ~9
        self.master(0, command | (0 if write else 8))
        self.put(CODE, code)
        self.master(0, self.master(0) | 1)
        return self.interrupt(long=long)

    def interrupt(self, *, long: bool) -> Result:
        """Wait for the line, and do what the handler does."""
        while not self.host.board.lines[self.channel]:
            assert self.host.pass_time()
        raised = self.master(2)
        assert raised & MASTER_INTERRUPT
        self.master(0, self.master(0) & ~1)
        self.host.inp(CONTROL[self.channel])
        assert not raised & MASTER_ERROR
        assert not self.host.inp(CONTROL[self.channel]) & BSY
        status = self.get(CODE)
        assert not self.host.board.lines[self.channel]
        self.master(2, self.master(2))  # clear what is set
        assert not self.master(2) & (MASTER_INTERRUPT | MASTER_ACTIVE)
        return self.result(status, long=long)

    def result(self, status: int, *, long: bool) -> Result:
        error = self.get(FEATURE)
        lba = sum(self.get(LOW + i) << 8 * i for i in range(3))
        if long:
            self.set_control(self.control | HOB)
            lba |= sum(self.get(LOW + i) << 24 + 8 * i for i in range(3))
            self.set_control(self.control)
        return Result(status, error, lba)


def test_the_search_finds_the_drives_that_are_there_and_no_others() -> None:
    host = Host(numbered(64), numbered(64), numbered(64))  # both places of channel 0, one of channel 1
    first, second = Port(host), Port(host, 1)
    assert first.decodes()
    assert second.decodes()
    assert first.reset() == [DISK, DISK]
    assert second.reset() == [DISK, NOBODY]
    assert Port(Host(numbered(64)), 1).reset() == [NOBODY, NOBODY]  # a cable without drives
    assert not first.master(2) & SIMPLEX  # both channels may move data at once
    off = Host(numbered(64), enable=False)
    assert not Port(off).decodes()


def test_identify_says_what_the_driver_needs() -> None:
    host = Host(MemoryStore(1 << 29), numbered(64), numbered(64))
    port = Port(host)
    port.reset()
    for device, sectors in ((0, 1 << 29), (1, 64)):
        words = port.poll_identify(device)
        assert not words[0] >> 15  # a disk
        assert words[80] >> 4 & 1  # ATA/ATAPI-4 or later: no parameters to be initialized
        assert words[49] >> 8 & 3 == 3  # LBA and DMA
        assert words[53] & 7 == 7
        assert words[83] >> 14 == words[87] >> 14 == 1  # the words about commands are valid
        assert words[83] & words[86] & 1 << 10  # 48 bits
        assert words[83] & words[86] & 1 << 13  # FLUSH CACHE EXT
        assert words[82] & words[85] & 1 << 5  # a write cache, switched on
        assert not words[82] & (1 << 10 | 1)  # no host protected area to be unlocked, no SMART
        assert words[100] | words[101] << 16 | words[102] << 32 == sectors
        assert words[60] | words[61] << 16 == min(sectors, (1 << 28) - 1)
        assert words[64] & 3 == 3  # PIO modes 3 and 4


def test_the_fastest_mode_of_the_controller_is_chosen_and_shown() -> None:
    host = Host(numbered(64))
    port = Port(host)
    port.reset()
    before = port.poll_identify(0)
    timing = host.ide.config_read(0x40, 2)
    host.config(0x40, 2, timing & 0xCCF0 | 0x2307)  # PIO mode 4: the timings, prefetch and IORDY
    port.set_mode(0, 0x0C)
    port.set_mode(0, 0x22)
    assert port.decodes()
    after = port.poll_identify(0)
    assert after[63] == 0x0407  # multiword DMA 0 to 2, and 2 it is
    assert before[10:20] == after[10:20]  # the same drive as before, by its serial number and model
    assert before[27:47] == after[27:47]


def test_transfers_by_both_forms_of_address() -> None:
    host = Host(numbered(4096))
    port = Port(host)
    port.reset()
    port.set_mode(0, 0x22)
    for code, sector, count in ((READ_DMA, 7, 256), (READ_DMA_EXT, 9, 300)):
        assert port.dma(code, sector, count).status & (ERR | DRDY) == DRDY
        numbers = struct.unpack_from(f"<{count * SECTOR // 4}I", host.board.memory, BUFFER)
        assert numbers[:: SECTOR // 4] == tuple(range(sector, sector + count))
    host.board.memory[BUFFER : BUFFER + 300 * SECTOR] = bytes(range(150)) * 1024
    assert port.dma(WRITE_DMA_EXT, 1000, 300, write=True).status & (ERR | DRDY) == DRDY
    port.load(port.control, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    port.put(CODE, FLUSH_EXT)
    assert port.interrupt(long=True).status & (ERR | DRDY) == DRDY
    assert port.dma(READ_DMA_EXT, 1000, 300).status & ERR == 0
    assert host.board.memory[BUFFER : BUFFER + 300 * SECTOR] == bytes(range(150)) * 1024


def test_an_error_is_read_back_and_the_channel_set_up_again() -> None:
    bad = (1 << 28) + 5
    host = Host(Failing(1 << 29, bad))
    port = Port(host)
    port.reset()
    port.set_mode(0, 0x22)
    failed = port.dma(READ_DMA_EXT, bad - 5, 8)
    assert failed.status & ERR
    assert (failed.error, failed.lba) == (0x40, bad)
    port.set_control(port.control | NIEN)  # frozen
    port.get(CODE)
    for _ in range(0x1_0000):  # words that nobody wants any more
        if not port.get(CODE) & DRQ:
            break
        host.inp(COMMAND[0], 2)
    assert port.reset() == [DISK, NOBODY]
    assert port.poll_identify(0)[100:102] == (0, 0x2000)
    port.set_mode(0, 0x22)
    assert not port.dma(READ_DMA_EXT, bad + 1, 8).status & ERR
    past = port.dma(READ_DMA_EXT, (1 << 29) - 1, 2)
    assert past.status & ERR
    assert past.error == 0x10

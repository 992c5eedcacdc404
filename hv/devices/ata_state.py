"""What an ATA drive shows and remembers: registers, the bits in them, command codes, and its state as one record.

ATA/ATAPI-5, 7 (registers) and 8 (commands); 48-bit commands ATA/ATAPI-6, 8.
"""

from __future__ import annotations

import msgspec

from hv.devices.ata_identify import DEFAULT_GEOMETRY, MULTIWORD_DMA, Geometry

# Command block registers by offset; reading 1 gives the error register, reading 7 the status.
DATA, FEATURE, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE, COMMAND = range(8)
BSY, DRDY, DF, DSC, DRQ, ERR = 0x80, 0x40, 0x20, 0x10, 0x08, 0x01  # status
UNC, IDNF, ABRT = 0x40, 0x10, 0x04  # error
PASSED = 0x01  # the diagnostic code in the error register after a reset
LBA, DEV, HEAD = 0x40, 0x10, 0x0F  # device register
ACTIVE, IDLE, STANDBY, SLEEP = 0xFF, 0x80, 0x00, -1  # power modes, as CHECK POWER MODE reports them

# What the drive does now.
READY = "ready"  # waits for a command
WORKING = "working"  # until `due`, then the command is complete
DATA_IN, DATA_OUT = "data in", "data out"  # the host has a block to fetch, or to bring
FETCHING = "fetching"  # until `due`, then the next block is there
STORING = "storing"  # until `due`, then the block that came is written
DMA = "dma"  # moves a chunk at `due`, or waits for the bus master
RESETTING = "resetting"  # until `due`, or while the host holds SRST

# Commands by code, in groups.
DIAGNOSTIC = 0x90
SECTOR_READS = frozenset((0x20, 0x21, 0x24, 0xC4, 0x29))
EXTENDED = frozenset((0x24, 0x25, 0x29, 0x34, 0x35, 0x39, 0x42))
MULTIPLES = frozenset((0xC4, 0x29, 0xC5, 0x39))
VERIFIES = frozenset((0x40, 0x41, 0x42))
READS = SECTOR_READS | VERIFIES | {0xC8, 0xC9, 0x25}
WRITES = frozenset((0x30, 0x31, 0x34, 0xC5, 0x39, 0xCA, 0xCB, 0x35))
FLUSHES = frozenset((0xE7, 0xEA, 0xEF))
POWER = {0xE0: STANDBY, 0xE1: IDLE, 0xE2: STANDBY, 0xE3: IDLE, 0xE6: SLEEP}


class DriveState(msgspec.Struct):
    """Everything that the drive remembers."""

    registers: list[int] = msgspec.field(default_factory=lambda: [0] * 7)  # as last written; 0 is not used
    previous: list[int] = msgspec.field(default_factory=lambda: [0] * 7)  # and before: high halves of 48-bit commands
    error: int = PASSED
    status: int = DRDY | DSC
    phase: str = READY
    due: int | None = None
    irq: bool = False
    command: int = 0
    sector: int = 0  # next to be transferred
    left: int = 0  # sectors still to be transferred, the buffer's included
    block: int = 1  # sectors a data block
    buffer: bytearray = msgspec.field(default_factory=bytearray)
    at: int = 0  # how far the buffer has been fetched or filled
    multiple: int = 0
    mode: int = MULTIWORD_DMA
    geometry: Geometry = DEFAULT_GEOMETRY
    write_cache: bool = True
    look_ahead: bool = True
    keep_settings: bool = False  # over a soft reset (SET FEATURES 66h)
    power: int = ACTIVE

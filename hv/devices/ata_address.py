"""The three forms in which a command gives an address: cylinder, head and sector; 28 bits; 48 bits.

ATA/ATAPI-5, 6.2 and 8.27; ATA/ATAPI-6, 6.2.
"""

from __future__ import annotations

from hv.devices.ata_identify import MOST_CYLINDERS
from hv.devices.ata_state import ABRT, COUNT, DEVICE, EXTENDED, HEAD, IDNF, LBA, LBA_HIGH, LBA_LOW, LBA_MID, DriveState


def read_address(s: DriveState, sectors: int) -> int:
    """Put first sector and count of the command into `sector` and `left`. Returns the error bits, 0 for none."""
    r, high = s.registers, s.previous
    low = r[LBA_LOW] | r[LBA_MID] << 8 | r[LBA_HIGH] << 16
    s.left = r[COUNT] or 256
    if s.command in EXTENDED:
        if not r[DEVICE] & LBA:
            return ABRT
        s.sector = low | (high[LBA_LOW] | high[LBA_MID] << 8 | high[LBA_HIGH] << 16) << 24
        s.left = (r[COUNT] | high[COUNT] << 8) or 65536
    elif r[DEVICE] & LBA:
        s.sector = low | (r[DEVICE] & HEAD) << 24
    else:
        g, cylinder = s.geometry, low >> 8
        if not (0 < r[LBA_LOW] <= g.sectors and r[DEVICE] & HEAD < g.heads and cylinder <= MOST_CYLINDERS):
            return IDNF
        s.sector = (cylinder * g.heads + (r[DEVICE] & HEAD)) * g.sectors + r[LBA_LOW] - 1
    if s.sector + s.left > sectors:
        show_address(s, max(s.sector, sectors))
        return IDNF
    return 0


def show_address(s: DriveState, sector: int) -> None:
    """Put a sector's address where the host reads it, in the form in which the command gave its own."""
    r = s.registers
    if s.command in EXTENDED:
        for i, register in enumerate((LBA_LOW, LBA_MID, LBA_HIGH)):
            r[register], s.previous[register] = sector >> 8 * i & 0xFF, sector >> 8 * i + 24 & 0xFF
        return
    if r[DEVICE] & LBA:
        low, head = sector & 0xFF_FFFF, sector >> 24 & HEAD
    else:
        track, place = divmod(sector, s.geometry.sectors)
        cylinder, head = divmod(track, s.geometry.heads)
        low = place + 1 | (cylinder & 0xFFFF) << 8
    r[LBA_LOW], r[LBA_MID], r[LBA_HIGH] = low & 0xFF, low >> 8 & 0xFF, low >> 16 & 0xFF
    r[DEVICE] = r[DEVICE] & ~HEAD | head

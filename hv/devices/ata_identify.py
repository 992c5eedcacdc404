"""What a drive says of itself: the 256 words of IDENTIFY DEVICE (ATA/ATAPI-5, 8.12; 48-bit words ATA/ATAPI-6, 8.15)."""

from __future__ import annotations

import msgspec

MOST_MULTIPLE = 16  # sectors a data block of READ and WRITE MULTIPLE
HEADS, SECTORS_PER_TRACK, MOST_CYLINDERS = 16, 63, 16383  # the translation at power-on (ATA/ATAPI-5, B.2)
MOST_LBA28 = (1 << 28) - 1

# Transfer modes as SET FEATURES 03h names them (8.37.10): kind in bits 7-3, mode in bits 2-0.
PIO_FLOW, MULTIWORD_DMA, ULTRA_DMA = 0x08, 0x20, 0x40
MODES: dict[int, int] = {PIO_FLOW: 5, MULTIWORD_DMA: 3, ULTRA_DMA: 6}  # how many of each kind the drive has


class Geometry(msgspec.Struct, frozen=True):
    """How cylinder, head and sector address the drive. Sectors are counted from 1, the others from 0."""

    heads: int
    sectors: int

    def cylinders(self, total: int) -> int:
        """Whole cylinders of a drive of `total` sectors; never more than CHS commands can reach."""
        return min(total // (self.heads * self.sectors), MOST_CYLINDERS)


DEFAULT_GEOMETRY = Geometry(HEADS, SECTORS_PER_TRACK)


def identify(
    sectors: int, model: str, serial: str, *, geometry: Geometry, multiple: int, mode: int, write_cache: bool,
    look_ahead: bool, device: int,
) -> bytes:  # fmt: skip
    """The 512 bytes for a drive of so many sectors in this state. `mode`: the DMA mode chosen with SET FEATURES."""
    words = [0] * 256
    words[0] = 0x0040  # not removable
    words[1] = DEFAULT_GEOMETRY.cylinders(sectors)
    words[2] = 0xC837  # it spins up by itself, and all words are true at once
    words[3], words[6] = HEADS, SECTORS_PER_TRACK
    _text(words, 10, 20, serial)
    _text(words, 23, 8, "1.0")
    _text(words, 27, 40, model)
    words[47] = 0x8000 | MOST_MULTIPLE
    words[49] = 1 << 11 | 1 << 10 | 1 << 9 | 1 << 8  # IORDY, and it can be disabled; LBA; DMA
    words[50] = 1 << 14
    words[51] = 2 << 8  # PIO mode 2 without flow control
    words[53] = 7  # words 54-58, 64-70 and 88 are valid
    cylinders = geometry.cylinders(sectors)
    words[54], words[55], words[56] = cylinders, geometry.heads, geometry.sectors
    _number(words, 57, 2, cylinders * geometry.heads * geometry.sectors)
    words[59] = 1 << 8 | multiple if multiple else 0
    _number(words, 60, 2, min(sectors, MOST_LBA28))
    words[63] = _dma_modes(MULTIWORD_DMA, mode)
    words[64] = 3  # PIO modes 3 and 4
    words[65] = words[66] = words[67] = words[68] = 120  # ns a word: multiword DMA mode 2, PIO mode 4
    words[80] = 0b111_1000  # ATA-3, ATA/ATAPI-4, -5, -6
    supported = (1 << 14 | 1 << 6 | 1 << 5 | 1 << 3, 1 << 14 | 1 << 13 | 1 << 12 | 1 << 10, 1 << 14)
    # 82: NOP, look-ahead, write cache, power management. 83: FLUSH CACHE EXT, FLUSH CACHE, 48-bit addresses.
    words[82:85] = supported
    words[85] = supported[0] & ~(1 << 6 | 1 << 5) | look_ahead << 6 | write_cache << 5
    words[86], words[87] = supported[1] & ~(1 << 14), supported[2]
    words[88] = _dma_modes(ULTRA_DMA, mode)
    words[93] = 1 << 14 | (3 << 8 | 1 << 8 if device else 3)  # hardware reset: passed, number by jumper
    _number(words, 100, 4, sectors)
    words[255] = 0xA5
    data = b"".join(word.to_bytes(2, "little") for word in words)
    return data[:511] + bytes([-sum(data) & 0xFF])  # all bytes together are 0


def _text(words: list[int], at: int, length: int, text: str) -> None:
    """ASCII, filled with spaces; the first character of a word is its high byte."""
    padded = text.ljust(length)[:length].encode()
    for i in range(length // 2):
        words[at + i] = padded[2 * i] << 8 | padded[2 * i + 1]


def _number(words: list[int], at: int, count: int, value: int) -> None:
    for i in range(count):
        words[at + i] = value >> 16 * i & 0xFFFF


def _dma_modes(kind: int, mode: int) -> int:
    """The modes of this kind that the drive has, and above them the one that is chosen."""
    chosen = 1 << (mode & 7) if mode & 0xF8 == kind else 0
    return (1 << MODES[kind]) - 1 | chosen << 8

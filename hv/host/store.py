"""Block stores: where the sectors of a guest's disk are. Here the contract, and a store in memory.

A disk drive of any kind (IDE today) reads and writes through this contract and shows what fails as its hardware would.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

from hv.silicon.medium import Medium, MediumError

SECTOR = 512  # bytes
PAGE = 8  # sectors that a store in memory keeps as one piece
DEFAULT_SECTORS = (16 << 20) // SECTOR
PATTERN_SECTORS = (1 << 20) // SECTOR
ZERO = bytes(PAGE * SECTOR)


class StoreError(MediumError):
    """The store could not do it."""


class Store(Medium, Protocol):
    """A medium. A write that has returned survives this process; after a flush also the host. Raises StoreError."""

    def state(self) -> Any:
        """For a snapshot: the content, or None where it lies outside and is not taken back."""

    def set_state(self, state: Any) -> None:
        """Go back to what state() gave."""

    def close(self) -> None: ...


class MemoryStore:
    """Sectors in memory, for measurements: always the same at the start, and gone at the end."""

    read_only = False

    def __init__(self, sectors: int = DEFAULT_SECTORS, name: str = "") -> None:
        """With a name the first MiB holds the default disk's pattern, else all is zero."""
        self.sectors, self.name = sectors, name
        self.pages: dict[int, bytes] = {}  # those that have been written

    def read(self, sector: int, count: int) -> bytes:
        self._check(sector, count)
        first, last = sector // PAGE, (sector + count - 1) // PAGE
        data = b"".join(self._page(page) for page in range(first, last + 1))
        skip = (sector - first * PAGE) * SECTOR
        return data[skip : skip + count * SECTOR]

    def _page(self, page: int) -> bytes:
        if page in self.pages:
            return self.pages[page]
        return pattern(self.name, page) if self.name and page < PATTERN_SECTORS // PAGE else ZERO

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        self._check(sector, len(data) // SECTOR)
        for at in range(0, len(data), SECTOR):
            page, place = divmod(sector + at // SECTOR, PAGE)
            old = self._page(page)
            place *= SECTOR
            self.pages[page] = old[:place] + data[at : at + SECTOR] + old[place + SECTOR :]

    def flush(self) -> None:
        """Nothing is ever on its way."""

    def state(self) -> dict[int, bytes]:
        return dict(self.pages)

    def set_state(self, state: dict[int, bytes]) -> None:
        self.pages = dict(state)

    def close(self) -> None:
        """Nothing to give back."""

    def _check(self, sector: int, count: int) -> None:
        if not 0 <= sector <= sector + count <= self.sectors:
            raise StoreError("behind the end", max(sector, self.sectors))


@functools.cache
def pattern(name: str, page: int) -> bytes:
    """What 4 KiB of a new default disk hold: a line of text, so that a reader sees where he is, then numbers."""
    text = f"hv {name} disk, block {page}\n".encode()
    value = page + 1
    numbers = bytearray()
    for _ in range(PAGE * SECTOR // 8):
        value = value * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1  # Knuth's MMIX generator
        numbers += value.to_bytes(8, "little")
    return text + bytes(numbers[len(text) :])

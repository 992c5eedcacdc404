"""Physical memory: regions of RAM, each one mapping of the host, known to the CPU at its physical address.

All writes to RAM from outside the CPU (a loader, a device's DMA, the hypervisor) go through here, because a CPU that
has translated code from a frame must hear that the frame has changed.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Callable, Iterator

import msgspec

PAGE = 0x1000
ZERO = bytes(PAGE)
U64 = struct.Struct("<Q")
LOOK = 64 << 10  # bytes that are compared with zero at a time: they stay in the host's cache


class BusError(Exception):
    """An access from outside the CPU to a physical address at which there is no RAM."""


class Region(msgspec.Struct, frozen=True):
    """RAM of `size` bytes at physical address `base`. `data` is the host's mapping, `offset` the part of it used."""

    name: str
    base: int
    size: int
    data: mmap.mmap
    offset: int

    def host_address(self) -> int:
        """Address in this process; valid as long as somebody holds the region."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.data, self.offset))


def anonymous(size: int) -> mmap.mmap:
    """Zero-filled host memory; a page of it exists once it has been written."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _pages(region: Region) -> Iterator[tuple[int, bytes]]:
    """The pages that are not all zero. Looks at many at a time first, since most of RAM is never used."""
    zeros = bytes(LOOK)
    for chunk in range(0, region.size, LOOK):
        end = min(chunk + LOOK, region.size)
        data = region.data[region.offset + chunk : region.offset + end]
        if data == zeros[: end - chunk]:
            continue
        for at in range(0, end - chunk, PAGE):
            page = data[at : at + PAGE]
            if page != ZERO:
                yield chunk + at, page


class Memory:
    """The physical address space as everything but the CPU sees it."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self._ranges: list[tuple[int, int, Region, int]] = []  # first address, end, and what to add for the mapping
        self._latest: tuple[int, int, Region | None, int] = (0, 0, None, 0)  # the one that was found last
        self.on_map: Callable[[Region], None] = lambda region: None
        self.on_write: Callable[[Region, int, int], None] = lambda region, at, size: None

    def add(self, region: Region) -> Region:
        """Put RAM at an address. Raises ValueError when it would overlap other RAM or is not whole pages."""
        if region.base % PAGE or region.size % PAGE or region.size <= 0:
            raise ValueError(f"{region.name} is not whole pages")
        for other in self.regions:
            if region.base < other.base + other.size and other.base < region.base + region.size:
                raise ValueError(f"{region.name} overlaps {other.name}")
        self.regions.append(region)
        self._ranges.append((region.base, region.base + region.size, region, region.offset - region.base))
        self.on_map(region)
        return region

    def find(self, address: int, size: int) -> tuple[Region, int]:
        """The region that holds [address, address + size) and the offset in its host mapping."""
        end = address + size
        first, last, latest, shift = self._latest
        if latest is not None and first <= address and end <= last:
            return latest, address + shift
        for known in self._ranges:
            first, last, region, shift = known
            if first <= address and end <= last:
                self._latest = known
                return region, address + shift
        raise BusError(f"no RAM at physical {address:#x}")

    def read(self, address: int, size: int) -> bytes:
        region, at = self.find(address, size)
        return region.data[at : at + size]

    def write(self, address: int, data: bytes) -> None:
        region, at = self.find(address, len(data))
        region.data[at : at + len(data)] = data
        self.on_write(region, address - region.base, len(data))

    def save(self) -> list[dict[int, bytes]]:
        """The pages of each region that are not all zero, by their offset in it."""
        return [dict(_pages(region)) for region in self.regions]

    def load(self, saved: list[dict[int, bytes]]) -> None:
        """Put back what save() gave. The caller makes the CPU forget its translations."""
        for region, pages in zip(self.regions, saved, strict=True):
            for at, page in _pages(region):
                if at not in pages or pages[at] != page:
                    region.data[region.offset + at : region.offset + at + PAGE] = pages.get(at, ZERO)
            for at, page in pages.items():
                region.data[region.offset + at : region.offset + at + PAGE] = page

    def read_u64(self, address: int) -> int:
        region, at = self.find(address, 8)
        value: int = U64.unpack_from(region.data, at)[0]
        return value

    def write_u64(self, address: int, value: int) -> None:
        self.write(address, U64.pack(value))

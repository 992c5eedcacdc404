"""The physical memory of a guest beside a PC, frame by frame: RAM, a page of Xen's in its place, or a hole.

Pages of Xen's, shared_info and those of the grant table, come where the guest wants them (XENMEM_add_to_physmap): over
its RAM, which is lost then, or where nothing was. A frame that the guest gives back is a hole.
What Xen writes to the guest's own memory is reported as a device's DMA is, to whoever shadows page tables there.
Simplified: DMA of a card that the guest was given reaches the RAM that was there before; what Xen itself writes into
its own pages, and into a vCPU's information that has moved to the guest's, is not reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hv.silicon.memory import BusError
from hv.silicon.x86_64.machine import Machine
from hv.silicon.x86_64.paging import ADDRESS, LARGE, PRESENT, WRITABLE
from modes.paravirt.abi import EFAULT, EINVAL, Refused
from modes.paravirt.guest_memory import GuestMemory

PAGE = 0x1000
HOLE = 0
CR0_WP = 1 << 16
ADDRESSABLE = 1 << 40 - 12  # frames: the CPU has 40 physical address bits


class Physmap:
    """`forget(address, size)`: what the CPU knows of these guest-physical addresses is true no longer."""

    def __init__(self, machine: Machine, forget: Callable[[int, int], None]) -> None:
        self.machine, self.forget = machine, forget
        self.placed: dict[int, int] = {}  # gfn -> host-physical address of a page, or HOLE

    def is_ram(self, gfn: int) -> bool:
        """Does the guest have RAM there that is its own?"""
        return gfn not in self.placed and self.machine.is_ram(gfn * PAGE, PAGE)

    def host(self, gfn: int) -> int | None:
        """Host-physical address of a frame's page; None: there is none."""
        if gfn in self.placed:
            return self.placed[gfn] or None
        return self.machine.ram_base + gfn * PAGE if self.machine.is_ram(gfn * PAGE, PAGE) else None

    def put(self, gfn: int, page: int) -> None:
        """Show `page` at a frame and no longer anywhere else; HOLE for nothing. Raises Refused."""
        if not 0 <= gfn < ADDRESSABLE:
            raise Refused(EINVAL)
        if page != HOLE:
            for old in [at for at, there in self.placed.items() if there == page]:
                self._set(old, HOLE)
        self._set(gfn, page)

    def restore_ram(self, gfn: int) -> None:
        """RAM comes back where a hole was, empty. Raises Refused."""
        if self.placed.get(gfn) != HOLE or not self.machine.is_ram(gfn * PAGE, PAGE):
            raise Refused(EINVAL)
        self.machine.memory.write(self.machine.ram_base + gfn * PAGE, bytes(PAGE))
        del self.placed[gfn]
        self.forget(gfn * PAGE, PAGE)

    def _set(self, gfn: int, page: int) -> None:
        if page == HOLE and not self.machine.is_ram(gfn * PAGE, PAGE):
            self.placed.pop(gfn, None)  # nothing was there before
        else:
            self.placed[gfn] = page
        self.forget(gfn * PAGE, PAGE)

    # --- for emulated devices, and for instructions on their registers -------------------------------------------

    def dma_read(self, address: int, size: int) -> bytes:
        """Bytes at a guest-physical address. Raises BusError where there is no memory."""
        return b"".join(self.machine.memory.read(host, length) for host, length in self._pieces(address, size))

    def dma_write(self, address: int, data: bytes) -> None:
        """Raises BusError, and writes nothing, where part of it is no memory."""
        done = 0
        for host, length in list(self._pieces(address, len(data))):
            self.machine.memory.write(host, data[done : done + length])
            done += length
        self.machine.dma_written(address, len(data))

    def _pieces(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """Host-physical address and length, a page at most each."""
        end = address + size
        while address < end:
            length = min(end - address, PAGE - address % PAGE)
            page = self.host(address // PAGE)
            if page is None:
                raise BusError(f"no memory at guest-physical {address:#x}")
            yield page + address % PAGE, length
            address += length

    # --- for grant tables: these frames are always the guest's own ------------------------------------------------

    def hold(self, frame: int, *, write: bool) -> int:
        if not self.is_ram(frame):
            raise Refused(EINVAL)
        return self.machine.ram_base + frame * PAGE

    def let_go(self, frame: int, *, write: bool) -> None:
        if write:
            self.machine.dma_written(frame * PAGE, PAGE)


class HvmMemory(GuestMemory):
    """Through the pointers of a guest's kernel, with its rights: the guest's own tables, then the physmap.

    `paging()` gives the CR0 and CR3 that the guest believes in. Machine addresses are guest-physical ones.
    """

    def __init__(self, physmap: Physmap, paging: Callable[[], tuple[int, int]]) -> None:
        super().__init__(physmap.machine.memory)
        self.physmap, self.paging = physmap, paging

    def machine_address(self, linear: int, *, write: bool) -> int:
        cr0, table = self.paging()
        linear &= (1 << 64) - 1
        if linear >> 47 not in (0, 0x1FFFF):
            raise Refused(EFAULT)
        needed = PRESENT | (WRITABLE if write and cr0 & CR0_WP else 0)
        for shift in (39, 30, 21, 12):
            entry = self.memory.read_u64(self._host((table & ADDRESS) + (linear >> shift & 511) * 8))
            if entry & needed != needed:
                raise Refused(EFAULT)
            if shift == 12 or (shift < 39 and entry & LARGE):
                mask = (1 << shift) - 1
                address = entry & ADDRESS & ~mask | linear & mask
                self._host(address)
                return address
            table = entry
        raise AssertionError("a walk has four levels")

    def fetch(self, address: int, size: int) -> bytes:
        return self.physmap.dma_read(address, size)

    def store(self, address: int, data: bytes) -> None:
        self.physmap.dma_write(address, data)

    def _host(self, gpa: int) -> int:
        page = self.physmap.host(gpa // PAGE)
        if page is None:
            raise Refused(EFAULT)
        return page | gpa % PAGE

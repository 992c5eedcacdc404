"""The guest's own page tables, and its memory: what its CPU would find there (APM vol. 2, 5.3 and 5.4)."""

from __future__ import annotations

import abc

import msgspec

from hv.silicon.memory import Memory
from hv.silicon.x86_64.machine import HOLE, HOLE_END, Machine
from hv.silicon.x86_64.paging import ADDRESS, LARGE, NX, PRESENT, USER, WRITABLE
from modes.shadow.registers import CR0_WP, EFER_NXE, GENERAL_PROTECTION, GuestFault, PagingRegisters

ACCESSED, DIRTY = 1 << 5, 1 << 6
PF_PRESENT, PF_WRITE, PF_USER, PF_RESERVED, PF_FETCH = 1, 2, 4, 8, 16
BEYOND = 0x000F_FF00_0000_0000  # address bits that this CPU, with 40 of them, reserves
PAGE_FAULT = 14
ALL = (1 << 64) - 1


class Step(msgspec.Struct):
    """One level of a walk: the table, the entry in it, and what the table's entries are for."""

    table: int
    entry: int
    level: int  # 4 is the top


class Walk(msgspec.Struct):
    """A successful walk."""

    gpa: int
    steps: list[Step]  # from the top to the leaf

    @property
    def leaf(self) -> Step | None:
        """Where the translation was found; None without paging."""
        return self.steps[-1] if self.steps else None


class GuestTables(abc.ABC):
    """`walk` translates; the other methods reach memory as the guest's CPU and its devices do."""

    def __init__(self, machine: Machine, v: PagingRegisters) -> None:
        self.memory: Memory = machine.memory
        self.v = v
        self.ram_base, self.ram_size = machine.ram_base, machine.ram_size
        self._low_size = min(machine.ram_size, HOLE)  # of the RAM below the hole
        self._ram = memoryview(machine.ram).cast("Q")

    @abc.abstractmethod
    def noticed(self, gpa: int, size: int) -> None:
        """Bytes within one page have been written."""

    # --- guest-physical memory --------------------------------------------------------------------------------

    def is_ram(self, gpa: int) -> bool:
        return gpa < self._low_size or HOLE_END <= gpa < HOLE_END + self.ram_size - HOLE

    def page(self, gpa: int) -> int | None:
        """Host-physical page of the memory at a guest-physical address; None: a device's registers, or nobody."""
        return self.ram_base + (gpa & ADDRESS) if self.is_ram(gpa) else None

    def page_to_map(self, gpa: int, *, fetch: bool = False) -> int | None:
        """The page that the guest may reach without an exit, to execute (`fetch`) too."""
        return self.page(gpa)

    def read_entry(self, gpa: int) -> int:
        """A word of a guest table; where there is no memory, the bus gives all ones."""
        if gpa < HOLE:
            return self._ram[gpa >> 3] if gpa < self.ram_size else ALL
        return self._ram[gpa - (HOLE_END - HOLE) >> 3] if self.is_ram(gpa) else ALL

    def read(self, gpa: int, size: int) -> bytes:
        """Bytes within one page."""
        page = self.page(gpa)
        return b"\xff" * size if page is None else self.memory.read(page + (gpa & 0xFFF), size)

    def write(self, gpa: int, data: bytes) -> None:
        """Write within one page, as if the guest had: traced tables and scanned code notice."""
        page = self.page(gpa)
        if page is not None:
            self.memory.write(page + (gpa & 0xFFF), data)
            self.noticed(gpa, len(data))

    def written_outside(self, gpa: int, size: int) -> None:
        """A device has written there, over as many pages as it likes."""
        while size:
            chunk = min(size, 0x1000 - gpa % 0x1000)
            self.noticed(gpa, chunk)
            gpa, size = gpa + chunk, size - chunk

    # --- the guest's tables -----------------------------------------------------------------------------------

    def walk(
        self, address: int, *, write: bool = False, user: bool = False, fetch: bool = False, touch: bool = True
    ) -> Walk:
        """Translate as the guest's CPU would, with accessed and dirty bits (APM vol. 2, 5.3 and 5.4).

        Without `touch` the bits are left alone.
        """
        v = self.v
        if not v.paging:
            return Walk(address & 0xFFFF_FFFF, [])
        if address >> 47 not in (0, 0x1FFFF):
            raise GuestFault(GENERAL_PROTECTION)
        nxe = bool(v.efer & EFER_NXE)
        code = write * PF_WRITE | user * PF_USER | (fetch and nxe) * PF_FETCH
        reserved = BEYOND if nxe else BEYOND | NX
        steps = []
        table = v.cr3 & ADDRESS
        rights, no_execute = WRITABLE | USER, 0
        for level in (4, 3, 2, 1):
            shift = 3 + 9 * level
            slot = address >> shift & 511
            entry = self.read_entry(table + 8 * slot)
            if not entry & PRESENT:
                raise GuestFault(PAGE_FAULT, code, address)
            large = entry & LARGE and level > 1
            if large and level < 4:
                unwanted = reserved | ((1 << shift) - 1 & ADDRESS & ~(1 << 12))
            else:
                unwanted = reserved | (LARGE if level == 4 else 0)
            if entry & unwanted:
                raise GuestFault(PAGE_FAULT, code | PF_PRESENT | PF_RESERVED, address)
            rights &= entry
            no_execute |= entry & NX
            leaf = Step(table, entry, level)
            steps.append(leaf)
            if large or level == 1:
                break
            # As the CPU does it: also when the walk ends in a fault further down.
            if touch and not entry & ACCESSED:
                leaf.entry = self._set_bits(table, entry, slot, ACCESSED)
            table = entry & ADDRESS
        if (
            (user and not rights & USER)
            or (write and not rights & WRITABLE and (user or v.cr0 & CR0_WP))
            or (fetch and no_execute)
        ):
            raise GuestFault(PAGE_FAULT, code | PF_PRESENT, address)
        bits = ACCESSED | DIRTY if write else ACCESSED
        if touch and leaf.entry & bits != bits:
            leaf.entry = self._set_bits(leaf.table, leaf.entry, slot, bits)
        mask = (1 << 3 + 9 * leaf.level) - 1
        return Walk(leaf.entry & ADDRESS & ~mask | address & mask, steps)

    def _set_bits(self, table: int, entry: int, slot: int, bits: int) -> int:
        page = self.page(table)
        if page is not None:
            entry |= bits
            self.memory.write_u64(page + 8 * slot, entry)
        return entry

    def read_linear(self, address: int, size: int, *, user: bool) -> bytes:
        """Data as the guest's CPU reads it. Raises GuestFault."""
        out = b""
        while len(out) < size:
            at = address + len(out) & ALL
            chunk = min(size - len(out), 0x1000 - at % 0x1000)
            out += self.read(self.walk(at, user=user).gpa, chunk)
        return out

    def write_linear(self, address: int, data: bytes, *, user: bool) -> None:
        """Write as the guest's CPU does; when it raises GuestFault, nothing is written."""
        places = []
        done = 0
        while done < len(data):
            at = address + done & ALL
            chunk = min(len(data) - done, 0x1000 - at % 0x1000)
            places.append((self.walk(at, user=user, write=True).gpa, data[done : done + chunk]))
            done += chunk
        for gpa, part in places:
            self.write(gpa, part)

"""Shadow page tables: what the real CPU walks, made from what the guest has written.

A shadow table stands for one guest table at one place of the address space, in one *view*: whose rights it holds (the
subclasses say what views there are). Entry i of it is derived from entry i of the guest's; the real CPU combines the
rights of the levels as it always does. Tables are found by (guest table, level, view, linear address), so several
address spaces share what they share. They are filled on a fault (`fill`) and emptied when the guest's entry changes: a
guest table in use is *traced*, that is mapped read-only wherever it is mapped.

A table of the last level that is written in a burst is left *out of sync*: it may be written freely, and what was
derived from it stays, as in a TLB, until the CPU would have to look again. Then what has changed is dropped: one entry
at INVLPG, all tables at a load of CR3 or a write of CR0 or CR4, which also trace them again. A copy of the table tells
what has changed. A table out of sync that no fill has used through several such rounds is a table no more: it is
forgotten whole. So is, at once, a table of a higher level that is written in a burst, until the next fill reads it
again; so no entry of a higher level is ever out of date.

Simplified: shadow leaves are 4 KiB pages. The cache is dropped as a whole when it is full.
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import msgspec

from hv.silicon.x86_64.machine import Machine
from hv.silicon.x86_64.paging import ADDRESS, LARGE, NX, PRESENT, USER, WRITABLE
from hv.x86_64.pool import HypervisorMemory
from modes.shadow.guest_tables import ACCESSED, DIRTY, GuestTables, Step, Walk
from modes.shadow.registers import CR0_PG, PagingRegisters

MOST_TABLES = 4096
MOST_LEAVES = 1 << 17  # pages mapped at a time, over all shadow tables
BURST = 4  # more different entries than this, written between two fills, are a burst
IDLE_ROUNDS = 3  # so often synchronised without a fill in between: no table any more
NOBODY = -1  # stands for the guest table of a shadow table that has none

# What a shadow table stands for: (guest-physical base, level, view, linear address, made from one large page).
Key = tuple[int, int, int, int, bool]


class PagerState(msgspec.Struct):
    """Everything that the pager remembers besides the tables themselves, which are in the pool."""

    used: int = 0
    leaves: int = 0
    tables: dict[Key, int] = {}  # to host-physical addresses
    of_guest: dict[int, list[Key]] = {}  # guest table -> its shadow tables
    traced: set[int] = set()  # guest tables that are mapped read-only
    written: dict[int, set[int]] = {}  # traced table -> entries written since the last fill
    out_of_sync: dict[int, list[int]] = {}  # table that is not traced -> its entries as the shadow knows them
    idle: dict[int, int] = {}  # table -> how often it was synchronised since the last fill
    maps: dict[int, dict[int, int]] = {}  # guest frame -> the shadow entries that map it, and their linear addresses
    placed: dict[int, int] = {}  # host-physical page that is not the RAM of a guest frame -> where the guest has it
    scanned: set[int] = set()  # frames that may be executed, and not written
    kernel_tables: set[int] = set()  # full_emulation/pager.py: shadow entries that point at page tables for the kernel
    hidden: bool = False  # and may nothing be executed there?


class Pager(GuestTables):
    """`fill` makes the tables that the real CPU walks."""

    top_without_paging = 4  # level of the shadow root while the guest has paging off

    def __init__(self, machine: Machine, pool: HypervisorMemory, v: PagingRegisters) -> None:
        super().__init__(machine, v)
        self.base = pool.alloc(MOST_TABLES)
        start = self.base - pool.region.base
        self._bytes = memoryview(pool.region.data)[start : start + MOST_TABLES * 0x1000]
        self._pool = self._bytes.cast("Q")
        self.s = PagerState()
        self.flush: Callable[[], None] = lambda: None  # the real TLB
        self.dropped: Callable[[], None] = lambda: None  # all tables are gone, also the ones that other CPUs walk
        self.code_lost: Callable[[], None] = lambda: None  # an executable mapping has gone
        self.scan: Callable[[int, int], None] | None = None  # look at code before it runs: its address, its frame

    @abc.abstractmethod
    def view(self) -> int:
        """Which view the guest's CPU needs now."""

    def view_below(self, view: int, entry: int) -> int:
        """The view of the table that `entry` of a table in `view` points at."""
        return view

    @abc.abstractmethod
    def rights(self, view: int, entry: int, *, leaf: bool, write: bool) -> int:
        """USER and WRITABLE for the shadow of a guest's entry. `write`: it is filled for a write."""

    def page_table_linked(self, at: int, view: int) -> None:
        """The shadow entry at `at` points at a page table of `view` now."""

    # --- guest-physical memory --------------------------------------------------------------------------------

    def noticed(self, gpa: int, size: int) -> None:
        """A page has changed. Is it a table that is shadowed, or code that was searched?"""
        frame = gpa & ADDRESS
        if frame in self.s.traced:
            self.entries_written(gpa, size)
        if frame in self.s.scanned:
            self.forget_code(frame)

    # --- the shadow -------------------------------------------------------------------------------------------

    def root(self) -> int:
        """Host-physical address of the shadow root for the guest's CPU as it is now."""
        v = self.v
        if v.cr0 & CR0_PG:
            key: Key = v.cr3 & ADDRESS, 4, self.view(), 0, False
        else:
            key = 0, self.top_without_paging, self.view(), 0, True
        return self.s.tables.get(key) or self._table(key)

    def _table(self, key: Key) -> int:
        s = self.s
        found = s.tables.get(key)
        if found is None:
            if s.used == MOST_TABLES:
                self.drop_all()
            found = s.tables[key] = self.base + (s.used << 12)
            s.used += 1
            if not key[4]:
                s.of_guest.setdefault(key[0], []).append(key)
        return found

    def drop_all(self) -> None:
        """Forget every table. Whoever calls it, or fills, loads the root again."""
        size = self.s.used << 12
        self._bytes[:size] = bytes(size)
        self.s = PagerState(scanned=self.s.scanned, hidden=self.s.hidden)
        self.dropped()
        self.flush()
        self.code_lost()

    def fill(self, address: int, walk: Walk, *, write: bool = False, fetch: bool = False) -> None:
        """Make the real CPU translate `address` as `walk` found, with the rights that the guest gives and no more."""
        if self.s.used > MOST_TABLES - 4 or self.s.leaves == MOST_LEAVES:
            self.drop_all()
        view, table = self.view(), self.root()
        steps = walk.steps
        for level in range(4 if self.v.paging else self.top_without_paging, 1, -1):
            shift = 3 + 9 * level
            below = address & -(1 << shift) & (1 << 48) - 1
            at = (table - self.base >> 3) + (address >> shift & 511)
            step = steps[4 - level] if 4 - level < len(steps) else None
            flags = self._flags(step, address, view, leaf=step is walk.leaf, write=write)
            if step is None or step is walk.leaf:
                key: Key = walk.gpa & -(1 << shift), level - 1, view, below, True
            else:
                view = self.view_below(view, step.entry)
                key = step.entry & ADDRESS, level - 1, view, below, False
            table = self._table(key)
            self._pool[at] = table | (flags if self.v.paging or level < 3 or self.top_without_paging == 4 else PRESENT)
            if level == 2:
                self.page_table_linked(at, view)
        step = steps[3] if len(steps) == 4 else None
        flags = self._flags(step, address, view, leaf=True, write=write)
        page = self.page_to_map(walk.gpa, fetch=fetch)
        if page is not None:  # a device's registers, where another CPU has just changed an entry
            self._fill_leaf(table, address, walk.gpa & ADDRESS, page, flags, fetch)

    def _flags(self, step: Step | None, address: int, view: int, *, leaf: bool, write: bool) -> int:
        """The low bits and NX of a shadow entry. No step: inside a large page, or no paging: nothing more to say."""
        flags = PRESENT | ACCESSED | DIRTY
        if step is None:
            return flags | USER | WRITABLE
        self._use(step, address >> 3 + 9 * step.level & 511)
        flags |= self.rights(view, step.entry, leaf=leaf, write=write) | step.entry & NX
        return flags & ~WRITABLE if leaf and not step.entry & DIRTY else flags

    def _fill_leaf(self, table: int, address: int, frame: int, page: int, flags: int, fetch: bool) -> None:
        s, pool = self.s, self._pool
        at = (table - self.base >> 3) + (address >> 12 & 511)
        if self.scan is not None:
            if fetch:
                self.scan(address, frame)
                self._protect(frame)
                s.scanned.add(frame)
            elif not pool[at] or pool[at] & NX:
                flags |= NX
        if frame in s.traced or frame in s.scanned:
            flags &= ~WRITABLE
        if page != self.ram_base + frame:
            s.placed[page] = frame
        s.leaves += not pool[at]
        pool[at] = page | flags
        s.maps.setdefault(frame, {})[at] = address & -0x1000

    def hang(self, address: int, table: int) -> bool:
        """Map a page table of the hypervisor's own at 2 MiB that the guest's tables leave empty, in the current view.

        False when the guest has something there, or takes rights away above it. What is hung is lost with the tables,
        and when the guest writes an entry above it: code_lost tells.
        """
        if self.s.used > MOST_TABLES - 4:
            self.drop_all()
        view, at, guest = self.view(), self.root(), self.v.cr3 & ADDRESS
        empty = not self.v.paging
        for level in (4, 3, 2):
            shift = 3 + 9 * level
            slot = address >> shift & 511
            entry = 0
            if not empty:
                if guest in self.s.out_of_sync:
                    self._synchronise(guest)
                self._trace(guest)
                entry = self.read_entry(guest + 8 * slot)
                empty = not entry & PRESENT
            if not empty and (level == 2 or entry & (LARGE | NX) or not entry & WRITABLE):
                return False
            below = address & -(1 << shift) & (1 << 48) - 1
            key: Key = (NOBODY if empty else entry & ADDRESS), level - 1, view, below, empty
            to = table if level == 2 else self._table(key)
            self.s.kernel_tables.discard((at - self.base >> 3) + slot)
            self._pool[(at - self.base >> 3) + slot] = to | PRESENT | USER | WRITABLE | ACCESSED | DIRTY
            at, guest = to, entry & ADDRESS
        return True

    def _use(self, step: Step, slot: int) -> None:
        """A fill derives an entry from a guest's: its table is in use, and writes to it must be seen."""
        s, table = self.s, step.table
        s.written.pop(table, None)
        s.idle.pop(table, None)
        if table in s.out_of_sync:
            if step.level == 1:
                self._look_again(table, slot)
                return
            self._synchronise(table)
        self._trace(table)

    def _trace(self, table: int) -> None:
        if table not in self.s.traced:
            self.s.traced.add(table)
            self._protect(table)

    def _protect(self, frame: int) -> None:
        """Take the right to write away from every mapping of a frame."""
        taken = False
        for at in self.s.maps.get(frame, ()):
            if self._pool[at] & WRITABLE:
                self._pool[at] &= ~WRITABLE
                taken = True
        if taken:
            self.flush()

    def _zap(self, at: int, level: int) -> bool:
        """Empty one shadow entry. True when there was something in it."""
        entry = self._pool[at]
        if not entry:
            return False
        self._pool[at] = 0
        self.s.kernel_tables.discard(at)
        if level == 1:
            page = entry & ADDRESS
            frame = self.s.placed.get(page, page - self.ram_base)
            self.s.leaves -= 1
            mapped = self.s.maps[frame]
            del mapped[at]
            if not mapped:
                del self.s.maps[frame]
        if level > 1 or not entry & NX:
            self.code_lost()
        return True

    def forget_frames(self, gpa: int, size: int) -> None:
        """Something else lies at these guest-physical addresses now: drop all that was made of what was there."""
        for frame in range(gpa & ADDRESS, gpa + size, 0x1000):
            for at in list(self.s.maps.get(frame, ())):
                self._zap(at, 1)
            if frame in self.s.of_guest:
                self.forget_table(frame)
            self.s.scanned.discard(frame)
        self.flush()

    def entries_written(self, gpa: int, size: int) -> None:
        """The guest has written to a traced table: what was derived from those entries is void."""
        s = self.s
        table = gpa & ADDRESS
        first, last = (gpa & 0xFFF) >> 3, (gpa & 0xFFF) + size - 1 >> 3
        changed = False
        for key in s.of_guest.get(table, ()):
            at = s.tables[key] - self.base >> 3
            for slot in range(first, last + 1):
                changed |= self._zap(at + slot, key[1])
        if changed:
            self.flush()
        written = s.written.setdefault(table, set())
        written.update(range(first, last + 1))
        if len(written) > BURST and not self.leave_out_of_sync(table):
            self.forget_table(table)

    # --- tables out of sync -----------------------------------------------------------------------------------

    def leave_out_of_sync(self, table: int) -> bool:
        """Let a traced table be written without exits. False: it is none of the last level, and must not."""
        s = self.s
        if any(key[1] > 1 for key in s.of_guest.get(table, ())):
            return False
        if s.idle.get(table, 0) >= IDLE_ROUNDS:
            self.forget_table(table)
            return True
        s.traced.discard(table)
        s.written.pop(table, None)
        s.out_of_sync[table] = [self.read_entry(table + 8 * slot) for slot in range(512)]
        return True

    def synchronise(self) -> None:
        """The guest has flushed the TLB."""
        for table in list(self.s.out_of_sync):
            self._synchronise(table)
            self.s.idle[table] = self.s.idle.get(table, 0) + 1

    def synchronise_page(self, address: int) -> None:
        """The guest has flushed one page from the TLB."""
        linear = address & (1 << 48) - 1 & -(1 << 21)
        for table in self.s.out_of_sync:
            if any(key[3] == linear for key in self.s.of_guest[table]):
                self._look_again(table, address >> 12 & 511)

    def _synchronise(self, table: int) -> None:
        for slot in range(512):
            self._look_again(table, slot)
        del self.s.out_of_sync[table]
        self._trace(table)

    def _look_again(self, table: int, slot: int) -> None:
        """Drop what was derived from an entry, if that has changed by more than bits that the CPU itself has set."""
        s = self.s
        known, now = s.out_of_sync[table], self.read_entry(table + 8 * slot)
        changed = known[slot] ^ now
        own = (ACCESSED | DIRTY) & now
        if changed & ~own:
            zapped = [self._zap((s.tables[key] - self.base >> 3) + slot, 1) for key in s.of_guest[table]]
            if any(zapped):
                self.flush()
        known[slot] = now

    def forget_table(self, table: int) -> None:
        """Drop everything that was derived from a guest table, and let it be written."""
        s = self.s
        for key in s.of_guest.get(table, ()):
            at = s.tables[key] - self.base >> 3
            for slot in range(512):
                self._zap(at + slot, key[1])
        s.traced.discard(table)
        for record in (s.written, s.out_of_sync, s.idle):
            record.pop(table, None)
        self.flush()

    def forget_code(self, frame: int) -> None:
        """A scanned frame is written: it is data now, until it is executed again."""
        self.s.scanned.discard(frame)
        for at in self.s.maps.get(frame, ()):
            self._pool[at] |= NX
        self.code_lost()
        self.flush()

    def scan_again(self, frame: int) -> None:
        """Scanned code has been written by itself: scan it where it can be executed, and protect it again."""
        for at, linear in list(self.s.maps.get(frame, {}).items()):
            if self.scan is not None and not self._pool[at] & NX:
                self.scan(linear, frame)
        self._protect(frame)
        self.code_lost()

    def forget_all_code(self) -> None:
        """Every frame has to be looked at again before it is executed."""
        for frame in list(self.s.scanned):
            self.forget_code(frame)

    def allow_once(self, address: int) -> None:
        """Let the current view write to the page at `address`, whatever is in it."""
        table = self.root()
        for level in range(4 if self.v.paging else self.top_without_paging, 1, -1):
            table = self._pool[(table - self.base >> 3) + (address >> 3 + 9 * level & 511)] & ADDRESS
        at = (table - self.base >> 3) + (address >> 12 & 511)
        if self._pool[at]:
            self._pool[at] |= WRITABLE

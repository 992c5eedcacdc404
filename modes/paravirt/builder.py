"""The domain builder: what lies in a new domain's memory when its first instruction runs (public/xen.h, start of day).

From the kernel's virtual base upwards, each piece on a page of its own:

    the kernel's image | list of machine frames | start_info | xenstore ring | console ring | page tables | stack

Pseudo-physical page 0 is at the virtual base. The frames behind the pages are scattered over the machine's RAM, so
that a kernel that takes the one for the other does not get far.
"""

from __future__ import annotations

import math
import struct

import msgspec

from hv.errors import HvError
from hv.loader import Guest, XenNotes
from modes.paravirt.calls.table import hypercall_page
from modes.paravirt.domain import Domain
from modes.paravirt.frames import Kind

PAGE = 0x1000
PRESENT, WRITABLE, USER, ACCESSED, DIRTY = 1, 2, 4, 0x20, 0x40
TABLE_ENTRY = PRESENT | WRITABLE | USER | ACCESSED
ALIGNMENT, PADDING = 4 << 20, 512 << 10  # of the region that is mapped, and free room at its end
MAGIC = b"xen-3.0-x86_64"
COMMAND_LINE = 1024
START_INFO = struct.Struct(f"<32sQQI4xQI4xQI4xQQQQQ{COMMAND_LINE}sQQ")


class Layout(msgspec.Struct, frozen=True):
    """First pseudo-physical page of each piece."""

    frame_list: int
    start_info: int
    store: int
    console: int
    tables: int
    stack: int
    end: int  # of the mapped region


class Start(msgspec.Struct, frozen=True):
    """The vCPU's first state."""

    entry: int
    stack: int
    start_info: int
    root: int  # mfn


def scatter(pages: int) -> list[int]:
    """Which frame of RAM each page gets: a step around the clock that shares no factor with the size."""
    step = int(pages * 0.618) | 1
    while math.gcd(step, pages) != 1:
        step += 2
    return [(page * step + pages // 3) % pages for page in range(pages)]


def table_counts(base: int, pages: int) -> list[int]:
    """How many tables of level 1, 2, 3 and 4 map `pages` pages from `base` on."""
    last = base + pages * PAGE - 1
    return [(last >> shift) - (base >> shift) + 1 for shift in (21, 30, 39)] + [1]


def lay_out(image_pages: int, total_pages: int, base: int) -> Layout:
    frame_list = image_pages
    start_info = frame_list + -(-total_pages * 8 // PAGE)
    tables = start_info + 3
    end = tables
    while True:  # the tables lie in the region that they map
        stack = tables + sum(table_counts(base, end))
        needed = (base + (stack + 1) * PAGE + PADDING + ALIGNMENT - 1 & -ALIGNMENT) - base >> 12
        if needed == end:
            return Layout(frame_list, start_info, start_info + 1, start_info + 2, tables, stack, end)
        end = needed


class Builder:
    """Fills the frames of a domain that owns all of `mfns`, by pseudo-physical page."""

    def __init__(
        self, domain: Domain, guest: Guest, notes: XenNotes, mfns: list[int], command_line: bytes
    ) -> None:  # fmt: skip
        self.domain, self.guest, self.notes, self.mfns, self.command_line = domain, guest, notes, mfns, command_line
        image_end = max(segment.address + segment.size for segment in guest.segments) - notes.paddr_offset
        self.layout = lay_out(-(-image_end // PAGE), len(mfns), notes.virt_base)
        if self.layout.end > len(mfns):
            raise HvError(f"guest {guest.path} needs {self.layout.end // 256} MiB to start as a PV domain", 1)

    def write(self, address: int, data: bytes) -> None:
        """Write to pseudo-physical memory."""
        done = 0
        while done < len(data):
            at = address + done
            chunk = min(len(data) - done, PAGE - at % PAGE)
            self.domain.memory.write((self.mfns[at // PAGE] << 12) + at % PAGE, data[done : done + chunk])
            done += chunk

    def virtual(self, page: int) -> int:
        return self.notes.virt_base + page * PAGE

    def build(self) -> Start:
        d, layout = self.domain, self.layout
        for segment in self.guest.segments:
            self.write(segment.address - self.notes.paddr_offset, segment.data)
        self.write(self.notes.hypercall_page - self.notes.virt_base, hypercall_page())
        self.write(layout.frame_list * PAGE, struct.pack(f"<{len(self.mfns)}Q", *self.mfns))
        for page, mfn in enumerate(self.mfns):
            d.xen.set_pfn(mfn, page)
        d.store, d.console = self.mfns[layout.store], self.mfns[layout.console]
        root = self._tables()
        self._start_info()
        d.frames.pin(root, Kind.L4, d.domid)
        for ring in (d.store, d.console):  # domain 0 has them mapped too: they stay what they are
            d.frames.take_as(ring, Kind.WRITABLE, d.domid)
        return Start(self.notes.entry, self.virtual(layout.stack + 1), self.virtual(layout.start_info), root)

    def _tables(self) -> int:
        """Everything up to the end of the region mapped, the tables themselves read-only. Returns the top one's mfn."""
        layout, base = self.layout, self.notes.virt_base
        counts = table_counts(base, layout.end)
        first = [layout.tables + sum(counts[level + 1 :]) for level in range(4)]  # the top one lies first
        tables = range(layout.tables, layout.stack)
        for page in range(layout.end):
            linear = base + page * PAGE
            entry = self.mfns[page] << 12 | PRESENT | USER | ACCESSED | (0 if page in tables else WRITABLE | DIRTY)
            table = first[0] + (linear >> 21) - (base >> 21)
            self.write(table * PAGE + (linear >> 12 & 511) * 8, struct.pack("<Q", entry))
        for level in (1, 2, 3):
            shift = 12 + 9 * level
            for index in range(counts[level - 1]):
                linear = (base >> shift) + index  # of the table below
                table = first[level] + (linear >> 9) - (base >> shift + 9) if level < 3 else first[3]
                entry = self.mfns[first[level - 1] + index] << 12 | TABLE_ENTRY
                self.write(table * PAGE + (linear & 511) * 8, struct.pack("<Q", entry))
        return self.mfns[first[3]]

    def _start_info(self) -> None:
        d, layout = self.domain, self.layout
        self.write(
            layout.start_info * PAGE,
            START_INFO.pack(
                MAGIC, len(self.mfns), d.events.shared, 0, d.store, d.store_port, d.console, d.console_port,
                self.virtual(layout.tables), layout.stack - layout.tables, self.virtual(layout.frame_list), 0, 0,
                self.command_line,
                0, 0,
            ),
        )  # fmt: skip

"""Grant tables, version 1: how a domain lets another one use a frame of its memory (Xen, public/grant_table.h).

The table is the granting domain's own memory, 512 entries a page, and a reference is an index into it:

    u16 flags    bits 1:0  1 = access permitted    bit 2 read only    bit 3 is read    bit 4 is written
    u16 domid    who may
    u32 frame    what: a machine frame of a PV domain, a guest-physical one under nested paging

Bits 3 and 4 are set here while somebody has the frame, so that the owner can see when it may take the grant back. What
the owner writes there meanwhile changes nothing for who has it already: the first use decides which frame it is.

The granting domain is the guest, who uses the grant is domain 0 (the back ends), or the guest itself, where it grants
to itself. Simplified: table version 1 alone, and no transfer of frames, which nobody uses any more.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from hv.silicon.memory import Memory
from modes.paravirt.abi import BACKEND_DOMID, Refused
from modes.paravirt.foreign import PAGE, ForeignMemory

ENTRY = struct.Struct("<HHI")
ENTRIES_A_PAGE = PAGE // ENTRY.size
MOST_FRAMES = 64  # of the table: Xen's default of gnttab_max_frames
MOST_HANDLES = 8192  # mappings at a time
MOST_USES = 255  # of one entry, each for reading and for writing: Xen's counts have 8 bits
TYPE_MASK, PERMIT_ACCESS = 3, 1
READ_ONLY, READING, WRITING = 1 << 2, 1 << 3, 1 << 4


class Status(enum.IntEnum):
    """GNTST_*: what an operation on a grant says."""

    OKAY = 0
    GENERAL_ERROR = -1
    BAD_DOMAIN = -2
    BAD_REFERENCE = -3
    BAD_HANDLE = -4
    BAD_ADDRESS = -5
    PERMISSION_DENIED = -8
    BAD_PAGE = -9
    BAD_COPY_ARGUMENT = -10
    NO_SPACE = -13


class GrantRefused(Exception):
    """The grant cannot be used so. `status` says why."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


class Use(NamedTuple):
    """An entry that somebody uses now: of which frame, how often for reading only, and how often for writing."""

    domid: int
    frame: int
    address: int = 0  # host-physical
    readers: int = 0
    writers: int = 0


class Handle(NamedTuple):
    """A mapping: of which reference, to write too, and how (GNTMAP_ flags) if it is the guest's own."""

    ref: int
    write: bool
    flags: int = 0


class GrantsState(msgspec.Struct):
    frames: list[int] = msgspec.field(default_factory=list)  # mfns of the table's pages
    uses: dict[int, Use] = msgspec.field(default_factory=dict)  # by reference
    handles: dict[int, Handle] = msgspec.field(default_factory=dict)
    refused: int = 0  # uses that were refused


class View:
    """A mapped frame. `handle` is what a snapshot keeps of it; Grants.view() makes it a view again."""

    def __init__(self, memory: Memory, handle: int, address: int, *, write: bool) -> None:
        self.memory, self.handle, self.address, self.writable = memory, handle, address, write

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from byte `offset` of the frame."""
        self._check(offset, size)
        return self.memory.read(self.address + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        if not self.writable:
            raise GrantRefused(Status.GENERAL_ERROR)
        self._check(offset, len(data))
        self.memory.write(self.address + offset, data)

    @staticmethod
    def _check(offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > PAGE:
            raise GrantRefused(Status.BAD_COPY_ARGUMENT)


class Grants:
    """The grant table of a domain, whose pages `new_page()` makes: mfns that are shared with it."""

    def __init__(self, memory: Memory, foreign: ForeignMemory) -> None:
        self.memory, self.foreign = memory, foreign
        self.new_page: Callable[[], int] = lambda: 0
        self.s = GrantsState()

    # --- the table --------------------------------------------------------------------------------------------

    def grow(self, frames: int) -> list[int]:
        """The mfns of the first `frames` pages of the table, which are made if they are missing."""
        if frames > MOST_FRAMES:
            raise GrantRefused(Status.GENERAL_ERROR)
        while len(self.s.frames) < frames:
            self.s.frames.append(self.new_page())
        return self.s.frames[:frames]

    def _entry(self, ref: int) -> int:
        """Host-physical address of an entry."""
        if not 0 <= ref < len(self.s.frames) * ENTRIES_A_PAGE:
            raise GrantRefused(Status.BAD_REFERENCE)
        return self.s.frames[ref // ENTRIES_A_PAGE] * PAGE + ref % ENTRIES_A_PAGE * ENTRY.size

    def _flags(self, ref: int, *, set_: int = 0, clear: int = 0) -> None:
        at = self._entry(ref)
        (flags,) = struct.unpack("<H", self.memory.read(at, 2))
        self.memory.write(at, struct.pack("<H", flags & ~clear | set_))

    # --- uses -------------------------------------------------------------------------------------------------

    def _acquire(self, ref: int, domid: int, *, write: bool) -> int:
        """One more use. Returns the host-physical address of the frame."""
        try:
            return self._try_to_acquire(ref, domid, write=write)
        except GrantRefused:
            self.s.refused += 1
            raise

    def _try_to_acquire(self, ref: int, domid: int, *, write: bool) -> int:
        flags, granted_to, frame = ENTRY.unpack(self.memory.read(self._entry(ref), ENTRY.size))
        use = self.s.uses.get(ref)
        if use is None:
            if flags & TYPE_MASK != PERMIT_ACCESS or granted_to != domid:
                raise GrantRefused(Status.GENERAL_ERROR)
            use = Use(domid, frame)
        elif use.domid != domid or (use.writers if write else use.readers) == MOST_USES:
            raise GrantRefused(Status.GENERAL_ERROR)
        if write and not use.writers and flags & READ_ONLY:
            raise GrantRefused(Status.GENERAL_ERROR)
        try:
            address = self.foreign.hold(use.frame, write=write)
        except Refused:
            raise GrantRefused(Status.GENERAL_ERROR if ref in self.s.uses else Status.BAD_PAGE) from None
        self._flags(ref, set_=READING | (WRITING if write else 0))
        self.s.uses[ref] = use._replace(address=address, readers=use.readers + (not write), writers=use.writers + write)
        return address

    def _release(self, ref: int, *, write: bool) -> None:
        use = self.s.uses[ref]
        self.foreign.let_go(use.frame, write=write)
        use = use._replace(readers=use.readers - (not write), writers=use.writers - write)
        if write and not use.writers:
            self._flags(ref, clear=WRITING)
        if use.readers or use.writers:
            self.s.uses[ref] = use
        else:
            del self.s.uses[ref]
            self._flags(ref, clear=READING)

    # --- what back ends call ----------------------------------------------------------------------------------

    def map(self, ref: int, *, write: bool, domid: int = BACKEND_DOMID, flags: int = 0) -> View:
        """Domain `domid` has the frame until unmap(). Raises GrantRefused."""
        handle = next((n for n in range(MOST_HANDLES) if n not in self.s.handles), None)
        if handle is None:
            raise GrantRefused(Status.NO_SPACE)
        address = self._acquire(ref, domid, write=write)
        self.s.handles[handle] = Handle(ref, write, flags)
        return View(self.memory, handle, address, write=write)

    def view(self, handle: int) -> View:
        """The view of a mapping that is held, after a snapshot."""
        ref, write, _ = self.s.handles[handle]
        return View(self.memory, handle, self.s.uses[ref].address, write=write)

    def unmap(self, handle: int) -> None:
        """The mapping ends. Raises GrantRefused."""
        if handle not in self.s.handles:
            raise GrantRefused(Status.BAD_HANDLE)
        ref, write, _ = self.s.handles.pop(handle)
        self._release(ref, write=write)

    def read(self, ref: int, offset: int, size: int, domid: int = BACKEND_DOMID) -> bytes:
        """A copy of `size` bytes from byte `offset` of the granted frame (GNTTABOP_copy). Raises GrantRefused."""
        _check_copy(offset, size)
        address = self._acquire(ref, domid, write=False)
        try:
            return self.memory.read(address + offset, size)
        finally:
            self._release(ref, write=False)

    def write(self, ref: int, offset: int, data: bytes, domid: int = BACKEND_DOMID) -> None:
        """A copy of `data` into the granted frame, from byte `offset` on (GNTTABOP_copy). Raises GrantRefused."""
        _check_copy(offset, len(data))
        address = self._acquire(ref, domid, write=True)
        try:
            self.memory.write(address + offset, data)
        finally:
            self._release(ref, write=True)

    def drop_all(self) -> None:
        """The granting domain is gone, or all who used its grants are."""
        for handle in sorted(self.s.handles):
            self.unmap(handle)


def _check_copy(offset: int, size: int) -> None:
    if offset < 0 or size < 0 or offset + size > PAGE:
        raise GrantRefused(Status.BAD_COPY_ARGUMENT)

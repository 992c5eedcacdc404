"""Loads the guest: a 64-bit ELF file with a PVH note, checked before a byte of it reaches the guest's memory."""

from __future__ import annotations

import hashlib
import io
import itertools
import struct
from pathlib import Path

import msgspec
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from hv.errors import HvError

# ELF notes of the owner "Xen" (Xen public headers, elfnote.h)
NOTE_ENTRY, NOTE_HYPERCALL_PAGE, NOTE_VIRT_BASE, NOTE_PADDR_OFFSET, NOTE_PHYS32_ENTRY = 1, 2, 3, 4, 18
ROM, RESET_VECTOR = 0xF_0000, 0xF_FFF0
LOWEST, HIGHEST = 0x10_0000, 1 << 30  # where a kernel may be loaded


class Segment(msgspec.Struct, frozen=True):
    """`data` goes to guest-physical `address`; the rest up to `size` bytes is zero."""

    address: int
    size: int
    data: bytes


class XenNotes(msgspec.Struct, frozen=True):
    """What a kernel says that starts as a Xen PV domain: linear addresses, and by how much paddrs are to be lowered."""

    entry: int
    hypercall_page: int
    virt_base: int
    paddr_offset: int


class Guest(msgspec.Struct, frozen=True):
    """A guest image. `entry` is the guest-physical address of its 32-bit entry point."""

    path: Path
    sha256: str
    entry: int
    segments: list[Segment]
    symbols: dict[str, int]
    image: bytes
    xen: XenNotes | None = None  # for a PV domain

    def marks(self) -> tuple[int, int]:
        """Addresses of the begin and end marks of an operation; zeros for a guest without them."""
        return self.symbols.get("hv_mark_begin", 0), self.symbols.get("hv_mark_end", 0)

    def user_text(self) -> bytes:
        """The code of the user programs, as it lies at `user_text_start`."""
        elf = ELFFile(io.BytesIO(self.image))
        section = elf.get_section_by_name(".user_text")
        return b"" if section is None else section.data()


def default_guest() -> Path:
    """The kernel that was built with this hv."""
    return Path(__file__).parent / "_built" / "kernel.elf"


def load_firmware() -> Guest:
    """The firmware that was built with this hv: 64 KiB below 1 MiB, entered at the reset vector."""
    path = default_guest().with_name("firmware.bin")
    try:
        image = path.read_bytes()
    except OSError as error:
        raise HvError(f"firmware {path}: {error.strerror}; make builds it", 1) from None
    return Guest(path, hashlib.sha256(image).hexdigest(), RESET_VECTOR, [Segment(ROM, len(image), image)], {}, image)


def load_guest(path: Path) -> Guest:
    """Read and check an ELF file. Raises HvError with what is wrong with it."""
    try:
        image = path.read_bytes()
    except OSError as error:
        raise HvError(f"guest {path}: {error.strerror}; make builds the default guest", 1) from None
    try:
        return _parse(path, image)
    except (ELFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError) as error:
        raise HvError(f"guest {path}: not a whole ELF file ({error or type(error).__name__})", 1) from None


def _parse(path: Path, image: bytes) -> Guest:
    elf = ELFFile(io.BytesIO(image))
    if elf.elfclass != 64 or elf["e_machine"] != "EM_X86_64":
        raise HvError(f"guest {path}: wrong machine ({elf['e_machine']}, {elf.elfclass}-bit); x86-64 is needed", 1)
    segments: list[Segment] = []
    notes: dict[int, int] = {}
    for part in elf.iter_segments():
        if part["p_type"] == "PT_LOAD":
            data = part.data()
            if len(data) != part["p_filesz"] or part["p_filesz"] > part["p_memsz"]:
                raise HvError(f"guest {path}: truncated, a segment goes beyond the end of the file", 1)
            segments.append(Segment(part["p_paddr"], part["p_memsz"], data))
        elif part["p_type"] == "PT_NOTE":
            notes |= _notes(part.data())
    entry = notes.get(NOTE_PHYS32_ENTRY)
    segments.sort(key=lambda segment: segment.address)
    if entry is None or not segments:
        raise HvError(f"guest {path}: no PVH entry note, hv does not know where to start it", 1)
    for low, high in itertools.pairwise(segments):
        if low.address + low.size > high.address:
            raise HvError(f"guest {path}: segments overlap at {high.address:#x}", 1)
    if segments[0].address < LOWEST or segments[-1].address + segments[-1].size > HIGHEST:
        raise HvError(f"guest {path}: a segment lies outside {LOWEST:#x} to {HIGHEST:#x}", 1)
    if not any(s.address <= entry < s.address + len(s.data) for s in segments):
        raise HvError(f"guest {path}: the entry point {entry:#x} lies in no segment", 1)
    table = elf.get_section_by_name(".symtab")
    symbols = {}
    if isinstance(table, SymbolTableSection):
        symbols = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols() if symbol.name}
    xen = _xen_notes(path, segments, notes)
    return Guest(path, hashlib.sha256(image).hexdigest(), entry, segments, symbols, image, xen)


def _notes(data: bytes) -> dict[int, int]:
    """The notes of Xen's that hold a number, by type. (pyelftools gives the types of another owner's notes names.)"""
    found, at = {}, 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("<III", data, at)
        name, at = data[at + 12 : at + 12 + name_size], at + 12 + (name_size + 3 & ~3)
        if name == b"Xen\0" and size in (4, 8):
            found[kind] = int.from_bytes(data[at : at + size], "little")
        at += size + 3 & ~3
    return found


def _xen_notes(path: Path, segments: list[Segment], notes: dict[int, int]) -> XenNotes | None:
    """The notes for a PV domain, if there are any; what they name must lie in the image."""
    if NOTE_ENTRY not in notes or NOTE_VIRT_BASE not in notes or NOTE_HYPERCALL_PAGE not in notes:
        return None
    base, offset = notes[NOTE_VIRT_BASE], notes.get(NOTE_PADDR_OFFSET, 0)
    xen = XenNotes(notes[NOTE_ENTRY], notes[NOTE_HYPERCALL_PAGE], base, offset)
    for what, address, size in (("entry point", xen.entry, 1), ("hypercall page", xen.hypercall_page, 0x1000)):
        at = address - base + offset
        if not any(s.address <= at and at + size <= s.address + s.size for s in segments):
            raise HvError(f"guest {path}: the Xen {what} {address:#x} lies in no segment", 1)
    if base % (4 << 20) or xen.hypercall_page % 0x1000 or segments[0].address < offset:
        raise HvError(f"guest {path}: the Xen notes do not fit together", 1)
    return xen

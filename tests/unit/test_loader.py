"""The loader: a whole, sound x86-64 kernel or one line that says what is wrong, whatever bytes the file has."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.costs import CostModel
from hv.errors import HvError
from hv.loader import Guest, Segment, default_guest, load_guest
from hv.mode import Mode
from hv.vm import Vm

IMAGE = default_guest().read_bytes()
PHOFF, PHNUM = struct.unpack_from("<Q", IMAGE, 32)[0], struct.unpack_from("<H", IMAGE, 56)[0]
PHDR = struct.Struct("<IIQQQQQQ")  # p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
PT_LOAD, PT_NOTE = 1, 4


def headers() -> list[tuple[int, list[int]]]:
    """Offset and fields of every program header."""
    places = [PHOFF + i * PHDR.size for i in range(PHNUM)]
    return [(at, list(PHDR.unpack_from(IMAGE, at))) for at in places]


def patched(*changes: tuple[int, bytes]) -> bytes:
    """The real kernel with other bytes at some offsets."""
    image = bytearray(IMAGE)
    for at, data in changes:
        image[at : at + len(data)] = data
    return bytes(image)


def load_bytes(folder: Path, image: bytes) -> Guest:
    path = folder / "guest.elf"
    path.write_bytes(image)
    return load_guest(path)


def load_or_refuse(folder: Path, image: bytes) -> Guest | None:
    """The guest, or None for one that was refused in one line. Any other exception is a bug."""
    try:
        return load_bytes(folder, image)
    except HvError as error:
        message = str(error)
    assert "\n" not in message
    return None


def refused(folder: Path, image: bytes) -> str:
    """The one line that this file gives."""
    with pytest.raises(HvError) as error:
        load_bytes(folder, image)
    assert error.value.status == 1
    line = str(error.value)
    assert "\n" not in line
    assert str(folder / "guest.elf") in line
    return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guests")


def test_the_real_kernel_loads_whole() -> None:
    guest = load_guest(default_guest())
    assert guest.image == IMAGE
    for segment in guest.segments:
        assert segment.data in IMAGE
        assert len(segment.data) <= segment.size
    assert guest.symbols["hv_mark_begin"]
    assert guest.symbols["hv_mark_end"]
    assert any(s.address <= guest.entry < s.address + len(s.data) for s in guest.segments)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(HvError, match="no-such-file: No such file or directory") as error:
        load_guest(tmp_path / "no-such-file")
    assert error.value.status == 1
    with pytest.raises(HvError, match="Is a directory"):
        load_guest(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.elf"
    path.write_bytes(IMAGE)
    path.chmod(0)
    with pytest.raises(HvError, match="Permission denied"):
        load_guest(path)


@pytest.mark.parametrize(
    "image", [b"", b"\n", b"just a text\n", b"\x7fELF", b"\x7fELF" + bytes(60), b"#!/bin/sh\n" * 100]
)
def test_what_is_no_elf_file_is_refused(folder: Path, image: bytes) -> None:
    refused(folder, image)


@settings(max_examples=60)
@given(length=st.integers(0, len(IMAGE) - 1))
def test_a_kernel_that_is_cut_off_loads_or_is_refused(folder: Path, length: int) -> None:
    """Only the end of the file may be missing without harm: names and line numbers."""
    needed = max(fields[2] + fields[5] for _, fields in headers() if fields[0] in (PT_LOAD, PT_NOTE))
    if load_or_refuse(folder, IMAGE[:length]) is not None:
        assert length >= needed


@pytest.mark.parametrize("length", [1, 4, 16, 63, 64, 65, 119, 120, 500, 4096, 4097, 20_000])
def test_a_kernel_cut_off_within_its_segments_is_refused(folder: Path, length: int) -> None:
    refused(folder, IMAGE[:length])


def test_a_kernel_without_section_headers_that_is_cut_off_is_refused(folder: Path) -> None:
    """Nothing behind the segments gives it away."""
    end = max(fields[2] + fields[5] for _, fields in headers() if fields[0] == PT_LOAD)
    stripped = patched((40, bytes(8)), (58, bytes(6)))
    assert load_bytes(folder, stripped[:end]).symbols == {}
    assert "truncated" in refused(folder, stripped[: end - 1])


@settings(max_examples=150)
@given(
    at=st.one_of(st.integers(0, PHOFF + PHNUM * PHDR.size - 1), st.integers(0, len(IMAGE) - 1)),
    value=st.integers(0, 255),
)
def test_a_kernel_with_a_wrong_byte_loads_or_is_refused(folder: Path, at: int, value: int) -> None:
    guest = load_or_refuse(folder, patched((at, bytes([value]))))
    assert guest is None or guest.segments


@settings(max_examples=100)
@given(at=st.integers(0, PHOFF + PHNUM * PHDR.size - 8), value=st.integers(0, (1 << 64) - 1))
def test_a_kernel_with_wrong_words_in_its_headers_loads_or_is_refused(folder: Path, at: int, value: int) -> None:
    load_or_refuse(folder, patched((at, struct.pack("<Q", value))))


@settings(max_examples=100)
@given(at=st.integers(0, 64 * PHNUM), value=st.integers(0, (1 << 64) - 1))
def test_a_kernel_with_wrong_words_in_its_section_headers_loads_or_is_refused(
    folder: Path, at: int, value: int
) -> None:
    start = struct.unpack_from("<Q", IMAGE, 40)[0]
    load_or_refuse(folder, patched((min(start + at, len(IMAGE) - 8), struct.pack("<Q", value))))


@settings(max_examples=60)
@given(tail=st.binary(max_size=400))
def test_random_bytes_behind_the_magic_number_are_refused(folder: Path, tail: bytes) -> None:
    refused(folder, b"\x7fELF" + tail)


@pytest.mark.parametrize(
    ("machine", "name"), [(0xB7, "EM_AARCH64"), (0xF3, "EM_RISCV"), (0x03, "EM_386"), (0xFFFE, "65534")]
)
def test_another_machine_is_named(folder: Path, machine: int, name: str) -> None:
    line = refused(folder, patched((18, struct.pack("<H", machine))))
    assert f"wrong machine ({name}, 64-bit); x86-64 is needed" in line


def test_a_32_bit_file_is_named(folder: Path) -> None:
    header = (
        b"\x7fELF\x01\x01\x01"
        + bytes(9)
        + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x10_0000, 52, 0, 0, 52, 32, 0, 40, 0, 0)
    )
    assert "wrong machine (EM_386, 32-bit)" in refused(folder, header)


def test_a_big_endian_file_is_refused(folder: Path) -> None:
    refused(folder, patched((5, b"\x02")))


def test_overlapping_segments_are_refused(folder: Path) -> None:
    loads = [(at, fields) for at, fields in headers() if fields[0] == PT_LOAD]
    assert len(loads) >= 2
    (_, first), (at, second) = loads[:2]
    second[4] = first[4] + first[6] - 1
    assert "segments overlap at" in refused(folder, patched((at, PHDR.pack(*second))))


@pytest.mark.parametrize("address", [0, 0x9_F000, 0xF_F000, 1 << 30, 1 << 40, (1 << 64) - 0x1000])
def test_a_segment_outside_the_kernel_s_place_is_refused(folder: Path, address: int) -> None:
    """Below 1 MiB lie the start info and the PC's own memory."""
    at, fields = [entry for entry in headers() if entry[1][0] == PT_LOAD][-1]
    fields[4], fields[5], fields[6] = address, 0x100, 0x100
    assert "a segment lies outside 0x100000 to 0x40000000" in refused(folder, patched((at, PHDR.pack(*fields))))


def test_a_file_that_is_larger_than_its_memory_is_refused(folder: Path) -> None:
    at, fields = next(entry for entry in headers() if entry[1][0] == PT_LOAD and entry[1][5])
    fields[6] = fields[5] - 1
    refused(folder, patched((at, PHDR.pack(*fields))))


def test_a_kernel_without_the_note_is_refused(folder: Path) -> None:
    at, fields = next(entry for entry in headers() if entry[1][0] == PT_NOTE)
    fields[0] = 0  # PT_NULL
    assert "no PVH entry note" in refused(folder, patched((at, PHDR.pack(*fields))))


def _entry_at() -> int:
    """Offset of the entry point in the note."""
    _, fields = next(entry for entry in headers() if entry[1][0] == PT_NOTE)
    name = IMAGE.index(b"Xen\0", fields[2])
    assert name < fields[2] + fields[5]
    return name + 4


@pytest.mark.parametrize("entry", [0, 0xF_FFFF, 0x3000_0000, 0xFFFF_FFFF])
def test_an_entry_point_outside_all_segments_is_refused(folder: Path, entry: int) -> None:
    line = refused(folder, patched((_entry_at(), struct.pack("<I", entry))))
    assert f"the entry point {entry:#x} lies in no segment" in line


def test_segments_come_sorted_by_address_whatever_their_order_in_the_file(folder: Path) -> None:
    loads = [(at, fields) for at, fields in headers() if fields[0] == PT_LOAD]
    places = [at for at, _ in loads]
    image = patched(*((at, PHDR.pack(*fields)) for at, (_, fields) in zip(places[::-1], loads, strict=True)))
    assert load_bytes(folder, image).segments == load_guest(default_guest()).segments


def test_a_stripped_kernel_loads_without_names(folder: Path) -> None:
    """No section headers: no symbols, so no marks; the guest itself needs none."""
    guest = load_bytes(folder, patched((40, bytes(8)), (58, bytes(6))))
    assert guest.symbols == {}
    assert guest.marks() == (0, 0)
    assert guest.user_text() == b""


def no_machine(mode: type[Mode], guest: Guest, costs: CostModel, mib: int) -> str:
    with pytest.raises(HvError) as error:
        Vm(mode, guest, costs, mib=mib)
    assert error.value.status == 2
    return str(error.value)


@pytest.mark.parametrize("mib", [-2, 0, 1, 2, 14, 15, 17, 63])
def test_an_odd_or_too_small_memory_is_refused(
    mib: int, guest: Guest, modes: Mapping[str, type[Mode]], costs: CostModel
) -> None:
    assert f"-m takes an even number of MiB, 16 or more, not {mib}" in no_machine(
        modes["bare-metal"], guest, costs, mib
    )


@pytest.mark.parametrize("mib", [1 << 20, 1 << 40, 1 << 70])
def test_more_memory_than_the_host_has_is_refused(
    mib: int, guest: Guest, modes: Mapping[str, type[Mode]], costs: CostModel
) -> None:
    assert f"-m {mib} is more than this host can give" in no_machine(modes["hw-assist"], guest, costs, mib)


def test_a_kernel_that_is_too_big_for_the_memory_is_refused(
    guest: Guest, modes: Mapping[str, type[Mode]], costs: CostModel
) -> None:
    big = Guest(guest.path, "", guest.entry, [*guest.segments, Segment((16 << 20) - 1, 2, b"")], {}, guest.image)
    assert "does not fit in 16 MiB" in no_machine(modes["bare-metal"], big, costs, 16)

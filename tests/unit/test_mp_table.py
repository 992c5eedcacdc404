"""The MP configuration table, read as the MultiProcessor Specification 1.4 describes it (chapter 4)."""

from __future__ import annotations

import struct

import pytest

from hv.x86_64.mp_table import write_mp_table

LENGTHS = {0: 20, 1: 8, 2: 8, 3: 8, 4: 8}  # of an entry, by its type


def written(cpus: int) -> bytes:
    """The BIOS area from F0000."""
    area = bytearray(0x1_0000)

    def write(address: int, data: bytes) -> None:
        area[address - 0xF_0000 : address - 0xF_0000 + len(data)] = data

    write_mp_table(write, cpus)
    return bytes(area)


def entries_of(area: bytes) -> list[bytes]:
    at = next(at for at in range(0, len(area), 16) if area[at : at + 4] == b"_MP_")
    pointer = area[at : at + 16]
    assert sum(pointer) % 256 == 0
    assert pointer[8:10] == b"\x01\x04"
    table = area[struct.unpack_from("<I", pointer, 4)[0] - 0xF_0000 :]
    assert table[:4] == b"PCMP"
    length, count = struct.unpack_from("<H", table, 4)[0], struct.unpack_from("<H", table, 34)[0]
    assert sum(table[:length]) % 256 == 0
    assert struct.unpack_from("<I", table, 36)[0] == 0xFEE0_0000
    found, at = [], 44
    for _ in range(count):
        found.append(table[at : at + LENGTHS[table[at]]])
        at += LENGTHS[table[at]]
    assert at == length
    assert [entry[0] for entry in found] == sorted(entry[0] for entry in found)
    return found


@pytest.mark.parametrize("cpus", [1, 2, 8])
def test_there_is_a_processor_entry_for_each_cpu_and_the_first_boots(cpus: int) -> None:
    processors = [entry for entry in entries_of(written(cpus)) if entry[0] == 0]
    assert [entry[1] for entry in processors] == list(range(cpus))
    assert [entry[3] for entry in processors] == [3] + [1] * (cpus - 1)


def test_the_io_apic_has_the_isa_interrupts_and_the_timer_on_pin_2() -> None:
    entries = entries_of(written(2))
    (ioapic,) = (entry for entry in entries if entry[0] == 2)
    assert struct.unpack_from("<I", ioapic, 4)[0] == 0xFEC0_0000
    assert ioapic[1] not in (0, 1)  # its number is no processor's
    routes = {entry[5]: entry[7] for entry in entries if entry[0] == 3}
    assert routes == {0: 2, 1: 1, **{irq: irq for irq in range(3, 16)}}
    assert {entry[6] for entry in entries if entry[0] == 3} == {ioapic[1]}

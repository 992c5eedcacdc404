"""The IDE controller and its drives, at their registers, against ATA/ATAPI-5 and the bus master's specification."""

from __future__ import annotations

import copy
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.host.store import SECTOR, MemoryStore, StoreError
from tests.ide_host import BSY, BUFFER, COMMAND, CONTROL, DF, DRDY, DRQ, DSC, ERR, MASTER, MEMORY, Host, numbered

ACTIVE, ERROR, INTERRUPT = 1, 2, 4  # bus master status
UNC, IDNF, ABRT = 0x40, 0x10, 0x04


class Failing(MemoryStore):
    """A medium with one bad sector, and a cache that cannot be emptied."""

    def __init__(self, sectors: int, bad: int) -> None:
        super().__init__(sectors)
        self.bad = bad

    def _bad(self, sector: int, count: int) -> None:
        if sector <= self.bad < sector + count:
            raise StoreError("bad", self.bad)

    def read(self, sector: int, count: int) -> bytes:
        self._bad(sector, count)
        return super().read(sector, count)

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        self._bad(sector, len(data) // SECTOR)
        super().write(sector, data)

    def flush(self) -> None:
        raise StoreError("no room", 0)


def words(data: bytes) -> tuple[int, ...]:
    return struct.unpack("<256H", data)


def line(host: Host) -> bool:
    return host.board.lines[0]


def error(host: Host, ch: int = 0) -> int:
    return host.inp(COMMAND[ch] + 1)


def lba(host: Host) -> int:
    return sum(host.inp(COMMAND[0] + 3 + i) << 8 * i for i in range(3)) | (host.inp(COMMAND[0] + 6) & 15) << 24


# --- the controller -------------------------------------------------------------------------------------------------


def test_nobody_answers_before_the_firmware_has_switched_the_channels_on() -> None:
    host = Host(enable=False)
    assert host.inp(COMMAND[0] + 7) == 0xFF
    host.config(4, 2, 1)
    assert host.inp(COMMAND[0] + 7) == 0xFF
    host.config(0x40, 2, 0x8000)
    assert host.inp(COMMAND[0] + 7) == DRDY | DSC
    assert host.inp(COMMAND[1] + 7) == 0xFF


def test_the_controller_says_what_it_is() -> None:
    host = Host(enable=False)
    assert host.ide.config_read(0, 4) == 0x7010_8086
    assert host.ide.config_read(8, 4) == 0x0101_8000
    host.config(0x20, 4, 0xFFFF_FFFF)
    assert host.ide.config_read(0x20, 4) == 0xFFFF_FFF1  # 16 bytes of I/O space


def test_a_cable_without_drives_is_pulled_down() -> None:
    host = Host(MemoryStore(8))
    assert host.inp(COMMAND[1] + 7) == host.inp(CONTROL[1]) == 0x7F
    host.command(0xEC, ch=1)
    assert host.board.edges == [0, 0]


def test_device_0_answers_for_a_device_1_that_is_not_there() -> None:
    host = Host()
    host.out(COMMAND[0] + 6, 0xB0)
    assert host.inp(COMMAND[0] + 7) == host.inp(CONTROL[0]) == 0
    assert host.inp(COMMAND[0] + 3) == 1
    host.out(COMMAND[0] + 7, 0xEC)
    assert not line(host)
    host.out(COMMAND[0] + 6, 0xA0)
    assert host.inp(COMMAND[0] + 7) == DRDY | DSC


def test_wide_accesses_come_in_pieces() -> None:
    host = Host()
    host.out(COMMAND[0] + 2, 0x3412, 2)
    assert (host.inp(COMMAND[0] + 2), host.inp(COMMAND[0] + 3)) == (0x12, 0x34)
    assert host.inp(COMMAND[0] + 2, 4) == 0x0000_3412
    assert host.inp(COMMAND[0] + 7, 2) == 0xFF00 | DRDY | DSC
    assert host.inp(MASTER[0] + 2, 4) & 0xFFFF == 0


def test_bus_master_registers() -> None:
    host = Host()
    host.out(MASTER[1] + 4, 0xFFFF_FFFF, 4)
    assert host.inp(MASTER[1] + 4, 4) == 0xFFFF_FFFC
    host.out(MASTER[1] + 5, 0x12)
    assert host.inp(MASTER[1] + 4, 4) == 0xFFFF_12FC
    host.out(MASTER[0] + 2, 0x60)
    assert host.inp(MASTER[0] + 2) == 0x60
    host.out(MASTER[0] + 1, 0xFF)
    assert host.inp(MASTER[0] + 1) == 0


# --- resets and identification --------------------------------------------------------------------------------------


def test_after_a_soft_reset_a_drive_shows_its_signature() -> None:
    host = Host(MemoryStore(64), MemoryStore(64), MemoryStore(64))
    host.registers(0, 5, 6, 7, 8, 0xF3)
    host.out(CONTROL[0], 4)
    assert host.inp(CONTROL[0]) == BSY
    host.out(CONTROL[0], 0)
    assert host.inp(CONTROL[0]) == BSY
    assert host.settle() == DRDY | DSC
    assert [host.inp(COMMAND[0] + i) for i in range(1, 7)] == [1, 1, 1, 0, 0, 0]
    assert host.board.edges == [0, 0]


def test_execute_device_diagnostic_is_obeyed_by_both_and_reported_by_device_0() -> None:
    host = Host(MemoryStore(64), MemoryStore(64), MemoryStore(64))
    host.registers(0, 9, 9, 9, 9, 0xF0)
    assert host.command(0x90) == DRDY | DSC
    assert error(host) == 1
    assert [host.inp(COMMAND[0] + i) for i in range(2, 7)] == [1, 1, 0, 0, 0]
    assert host.board.edges[0] == 1


def test_identify_device() -> None:
    host = Host(MemoryStore(300_000_000))
    data = host.read_pio(0xEC)
    w = words(data)
    assert sum(data) & 0xFF == 0
    assert w[255] & 0xFF == 0xA5
    assert w[0] & 0x8080 == 0  # an ATA device, not removable
    assert (w[1], w[3], w[6]) == (16383, 16, 63)
    assert w[60] | w[61] << 16 == (1 << 28) - 1
    assert sum(w[100 + i] << 16 * i for i in range(4)) == 300_000_000
    assert w[49] & 0x300 == 0x300
    assert w[83] & 0xC000 == w[84] & 0xC000 == w[87] & 0xC000 == 0x4000
    assert data[54:94] == _swapped("test disk", 40)
    assert host.board.edges[0] == 1


def _swapped(text: str, length: int) -> bytes:
    padded = text.ljust(length).encode()
    return b"".join(padded[i : i + 2][::-1] for i in range(0, length, 2))


def test_identify_shows_what_has_been_set() -> None:
    host = Host()
    assert host.command(0xC6, 0, 8) == DRDY | DSC
    assert host.command(0xEF, 3, 0x44) == DRDY | DSC
    assert host.command(0xEF, 0x82) == DRDY | DSC
    assert host.command(0x91, 0, 32, 0, 0, 0, 0xA7) == DRDY | DSC
    w = words(host.read_pio(0xEC))
    assert w[59] == 0x108
    assert (w[63], w[88]) == (0x0007, 0x103F)
    assert not w[85] & 0x20
    assert (w[54], w[55], w[56]) == (16, 8, 32)
    assert w[57] | w[58] << 16 == 4096


@pytest.mark.parametrize("keeps", [False, True])
def test_a_soft_reset_goes_back_to_the_power_on_settings_unless_told_not_to(keeps: bool) -> None:
    host = Host()
    host.command(0xC6, 0, 8)
    host.command(0xEF, 0x66 if keeps else 0xCC)
    host.out(CONTROL[0], 4)
    host.out(CONTROL[0], 0)
    host.settle()
    assert words(host.read_pio(0xEC))[59] == (0x108 if keeps else 0)


# --- interrupts -----------------------------------------------------------------------------------------------------


def test_reading_the_status_ends_the_interrupt_and_the_alternate_status_does_not() -> None:
    host = Host()
    host.out(COMMAND[0] + 7, 0xEC)
    assert line(host)
    host.inp(CONTROL[0])
    assert line(host)
    host.inp(COMMAND[0] + 7)
    assert not line(host)


def test_nien_holds_the_interrupt_back_and_it_stays_pending() -> None:
    host = Host()
    host.out(CONTROL[0], 2)
    host.out(COMMAND[0] + 7, 0xE7)
    host.settle()
    assert not line(host)
    assert not host.inp(MASTER[0] + 2) & INTERRUPT
    host.out(CONTROL[0], 0)
    assert line(host)
    assert host.inp(MASTER[0] + 2) & INTERRUPT


def test_only_the_selected_drive_reaches_the_line() -> None:
    host = Host(MemoryStore(64), MemoryStore(64), MemoryStore(64))
    host.out(COMMAND[0] + 7, 0x10)
    assert line(host)
    host.out(COMMAND[0] + 6, 0xB0)
    assert not line(host)
    host.out(COMMAND[0] + 6, 0xA0)
    assert line(host)


@pytest.mark.parametrize(("code", "sectors", "multiple", "edges"), [(0x20, 5, 0, 5), (0xC4, 5, 2, 3), (0x24, 1, 0, 1)])
def test_a_pio_read_interrupts_for_each_block_and_not_at_its_end(
    code: int, sectors: int, multiple: int, edges: int
) -> None:
    host = Host(numbered(64))
    host.command(0xC6, 0, multiple)
    host.board.edges[0] = 0
    host.address("lba48" if code == 0x24 else "lba28", 3, sectors)
    host.out(COMMAND[0] + 7, code)
    data = b""
    while host.settle() & DRQ:
        if line(host):
            host.inp(COMMAND[0] + 7)
        data += host.inp(COMMAND[0], 2).to_bytes(2, "little")
    assert data == numbered(64).read(3, sectors)
    assert host.board.edges[0] == edges


def test_a_pio_write_interrupts_after_each_block() -> None:
    host = Host(MemoryStore(64))
    host.address("lba28", 3, 2)
    host.out(COMMAND[0] + 7, 0x30)
    assert host.inp(CONTROL[0]) & DRQ
    assert not line(host)
    for _ in range(2):
        for _ in range(256):
            host.out(COMMAND[0], 0x5A5A, 2)
        assert host.inp(CONTROL[0]) == BSY
        host.settle()
        assert line(host)
        host.inp(COMMAND[0] + 7)
    assert host.inp(CONTROL[0]) == DRDY | DSC
    assert host.ide.channels[0].present[0].store.read(3, 2) == b"Z" * 1024


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0x00, 0x08, 0xA0, 0xA1, 0xB0, 0xC7, 0xFE, 0xC4, 0x39])
def test_what_the_drive_does_not_do_is_aborted(code: int) -> None:
    host = Host()
    assert host.command(code, 0, 1, 0, 0, 0, 0xE0) == DRDY | DSC | ERR
    assert error(host) == ABRT
    assert host.board.edges[0] == 1


@pytest.mark.parametrize(
    ("code", "values"), [(0xC6, (0, 3)), (0xC6, (0, 32)), (0xEF, (3, 0x46)), (0xEF, (0x99,)), (0x91, (0, 0))]
)
def test_settings_that_do_not_exist_are_aborted(code: int, values: tuple[int, ...]) -> None:
    host = Host()
    assert host.command(code, *values) == DRDY | DSC | ERR
    assert error(host) == ABRT


@pytest.mark.parametrize("form", ["chs", "lba28", "lba48"])
@pytest.mark.parametrize("write", [False, True])
def test_an_address_behind_the_end_is_not_found(form: str, write: bool) -> None:
    host = Host(MemoryStore(2016))
    code = {(False, False): 0x20, (True, False): 0x30, (False, True): 0x24, (True, True): 0x34}[write, form == "lba48"]
    host.address(form, 2014, 3)
    assert host.command(code) == DRDY | DSC | ERR
    assert error(host) == IDNF
    if form == "lba28":
        assert lba(host) == 2016


@pytest.mark.parametrize("sector", [0, 64])
def test_a_sector_number_outside_the_track_is_not_found(sector: int) -> None:
    host = Host()
    assert host.command(0x20, 0, 1, sector, 0, 0, 0xA0) & ERR
    assert error(host) == IDNF


def test_a_bad_sector_is_an_uncorrectable_error_with_its_address() -> None:
    host = Host(Failing(64, 10))
    host.address("lba28", 8, 4)
    data = host.read_pio(0x20)
    assert len(data) == 2 * SECTOR  # those before it came through
    assert host.inp(COMMAND[0] + 7) == DRDY | DSC | ERR
    assert (error(host), lba(host)) == (UNC, 10)


def test_a_write_that_fails_is_a_write_fault() -> None:
    host = Host(Failing(64, 10))
    host.address("lba28", 10, 1)
    assert host.write_pio(0x30, bytes(512)) == DRDY | DSC | ERR | DF
    assert error(host) == ABRT
    assert host.command(0xE7) == DRDY | DSC | ERR | DF


def test_a_read_only_medium_refuses_writes() -> None:
    store = numbered(64)
    store.read_only = True
    for code in (0x30, 0xCA, 0x35):
        host = Host(store)
        host.address("lba48" if code == 0x35 else "lba28", 1, 1)
        assert host.command(code) == DRDY | DSC | ERR
        assert error(host) == ABRT


def test_a_busy_drive_does_not_listen() -> None:
    host = Host()
    host.out(COMMAND[0] + 7, 0xE7)
    host.out(COMMAND[0] + 2, 0x77)
    host.out(COMMAND[0] + 7, 0xEC)
    assert host.settle() == DRDY | DSC
    assert host.inp(COMMAND[0] + 2) == 1


# --- power ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "power"), [(0xE0, 0x00), (0xE1, 0x80), (0xE2, 0x00), (0xE3, 0x80)])
def test_power_modes(code: int, power: int) -> None:
    host = Host()
    assert host.command(code) == DRDY | DSC
    assert host.command(0xE5) == DRDY | DSC
    assert host.inp(COMMAND[0] + 2) == power


def test_a_sleeping_drive_wakes_by_a_reset_only() -> None:
    host = Host()
    host.command(0xE6)
    host.command(0xE7)
    assert host.board.edges[0] == 1
    host.out(CONTROL[0], 4)
    host.out(CONTROL[0], 0)
    host.settle()
    host.command(0xE5)
    assert host.inp(COMMAND[0] + 2) == 0xFF


# --- the bus master -------------------------------------------------------------------------------------------------


def test_a_dma_read_of_several_regions() -> None:
    host = Host(numbered(64))
    host.table((BUFFER, 512), (BUFFER + 0x1_0000, 2), (BUFFER + 0x400, 1022))
    host.address("lba28", 5, 3)
    assert host.dma(0xC8, to_memory=True) == INTERRUPT
    data = numbered(64).read(5, 3)
    assert host.board.read(BUFFER, 512) == data[:512]
    assert host.board.read(BUFFER + 0x1_0000, 2) == data[512:514]
    assert host.board.read(BUFFER + 0x400, 1022) == data[514:]
    assert host.board.edges[0] == 1
    assert host.inp(COMMAND[0] + 7) == DRDY | DSC


def test_a_count_of_zero_is_64_kib() -> None:
    host = Host(numbered(200))
    host.table((BUFFER, 0))
    host.address("lba28", 7, 128)
    assert host.dma(0xC8, to_memory=True) == INTERRUPT
    assert host.board.read(BUFFER, 0x1_0000) == numbered(200).read(7, 128)


def test_a_table_larger_than_the_transfer_leaves_the_bus_master_active() -> None:
    host = Host(numbered(64))
    host.table((BUFFER, 4096))
    host.address("lba28", 0, 1)
    assert host.dma(0xC8, to_memory=True) == INTERRUPT | ACTIVE
    assert not host.inp(MASTER[0] + 2) & ACTIVE


def test_a_table_smaller_than_the_transfer_leaves_the_drive_waiting() -> None:
    host = Host(numbered(64))
    host.table((BUFFER, 512))
    host.address("lba28", 0, 2)
    assert host.dma(0xC8, to_memory=True) == 0
    assert host.inp(CONTROL[0]) == BSY
    assert host.ide.deadline is None
    host.table((BUFFER + 512, 512))  # a host may go on with another table
    host.start_master(to_memory=True)
    host.settle()
    assert host.board.read(BUFFER, 1024) == numbered(64).read(0, 2)


@pytest.mark.parametrize("region", [(MEMORY, 512), (MEMORY - 256, 512), (0xFFFF_FFFE, 512)])
@pytest.mark.parametrize("to_memory", [False, True])
def test_a_region_outside_memory_is_an_error_of_the_bus_master(region: tuple[int, int], to_memory: bool) -> None:
    host = Host(numbered(64))
    before = bytes(host.board.memory)
    host.table(region)
    table = bytes(host.board.memory)
    host.address("lba28", 0, 1)
    assert host.dma(0xC8 if to_memory else 0xCA, to_memory=to_memory) == ERROR
    assert bytes(host.board.memory) == table != before
    assert host.ide.channels[0].present[0].store.read(0, 64) == numbered(64).read(0, 64)


def test_without_bus_mastering_there_is_no_dma() -> None:
    host = Host(numbered(64))
    host.config(4, 2, 1)
    host.table((BUFFER, 512))
    host.address("lba28", 1, 1)
    assert host.dma(0xC8, to_memory=True) == ERROR
    assert host.board.read(BUFFER, 512) == bytes(512)


def test_the_wrong_direction_moves_nothing() -> None:
    host = Host(numbered(64))
    host.table((BUFFER, 512))
    host.address("lba28", 1, 1)
    assert host.dma(0xC8, to_memory=False) == ACTIVE
    assert host.board.read(BUFFER, 512) == bytes(512)


def test_an_endless_table_ends_with_the_transfer() -> None:
    """8192 entries without an end flag, all of which write over themselves: the pointer stays within 64 KiB."""
    host = Host(numbered(70000))
    for at in range(0, 0x1_0000, 8):
        host.board.write(BUFFER + at, struct.pack("<IHH", 0x4_0000, 2, 0))
    host.address("lba48", 0, 256)
    host.start_master(to_memory=True)
    host.out(MASTER[0], 0)
    host.out(MASTER[0] + 4, BUFFER, 4)
    host.out(MASTER[0], 9)
    host.out(COMMAND[0] + 7, 0x25)
    assert host.settle() == DRDY | DSC
    assert host.inp(MASTER[0] + 2) & (ACTIVE | INTERRUPT) == ACTIVE | INTERRUPT


def test_a_reset_in_the_middle_of_dma() -> None:
    host = Host(numbered(64))
    host.table((BUFFER, 512))
    host.address("lba28", 1, 1)
    host.start_master(to_memory=True)
    host.out(COMMAND[0] + 7, 0xC8)
    host.out(CONTROL[0], 4)
    host.out(CONTROL[0], 0)
    assert host.settle() == DRDY | DSC
    assert host.board.read(BUFFER, 512) == bytes(512)
    assert not line(host)


def test_the_drive_waits_for_a_bus_master_that_is_started_late() -> None:
    host = Host(numbered(64))
    host.table((BUFFER, 512))
    host.address("lba28", 9, 1)
    host.out(COMMAND[0] + 7, 0xC8)
    while host.pass_time():
        pass
    assert host.inp(CONTROL[0]) == BSY
    host.start_master(to_memory=True)
    assert host.settle() == DRDY | DSC
    assert host.board.read(BUFFER, 512) == numbered(64).read(9, 1)


# --- latency and snapshots ------------------------------------------------------------------------------------------


def test_a_read_takes_the_time_that_the_cost_model_says() -> None:
    host = Host(numbered(64))
    host.table((BUFFER, 4096))
    host.address("lba28", 0, 8)
    host.dma(0xC8, to_memory=True)
    assert host.board.now == host.times.read + 8 * host.times.sector


def test_with_the_write_cache_off_a_write_takes_the_mediums_time() -> None:
    taken = []
    for feature in (0x02, 0x82):
        host = Host(numbered(64))
        host.command(0xEF, feature)
        start = host.board.now
        host.address("lba28", 0, 1)
        host.write_pio(0x30, bytes(512))
        taken.append(host.board.now - start)
    assert taken[1] - taken[0] == Host().times.flush


def test_a_snapshot_in_the_middle_of_a_transfer() -> None:
    host = Host(numbered(64))
    host.address("lba28", 3, 2)
    host.out(COMMAND[0] + 7, 0x20)
    host.settle()
    host.inp(COMMAND[0], 2)
    kept: Any = copy.deepcopy((host.ide.state, host.board.now, bytes(host.ide.config)))
    rest = [host.inp(COMMAND[0], 2) for _ in range(255)]
    other = Host(numbered(64))
    other.ide.state, other.board.now = kept[0], kept[1]
    assert [other.inp(COMMAND[0], 2) for _ in range(255)] == rest
    assert other.settle() & DRQ
    assert other.inp(COMMAND[0], 4) == 0x0000_0004


def test_a_string_transfer_is_the_same_as_its_words() -> None:
    hosts = [Host(numbered(64)), Host(numbered(64))]
    for host in hosts:
        host.address("lba28", 3, 2)
        host.out(COMMAND[0] + 7, 0x20)
        host.settle()
    whole = hosts[0].ports.read_string(COMMAND[0], 2, 300)
    words_read = b"".join(hosts[1].inp(COMMAND[0], 2).to_bytes(2, "little") for _ in range(300))
    assert whole == words_read
    assert hosts[0].ide.state == hosts[1].ide.state


# --- random transfers against a plain model -------------------------------------------------------------------------

SECTORS = 1100
TRANSFERS = st.lists(
    st.tuples(
        st.sampled_from(["sectors", "multiple", "dma"]),
        st.sampled_from(["chs", "lba28", "lba48"]),
        st.booleans(),
        st.integers(0, SECTORS - 1),
        st.integers(1, 40),
        st.integers(0, 255),
    ),
    max_size=8,
)
CODES = {
    ("sectors", False, False): 0x20, ("sectors", False, True): 0x30, ("sectors", True, False): 0x24,
    ("sectors", True, True): 0x34, ("multiple", False, False): 0xC4, ("multiple", False, True): 0xC5,
    ("multiple", True, False): 0x29, ("multiple", True, True): 0x39, ("dma", False, False): 0xC8,
    ("dma", False, True): 0xCA, ("dma", True, False): 0x25, ("dma", True, True): 0x35,
}  # fmt: skip


@settings(max_examples=60)
@given(TRANSFERS, st.sampled_from([2, 8, 16]))
def test_random_transfers_agree_with_an_array_of_bytes(transfers: list[Any], multiple: int) -> None:
    host, model = Host(numbered(SECTORS)), bytearray(numbered(SECTORS).read(0, SECTORS))
    host.command(0xC6, 0, multiple)
    for way, form, write, first, wanted, fill in transfers:
        count = min(wanted, SECTORS - first)
        code = CODES[way, form == "lba48", write]
        data = bytes((fill + i * 7 + i // 256) & 0xFF for i in range(count * SECTOR))
        host.address(form, first, count)
        part = slice(first * SECTOR, (first + count) * SECTOR)
        if way == "dma":
            half = count * SECTOR // 2 & ~1
            host.table((BUFFER, half), (BUFFER + 0x2_0000, count * SECTOR - half))
            if write:
                host.board.write(BUFFER, data[:half])
                host.board.write(BUFFER + 0x2_0000, data[half:])
            assert host.dma(code, to_memory=not write) == INTERRUPT
            read = host.board.read(BUFFER, half) + host.board.read(BUFFER + 0x2_0000, count * SECTOR - half)
        elif write:
            assert host.write_pio(code, data) == DRDY | DSC
        else:
            read = host.read_pio(code)
        if write:
            model[part] = data
        else:
            assert read == model[part]
        assert host.inp(COMMAND[0] + 7) == DRDY | DSC
    assert host.ide.channels[0].present[0].store.read(0, SECTORS) == bytes(model)


# --- a teaching kernel's driver -------------------------------------------------------------------------------------


def test_xv6_finds_its_second_disk_and_moves_blocks_by_double_words() -> None:
    """xv6 (ide.c): a second drive is there if its status is ever other than 0; data go by 32 bits, with interrupts."""
    second = numbered(64)
    alone, host = Host(numbered(64)), Host(numbered(64), numbered(64), second)
    for each, there in ((alone, False), (host, True)):
        while each.inp(0x1F7) & (BSY | DRDY) != DRDY:
            assert each.pass_time()
        each.out(0x1F6, 0xF0)
        assert any(each.inp(0x1F7) for _ in range(1000)) == there
        each.out(0x1F6, 0xE0)

    def start(code: int, sector: int) -> None:
        host.out(0x3F6, 0)
        for register, value in zip(range(0x1F2, 0x1F7), (1, sector, 0, 0, 0xF0), strict=True):
            host.out(register, value)
        host.out(0x1F7, code)

    def interrupt() -> None:
        while not line(host):
            assert host.pass_time()
        assert host.inp(0x1F7) & (BSY | DRDY | DF | ERR) == DRDY

    start(0x20, 5)
    interrupt()
    assert [host.inp(0x1F0, 4) for _ in range(128)] == [5] * 128
    start(0x30, 6)
    for _ in range(128):
        host.out(0x1F0, 0x7856_3412, 4)
    interrupt()
    assert second.read(6, 1) == bytes((0x12, 0x34, 0x56, 0x78)) * 128

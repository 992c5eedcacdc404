"""The NVMe controller after the specification, register by register and command by command."""

from __future__ import annotations

import copy
import struct

import pytest

from hv.host.store import MemoryStore, StoreError
from hv.silicon.nvme.controller import Controller
from hv.silicon.nvme.queues import Completion
from tests.nvme_host import PF, SECTORS, TIMES, VF1, Driver, Host, give_vf

DELETE_SQ, CREATE_SQ, LOG, DELETE_CQ, CREATE_CQ, IDENTIFY, ABORT = 0, 1, 2, 4, 5, 6, 8
SET_FEATURES, GET_FEATURES, EVENT, NAMESPACES, ATTACH, VIRTUALIZATION = 9, 0xA, 0xC, 0xD, 0x15, 0x1C
FLUSH, WRITE, READ, COMPARE, ZEROES, DATASET = 0, 1, 2, 5, 8, 9
INVALID_OPCODE, INVALID_FIELD, TRANSFER_ERROR, ABORTED, SQ_DELETED, INVALID_NAMESPACE = 1, 2, 4, 7, 8, 0xB
SEQUENCE, PRP_OFFSET, PROTECTED, OUT_OF_RANGE = 0xC, 0x13, 0x20, 0x80
CQ_INVALID, BAD_ID, BAD_SIZE, EVENT_LIMIT, BAD_VECTOR, BAD_LOG, BAD_DELETION = (
    0x100, 0x101, 0x102, 0x105, 0x108, 0x109, 0x10C,
)  # fmt: skip
CC, CSTS = 0x14, 0x1C


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def drive(host: Host) -> Driver:
    driver = Driver(host)
    driver.start()
    return driver


@pytest.fixture
def ready(drive: Driver) -> Driver:
    drive.create_queues()
    return drive


# --- registers ------------------------------------------------------------------------------------------------------


def test_capabilities_and_version(host: Host) -> None:
    drive = Driver(host)
    cap = drive.get(0, 8)
    assert cap & 0xFFFF == 1023  # entries, less one
    assert cap >> 16 & 1 == 1  # contiguous queues
    assert cap >> 24 & 0xFF == 10  # times 500 ms
    assert cap >> 32 & 0xF == 0  # doorbells lie side by side
    assert cap >> 37 & 0xFF == 1  # the NVM command set
    assert cap >> 48 == 0  # pages of 4 KiB
    assert drive.get(4) == cap >> 32
    assert drive.get(8) == 0x0001_0400
    assert drive.get(2, 2) == cap >> 16 & 0xFFFF


def test_it_becomes_ready_after_a_while_and_resets_at_once(host: Host) -> None:
    drive = Driver(host)
    drive.set(0x24, 7 | 7 << 16)
    drive.set(0x28, 0x1_0FFF, 8)
    drive.set(CC, 0x46_0001)
    assert drive.get(CSTS) == 0
    host.pass_time(TIMES.reset - 1)
    assert drive.get(CSTS) == 0
    host.pass_time(TIMES.reset)
    assert drive.get(CSTS) == 1
    assert drive.get(0x28, 8) == 0x1_0000  # the low bits are reserved
    drive.set(0x28, 0x9_0000, 8)
    assert drive.get(0x28, 8) == 0x1_0000  # not while it is enabled
    drive.set(CC, 0)
    assert drive.get(CSTS) == 0
    assert drive.get(0x24) == 7 | 7 << 16


@pytest.mark.parametrize("cc", [0x46_0001 | 1 << 7, 0x46_0001 | 1 << 4, 0x46_0001 | 1 << 11])
def test_a_configuration_that_it_does_not_have_is_fatal(host: Host, cc: int) -> None:
    drive = Driver(host)
    drive.set(0x24, 7 | 7 << 16)
    drive.set(CC, cc)
    host.pass_time()
    assert drive.get(CSTS) == 2
    drive.set(CC, 0)
    assert drive.get(CSTS) == 0


def test_shutdown_flushes_and_says_so(ready: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []

    def flush(store: MemoryStore) -> None:
        flushed.append(store)

    monkeypatch.setattr(MemoryStore, "flush", flush)
    ready.set(CC, 0x46_0001 | 1 << 14)
    assert ready.get(CSTS) >> 2 & 3 == 1
    ready.host.pass_time()
    assert ready.get(CSTS) >> 2 & 3 == 2
    assert flushed == [ready.host.stores[0]]


def test_small_and_misaligned_writes_reach_no_register(host: Host) -> None:
    drive = Driver(host)
    drive.set(0x24, 0x55, 1)
    drive.set(0x26, 0x55, 2)
    drive.set(0x22, 0x5555_5555)
    assert drive.get(0x24) == 0


# --- queues and completions -----------------------------------------------------------------------------------------


def test_phases_heads_and_identifiers_over_many_rounds(ready: Driver) -> None:
    ready.host.ram[ready.page : ready.page + 512] = b"x" * 512
    for count in range(40):
        completion = ready.run(1, WRITE, 1, ready.page, 0, count, 0, 0)
        assert (completion.status, completion.head, completion[2]) == (0, (count + 1) % 8, 1)


def test_each_completion_of_a_queue_with_interrupts_sends_its_vector(ready: Driver) -> None:
    ready.host.interrupts.clear()
    assert ready.io(FLUSH, 0, 1, 0) == 0
    assert ready.host.interrupts == [(PF, 0x41)]
    ready.create_queues(2, interrupts=False)
    ready.host.interrupts.clear()
    assert ready.run(2, FLUSH, 1).status == 0
    assert ready.host.interrupts == []


def test_a_full_completion_queue_waits_for_its_reader(drive: Driver) -> None:
    host = drive.host
    drive.create_queues(1, entries=16)
    drive.sq[3], drive.cq[3] = drive.base + 0x6000, drive.base + 0x7000
    drive.entries[3], drive.tail[3], drive.head[3], drive.phase[3] = 4, 0, 0, 1
    assert drive.run(0, CREATE_CQ, 0, drive.cq[3], 0, 3 | 3 << 16, 1).status == 0
    assert drive.run(0, CREATE_SQ, 0, drive.base + 0x5000, 0, 3 | 15 << 16, 1 | 3 << 16).status == 0
    drive.sq[3], drive.entries[3] = drive.base + 0x5000, 16
    ids = [drive.put(3, FLUSH, 1) for _ in range(10)]
    drive.ring(3)
    drive.entries[3] = 4
    host.pass_time()
    seen = []
    while taken := drive.all(3):
        seen += [completion.id for completion in taken]
        host.pass_time()
    assert seen == ids


def test_commands_of_several_queues_are_taken_in_turn(drive: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    drive.create_queues(1)
    drive.create_queues(2)
    first = [drive.put(1, FLUSH, 1) for _ in range(2)]
    second = [drive.put(2, FLUSH, 1) for _ in range(2)]
    order: list[int] = []
    drive.ring(1)
    drive.ring(2)
    original = Controller.complete

    def complete(controller: Controller, completion: Completion) -> None:
        order.append(completion.id)
        original(controller, completion)

    monkeypatch.setattr(Controller, "complete", complete)
    drive.host.pass_time()
    assert order == [first[0], second[0], first[1], second[1]]


@pytest.mark.parametrize(
    ("opcode", "prp1", "words", "status"),
    [
        (CREATE_CQ, 0x8000, (0 | 7 << 16, 1), BAD_ID),
        (CREATE_CQ, 0x8000, (1 | 7 << 16, 1), BAD_ID),  # is there already
        (CREATE_CQ, 0x8000, (17 | 7 << 16, 1), BAD_ID),
        (CREATE_CQ, 0x8000, (2 | 0 << 16, 1), BAD_SIZE),
        (CREATE_CQ, 0x8000, (2 | 1024 << 16, 1), BAD_SIZE),
        (CREATE_CQ, 0x8000, (2 | 7 << 16, 0), INVALID_FIELD),  # not contiguous
        (CREATE_CQ, 0x8010, (2 | 7 << 16, 1), PRP_OFFSET),
        (CREATE_CQ, 0x8000, (2 | 7 << 16, 3 | 17 << 16), BAD_VECTOR),
        (CREATE_SQ, 0x8000, (2 | 7 << 16, 1 | 2 << 16), CQ_INVALID),
        (CREATE_SQ, 0x8000, (2 | 7 << 16, 1), CQ_INVALID),  # the admin queue's
        (CREATE_SQ, 0x8000, (2 | 7 << 16, 1 | 99 << 16), BAD_ID),
        (CREATE_SQ, 0x8000, (1 | 7 << 16, 1 | 1 << 16), BAD_ID),
        (DELETE_SQ, 0, (0,), BAD_ID),
        (DELETE_SQ, 0, (2,), BAD_ID),
        (DELETE_CQ, 0, (0,), BAD_ID),
        (DELETE_CQ, 0, (1,), BAD_DELETION),  # its submission queue is still there
    ],
)
def test_queues_that_make_no_sense_are_refused(
    ready: Driver, opcode: int, prp1: int, words: tuple[int, ...], status: int
) -> None:  # fmt: skip
    assert ready.run(0, opcode, 0, prp1, 0, *words).status == status


def test_queues_go_in_order_and_can_be_made_again(ready: Driver) -> None:
    assert ready.admin(DELETE_SQ, 1).status == 0
    assert ready.admin(DELETE_CQ, 1).status == 0
    ready.create_queues(1)
    assert ready.io(FLUSH, 0, 1, 0) == 0


def test_deleting_a_queue_aborts_what_is_in_it(ready: Driver) -> None:
    ready.host.ram[ready.page : ready.page + 512] = b"x" * 512
    ids = [ready.put(1, WRITE, 1, ready.page, 0, sector, 0, 0) for sector in range(3)]
    ready.ring(1)
    ready.host.pass_time(ready.host.now)  # fetched, not done
    delete = ready.put(0, DELETE_SQ, 0, 0, 0, 1)
    ready.ring(0)
    ready.host.pass_time()
    assert [(c.id, c.status) for c in ready.all(1)] == [(id, SQ_DELETED) for id in ids]
    assert [c.id for c in ready.all(0)] == [delete]
    assert ready.host.stores[0].read(0, 3) == bytes(3 * 512)


def test_abort_takes_a_command_out_of_flight(ready: Driver) -> None:
    id = ready.put(1, READ, 1, ready.page, 0, 0, 0, 0)
    ready.ring(1)
    ready.host.pass_time(ready.host.now)
    abort = ready.put(0, ABORT, 0, 0, 0, 1 | id << 16)
    ready.put(0, ABORT, 0, 0, 0, 1 | id << 16)
    ready.ring(0)
    ready.host.pass_time()
    done = ready.all(0)
    assert [c.result for c in done] == [0, 1]  # the second found nothing to abort
    assert done[0].id == abort
    assert [(c.id, c.status) for c in ready.all(1)] == [(id, ABORTED)]


def test_doorbells_that_make_no_sense_are_reported_as_events(ready: Driver) -> None:
    asked = [ready.put(0, EVENT) for _ in range(2)]
    ready.ring(0)
    ready.set(0x1000 + 8 * 5, 1)  # no such queue
    ready.host.pass_time()
    completion = ready.take(0)
    assert completion is not None
    assert (completion.id, completion.result) == (asked[0], 0x01_00_00)
    ready.set(0x1000 + 8, 8)  # behind the end of the queue
    ready.host.pass_time()
    assert ready.take(0) is None  # not reported until the error log has been read
    assert ready.admin(LOG, 1 | 15 << 16, 0, data=True, namespace=0xFFFF_FFFF).status == 0
    ready.set(0x1000 + 8, 8)
    ready.host.pass_time()
    completion = ready.take(0)
    assert completion is not None
    assert (completion.id, completion.result) == (asked[1], 0x01_01_00)
    assert ready.io(FLUSH, 0, 1, 0) == 0


def test_more_entries_than_there_is_room_for_are_no_commands(ready: Driver) -> None:
    ready.put(1, FLUSH, 1)
    ready.ring(1)
    ready.set(0x1000 + 8, 1)  # as it is: nothing new
    ready.set(0x1004 + 8, 5)  # completions that were never there
    ready.host.pass_time()
    assert len(ready.all(1)) == 1


def test_a_queue_where_there_is_no_memory_is_fatal_until_a_reset(ready: Driver) -> None:
    assert ready.run(0, CREATE_CQ, 0, 0x4_0000_0000, 0, 2 | 7 << 16, 1).status == 0
    assert ready.run(0, CREATE_SQ, 0, ready.base + 0x5000, 0, 2 | 7 << 16, 1 | 2 << 16).status == 0
    ready.sq[2], ready.tail[2], ready.entries[2] = ready.base + 0x5000, 0, 8
    ready.put(2, FLUSH, 1)
    ready.ring(2)
    ready.host.pass_time()
    assert ready.get(CSTS) == 3
    ready.start()
    ready.create_queues()
    assert ready.io(FLUSH, 0, 1, 0) == 0


# --- data -----------------------------------------------------------------------------------------------------------


def scattered(drive: Driver, length: int, offset: int) -> tuple[int, int, list[int]]:
    """PRPs for a buffer whose pages lie in reverse order, and the addresses of its bytes by page."""
    pages = -(-(offset + length) // 0x1000)
    places = [0x8_0000 + 0x1000 * (2 * (pages - i)) for i in range(pages)]
    if pages == 1:
        return places[0] + offset, 0, places
    if pages == 2:
        return places[0] + offset, places[1], places
    table = 0xF_0000
    drive.host.ram[table : table + 8 * (pages - 1)] = struct.pack(f"<{pages - 1}Q", *places[1:])
    return places[0] + offset, table, places


@pytest.mark.parametrize("count", [1, 8, 9, 16, 17, 64, 256])
@pytest.mark.parametrize("offset", [0, 4, 512, 4092])
def test_data_go_through_any_pages(ready: Driver, count: int, offset: int) -> None:
    data = bytes(i * 7 & 0xFF for i in range(count * 512))
    ready.host.stores[0].write(100, data)
    prp1, prp2, places = scattered(ready, len(data), offset)
    assert ready.io(READ, 100, count, prp1, prp2) == 0
    joined = b"".join(bytes(ready.host.ram[place : place + 0x1000]) for place in places)
    assert joined[offset : offset + len(data)] == data
    assert ready.io(WRITE, 700, count, prp1, prp2) == 0
    assert ready.host.stores[0].read(700, count) == data
    assert ready.io(COMPARE, 700, count, prp1, prp2) == 0


def test_a_list_goes_on_in_another_page(ready: Driver) -> None:
    """The last entry of a list's page leads to the next page of it."""
    count, ram = 32, ready.host.ram  # four pages
    struct.pack_into("<2Q", ram, 0xF_0FF0, 0x8_1000, 0xF_2000)
    struct.pack_into("<2Q", ram, 0xF_2000, 0x8_3000, 0x8_5000)
    ready.host.stores[0].write(0, b"".join(bytes([i]) * 512 for i in range(count)))
    assert ready.io(READ, 0, count, 0x8_7000, 0xF_0FF0) == 0
    assert [ram[at] for at in (0x8_7000, 0x8_1000, 0x8_3000, 0x8_5000)] == [0, 8, 16, 24]


@pytest.mark.parametrize(
    ("count", "prp1", "prp2", "status"),
    [
        (1, 0x8_0001, 0, PRP_OFFSET),
        (9, 0x8_0000, 0x8_2004, PRP_OFFSET),
        (32, 0x8_0000, 0xF_0004, PRP_OFFSET),
        (257, 0x8_0000, 0xF_0000, INVALID_FIELD),  # more than the drive transfers at once
        (1, 0x4_0000_0000, 0, TRANSFER_ERROR),
        (9, 0x8_0000, 0x4_0000_0000, TRANSFER_ERROR),
        (32, 0x8_0000, 0x4_0000_0000, TRANSFER_ERROR),
        (1, 0xFFFF_FFFF_FFFF_FFFC, 0, TRANSFER_ERROR),
    ],
)
def test_pages_that_make_no_sense(ready: Driver, count: int, prp1: int, prp2: int, status: int) -> None:
    assert ready.io(READ, 0, count, prp1, prp2) == status
    assert ready.io(WRITE, 0, count, prp1, prp2) == status
    assert ready.host.stores[0].read(0, 1) == bytes(512)


def test_sectors_behind_the_end(ready: Driver) -> None:
    assert ready.io(READ, SECTORS - 1, 1, ready.page) == 0
    for sector, count in ((SECTORS, 1), (SECTORS - 1, 2), ((1 << 64) - 1, 1)):
        for opcode in (READ, WRITE, ZEROES, COMPARE):
            assert ready.io(opcode, sector, count, ready.page, ready.page + 0x1000) == OUT_OF_RANGE


def test_namespaces_that_it_does_not_see(ready: Driver) -> None:
    for opcode in (READ, WRITE, FLUSH, ZEROES):
        assert ready.io(opcode, 0, 1, ready.page, namespace=3) == INVALID_NAMESPACE
        assert ready.io(opcode, 0, 1, ready.page, namespace=2) == INVALID_FIELD  # there, but not attached
    assert ready.io(READ, 0, 1, ready.page, namespace=0xFFFF_FFFF) == INVALID_NAMESPACE
    assert ready.io(FLUSH, 0, 1, 0, namespace=0xFFFF_FFFF) == 0


def test_zeroes_comparisons_and_ranges(ready: Driver) -> None:
    ready.host.ram[ready.page : ready.page + 512] = b"x" * 512
    assert ready.io(WRITE, 5, 1, ready.page) == 0
    assert ready.io(COMPARE, 5, 1, ready.page) == 0
    assert ready.io(ZEROES, 4, 4, 0) == 0
    assert ready.io(COMPARE, 5, 1, ready.page) == 0x285
    struct.pack_into("<IIQ", ready.host.ram, ready.page, 0, 8, 0)
    assert ready.run(1, DATASET, 1, ready.page, 0, 0, 4).status == 0
    struct.pack_into("<IIQ", ready.host.ram, ready.page, 0, 8, SECTORS)
    assert ready.run(1, DATASET, 1, ready.page, 0, 0, 4).status == OUT_OF_RANGE


def test_unknown_commands_fused_ones_and_lists_of_another_kind(ready: Driver) -> None:
    assert ready.run(1, 0x7F, 1).status == INVALID_OPCODE
    assert ready.run(0, 0x7F).status == INVALID_OPCODE
    for queue, opcode in ((1, READ), (0, IDENTIFY)):
        for flags in (1, 0x40):
            ready.put(queue, opcode, 1, ready.page, flags=flags)
            ready.ring(queue)
            ready.host.pass_time()
            completion = ready.take(queue)
            assert completion is not None
            assert completion.status == INVALID_FIELD


def test_what_the_medium_cannot_do_is_a_media_error(ready: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> bytes:
        raise StoreError("broken")

    for name in ("read", "write", "flush"):
        monkeypatch.setattr(MemoryStore, name, fails)
    assert ready.io(READ, 0, 1, ready.page) == 0x281
    assert ready.io(WRITE, 0, 1, ready.page) == 0x280
    assert ready.io(FLUSH, 0, 1, 0) == 0x280


def test_a_namespace_that_is_read_only(ready: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryStore, "read_only", True)
    assert ready.io(WRITE, 0, 1, ready.page) == PROTECTED
    assert ready.io(READ, 0, 1, ready.page) == 0
    assert ready.identify(0, 1)[99] == 1


def test_forced_unit_access_and_a_cache_that_is_off_write_durably(
    ready: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    seen = []
    original = MemoryStore.write

    def write(store: MemoryStore, sector: int, data: bytes, *, durable: bool = False) -> None:
        seen.append(durable)
        original(store, sector, data)

    monkeypatch.setattr(MemoryStore, "write", write)
    ready.io(WRITE, 0, 1, ready.page)
    ready.io(WRITE, 0, 1, ready.page, more=1 << 30)
    assert ready.admin(SET_FEATURES, 6, 0).status == 0
    ready.io(WRITE, 0, 1, ready.page)
    assert seen == [False, True, True]


def test_latencies_pass_side_by_side_and_data_one_after_the_other(ready: Driver) -> None:
    start = ready.host.now
    for sector in range(4):
        ready.put(1, READ, 1, ready.page, 0, sector, 0, 0)
    ready.ring(1)
    ready.host.pass_time()
    assert ready.host.now - start == TIMES.read + 4 * TIMES.sector


# --- what it says of itself -----------------------------------------------------------------------------------------


def test_identify_controller(drive: Driver) -> None:
    data = drive.identify(1)
    assert struct.unpack_from("<HH", data) == (0x1D0F, 0x1D0F)
    assert data[24:64].rstrip() == b"test drive"
    assert data[77] == 5  # 2**5 pages a command
    assert struct.unpack_from("<I", data, 80)[0] == 0x0001_0400
    assert (data[512], data[513]) == (0x66, 0x44)
    assert struct.unpack_from("<I", data, 516)[0] == 2
    assert data[525] & 1


def test_identify_namespaces(drive: Driver) -> None:
    assert struct.unpack_from("<3Q", drive.identify(0, 1)) == (SECTORS,) * 3
    assert drive.identify(0, 1)[130] == 9
    assert drive.identify(0, 2) == bytes(0x1000)  # not attached
    assert struct.unpack_from("<2I", drive.identify(2)) == (1, 0)
    assert struct.unpack_from("<3I", drive.identify(0x10)) == (1, 2, 0)
    assert struct.unpack_from("<BB", drive.identify(3, 1)) == (3, 16)
    assert drive.admin(IDENTIFY, 0, namespace=7, data=True).status == INVALID_NAMESPACE
    assert drive.admin(IDENTIFY, 0x77, data=True).status == INVALID_FIELD


def test_features(drive: Driver) -> None:
    assert drive.admin(SET_FEATURES, 7, 3 | 3 << 16).result == 15 | 15 << 16  # 16 of each, counted from zero
    assert drive.admin(SET_FEATURES, 7, 0xFFFF).status == INVALID_FIELD
    assert drive.admin(SET_FEATURES, 0xB, 0x1FF).status == 0
    assert drive.admin(GET_FEATURES, 0xB).result == 0x1FF
    assert drive.admin(GET_FEATURES, 0xB | 1 << 8).result == 0
    assert drive.admin(GET_FEATURES, 0xB | 3 << 8).result == 4
    assert drive.admin(SET_FEATURES, 0xB | 1 << 31, 0).status == 0x10D
    assert drive.admin(SET_FEATURES, 0x66, 0).status == INVALID_FIELD
    assert drive.admin(GET_FEATURES, 9, 99).status == INVALID_FIELD
    drive.create_queues()
    assert drive.admin(SET_FEATURES, 7, 3 | 3 << 16).status == SEQUENCE


def test_logs(ready: Driver) -> None:
    ready.run(1, 0x7F, 1)
    assert ready.admin(LOG, 1 | 15 << 16, data=True, namespace=0xFFFF_FFFF).status == 0
    count, queue, _, status = struct.unpack_from("<QHHH", ready.host.ram, ready.page)
    assert (count, queue, status >> 1 & 0x7FF) == (1, 1, INVALID_OPCODE)
    ready.io(READ, 0, 8, ready.page)
    assert ready.admin(LOG, 2 | 127 << 16, data=True, namespace=0xFFFF_FFFF).status == 0
    assert struct.unpack_from("<Q", ready.host.ram, ready.page + 64)[0] == 1  # reads
    assert ready.admin(LOG, 5 | 1023 << 16, data=True).status == 0
    assert struct.unpack_from("<I", ready.host.ram, ready.page + 4 * IDENTIFY)[0] & 1
    assert ready.admin(LOG, 0x66 | 15 << 16, data=True).status == BAD_LOG


def test_no_more_than_four_events_can_be_asked_for(drive: Driver) -> None:
    for _ in range(5):
        drive.put(0, EVENT)
    drive.ring(0)
    drive.host.pass_time()
    assert [completion.status for completion in drive.all(0)] == [EVENT_LIMIT]


# --- interrupts without MSI-X ---------------------------------------------------------------------------------------


def test_the_pin_is_up_while_there_are_completions_and_it_is_not_masked(ready: Driver) -> None:
    ready.host.configure(PF, 0x72, 0, 2)
    ready.put(1, FLUSH, 1)
    ready.ring(1)
    ready.host.pass_time()
    levels = [ready.host.pin()]
    ready.set(0x0C, 1)
    levels.append(ready.host.pin())
    ready.set(0x10, 1)
    levels.append(ready.host.pin())
    ready.all(1)
    levels.append(ready.host.pin())
    assert levels == [True, False, True, False]


# --- secondary controllers ------------------------------------------------------------------------------------------


def test_a_secondary_controller_is_offline_until_it_is_given_what_it_needs(drive: Driver) -> None:
    host = drive.host
    host.enable_vfs()
    vf = Driver(host, VF1, 0x2_0000)
    assert vf.get(CSTS) == 2
    vf.set(CC, 0x46_0001)
    host.pass_time()
    assert vf.get(CSTS) == 2
    assert drive.admin(VIRTUALIZATION, 9 | 1 << 16).status == 0x120  # nothing was assigned
    assert drive.admin(VIRTUALIZATION, 8 | 1 << 16, 10).status == 0x121
    assert drive.admin(VIRTUALIZATION, 8 | 5 << 8 | 1 << 16, 1).status == 0x122
    assert drive.admin(VIRTUALIZATION, 8 | 99 << 16, 1).status == 0x11F
    assert drive.admin(VIRTUALIZATION, 3).status == INVALID_FIELD
    vf = give_vf(host, drive)
    assert drive.admin(VIRTUALIZATION, 8 | 1 << 16, 3).status == 0x120  # not while it is online
    vf.start()
    assert vf.get(CSTS) == 1
    vf.create_queues()
    assert vf.io(WRITE, 0, 1, vf.page, namespace=2) == 0
    assert vf.io(READ, 0, 1, vf.page, namespace=1) == INVALID_FIELD


def test_a_secondary_controller_has_what_it_was_given_and_no_more(drive: Driver) -> None:
    drive.host.enable_vfs()
    vf = give_vf(drive.host, drive)
    vf.start()
    assert vf.admin(SET_FEATURES, 7, 7 | 7 << 16).result == 2 | 2 << 16  # four queue pairs, one of them the admin one
    assert vf.run(0, CREATE_CQ, 0, 0x8000, 0, 4 | 7 << 16, 1).status == BAD_ID
    assert vf.run(0, CREATE_CQ, 0, 0x8000, 0, 1 | 7 << 16, 3 | 3 << 16).status == BAD_VECTOR
    for opcode in (NAMESPACES, ATTACH, VIRTUALIZATION):
        assert vf.admin(opcode, 9 | 2 << 16, data=True, namespace=1).status == INVALID_OPCODE
    for what in (0x12, 0x13, 0x14, 0x15):
        assert vf.admin(IDENTIFY, what, data=True).status == INVALID_FIELD


def test_the_lists_of_the_primary_controller(drive: Driver) -> None:
    drive.host.enable_vfs()
    give_vf(drive.host, drive)
    data = drive.identify(0x15)
    assert data[0] == 7
    assert struct.unpack_from("<HHB3xHHH", data, 32) == (1, 0, 1, 1, 4, 3)
    assert struct.unpack_from("<HHB3xHHH", data, 64) == (2, 0, 0, 2, 0, 0)
    capabilities = drive.identify(0x14)
    assert struct.unpack_from("<II4H", capabilities, 32) == (63, 4, 0, 17, 9, 1)  # queues: 63 to give away, 4 given
    assert struct.unpack_from("<II4H", capabilities, 64) == (63, 3, 0, 17, 9, 1)  # and vectors
    assert capabilities[48:64] == bytes(16)
    assert struct.unpack_from("<2H", drive.identify(0x12, 2)) == (1, 1)
    assert struct.unpack_from("<H", drive.identify(0x13))[0] == 8


def test_a_namespace_comes_and_goes(drive: Driver) -> None:
    drive.host.enable_vfs()
    vf = give_vf(drive.host, drive)
    vf.start()
    vf.create_queues()
    asked = vf.put(0, EVENT)
    vf.ring(0)
    drive.host.pass_time()
    assert vf.admin(SET_FEATURES, 0xB, 1 << 8).status == 0
    drive.host.ram[drive.page : drive.page + 4] = struct.pack("<HH", 1, 1)
    assert drive.admin(ATTACH, 0, namespace=2, data=True).status == 0x118
    assert drive.admin(ATTACH, 1, namespace=2, data=True).status == 0
    assert drive.admin(ATTACH, 1, namespace=2, data=True).status == 0x11A
    completion = vf.take(0)
    assert completion is not None
    assert (completion.id, completion.result) == (asked, 0x04_00_02)
    assert vf.io(READ, 0, 1, vf.page, namespace=2) == INVALID_FIELD
    assert vf.admin(LOG, 4 | 1023 << 16, data=True).status == 0
    assert struct.unpack_from("<2I", drive.host.ram, vf.page) == (2, 0)
    drive.host.ram[drive.page : drive.page + 4] = struct.pack("<HH", 1, 99)
    assert drive.admin(ATTACH, 0, namespace=2, data=True).status == 0x11C
    assert drive.admin(NAMESPACES, 0, data=True).status == 0x115


def test_the_primary_controllers_reset_puts_the_others_offline(drive: Driver) -> None:
    drive.host.enable_vfs()
    vf = give_vf(drive.host, drive)
    vf.start()
    drive.set(CC, 0)
    assert vf.get(CSTS) == 2


def test_a_reset_forgets_what_is_in_flight(ready: Driver) -> None:
    ready.put(1, READ, 1, ready.page, 0, 0, 0, 0)
    ready.ring(1)
    ready.host.pass_time(ready.host.now)
    ready.host.written.clear()
    ready.set(CC, 0)
    ready.host.pass_time()
    assert ready.host.written == []


def test_a_virtual_function_that_is_taken_away_writes_nothing_more(drive: Driver) -> None:
    host = drive.host
    host.enable_vfs()
    vf = give_vf(host, drive)
    vf.start()
    vf.create_queues()
    for way in ("offline", "disabled"):
        vf.put(1, READ, 2, vf.page, 0, 0, 0, 0)
        vf.ring(1)
        host.pass_time(host.now)
        if way == "offline":
            assert drive.put(0, VIRTUALIZATION, 0, 0, 0, 7 | 1 << 16)
            drive.ring(0)
            host.pass_time(host.now)
        else:
            host.configure(PF, 0x168, 0, 2)
        host.written.clear()
        host.pass_time()
        assert all(function != VF1 for function, _, _ in host.written)
        assert vf.get(CSTS) == 2
        drive.all(0)
        assert drive.admin(VIRTUALIZATION, 9 | 1 << 16).status == 0
        host.enable_vfs()
        vf.start()
        vf.create_queues()


def test_a_snapshot_goes_on_where_it_was(ready: Driver) -> None:
    ids = [ready.put(1, READ, 1, ready.page, 0, sector, 0, 0) for sector in range(3)]
    ready.ring(1)
    ready.host.pass_time(ready.host.now)
    state, ram, pci = copy.deepcopy(ready.function.state), bytes(ready.host.ram), copy.deepcopy(ready.host.bus.state)
    ready.host.pass_time()
    assert [c.id for c in ready.all(1)] == ids
    ready.function.state, ready.host.ram[:], ready.host.bus.state = state, ram, pci
    ready.head[1], ready.phase[1] = 0, 1
    ready.host.pass_time()
    assert [c.id for c in ready.all(1)] == ids

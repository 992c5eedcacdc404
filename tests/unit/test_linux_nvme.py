"""What Linux's NVMe driver does with a controller and looks for in it (drivers/nvme/host: pci.c, core.c), step by step.

In our own words, and with its numbers: admin queues of 32 entries, I/O queues of 1024, 64-bit registers in two halves.
"""

from __future__ import annotations

import struct

import pytest

from hv.cards import COMMODITY_DRIVE, DRIVES
from hv.silicon.nvme.subsystem import Subsystem
from tests.nvme_host import NONE, PF, SECTORS, TIMES, VF1, Driver, Host, give_vf

CAP, VS, CC, CSTS, AQA, ASQ, ACQ, CMBSZ = 0x00, 0x08, 0x14, 0x1C, 0x24, 0x28, 0x30, 0x3C
ENABLE, NORMAL_SHUTDOWN, ENTRY_SIZES = 1, 1 << 14, 6 << 16 | 4 << 20
READY, FATAL, SHUT_DOWN, SHUTDOWN_STATUS = 1, 2, 2 << 2, 3 << 2
DELETE_SQ, CREATE_SQ, LOG, DELETE_CQ, CREATE_CQ, IDENTIFY, ABORT, SET, GET, EVENT = 0, 1, 2, 4, 5, 6, 8, 9, 10, 12
FLUSH, WRITE, READ, ZEROES, RANGES = 0, 1, 2, 8, 9
EVERYTHING = 0xFFFF_FFFF
DEPTH = 1024
EVENT_ID = 31  # behind the identifiers of the block layer's admin requests
TICKS_A_SECOND = 10**12  # a host of 1 GHz: millicycles
QUEUES_AT = 0x8_0000


class LinuxDriver(Driver):
    """`identity` is the data structure of the controller once start() is over."""

    def __init__(self, host: Host, place: int, base: int) -> None:
        super().__init__(host, place, base, entries=32)
        self.queues_at = QUEUES_AT

    def long(self, offset: int) -> int:
        return self.get(offset) | self.get(offset + 4) << 32

    def set_long(self, offset: int, value: int) -> None:
        self.set(offset, value & 0xFFFF_FFFF)
        self.set(offset + 4, value >> 32)

    def wait(self, mask: int, wanted: int, seconds: float) -> None:
        """Poll the status, as long as the controller says that it may take."""
        end = self.host.now + int(seconds * TICKS_A_SECOND)
        while self.get(CSTS) & mask != wanted:
            assert self.get(CSTS) != EVERYTHING
            assert self.host.now < end
            self.host.pass_time(self.host.now + TICKS_A_SECOND // 1000)

    def start(self) -> None:
        """From the reset to the admin queue."""
        assert self.get(CSTS) != EVERYTHING
        cap = self.long(CAP)
        self.timeout = (cap >> 24 & 0xFF) / 2
        assert (cap & 0xFFFF) + 1 >= DEPTH
        assert cap >> 32 & 0xF == 0  # stride of the doorbells
        assert cap >> 48 & 0xF == 0  # pages of 4 KiB
        assert cap >> 37 & 1  # the NVM command set
        assert not cap >> 36 & 1  # no reset of the subsystem
        assert self.get(CMBSZ) == 0
        self.set(CC, self.get(CC) & ~(ENABLE | 3 << 14))
        self.wait(READY, 0, self.timeout)
        self.host.ram[self.base : self.base + 0x2000] = bytes(0x2000)
        self.tail, self.head, self.phase, self.entries = {0: 0}, {0: 0}, {0: 1}, {0: 32}
        self.set(AQA, 31 | 31 << 16)
        self.set_long(ASQ, self.sq[0])
        self.set_long(ACQ, self.cq[0])
        self.set(CC, ENTRY_SIZES)
        assert self.get(CC) == ENTRY_SIZES  # as what it will be, before it is enabled
        self.set(CC, ENTRY_SIZES | ENABLE)
        self.wait(READY, READY, self.timeout)
        self.identity = self.identify(1)

    def ask_events(self) -> None:
        """The one request that is always on its way."""
        self.put(0, EVENT, id=EVENT_ID)
        self.ring(0)
        self.host.pass_time()

    def make_queues(self, count: int, *, vectors: bool = True) -> None:
        """So many pairs of full depth. With `vectors` each has its own; the admin queue keeps vector 0."""
        for number in range(1, count + 1):
            self.sq[number], self.cq[number] = self.queues_at, self.queues_at + 64 * DEPTH
            self.queues_at = self.cq[number] + 16 * DEPTH
            self.host.ram[self.sq[number] : self.queues_at] = bytes(80 * DEPTH)
            self.entries[number], self.tail[number], self.head[number], self.phase[number] = DEPTH, 0, 0, 1
            size = number | DEPTH - 1 << 16
            assert self.admin_at(self.cq[number], CREATE_CQ, size, 1 | 2 | number * vectors << 16) == 0
            assert self.admin_at(self.sq[number], CREATE_SQ, size, 1 | number << 16) == 0

    def admin_at(self, address: int, opcode: int, *words: int) -> int:
        status: int = self.run(0, opcode, NONE, address, 0, *words).status
        return status

    def get_log(self, page: int, size: int) -> bytes:
        completion = self.run(0, LOG, EVERYTHING, self.page, 0, (size // 4 - 1) << 16 | page)
        assert completion.status == 0
        return bytes(self.host.ram[self.page : self.page + size])

    def scan(self) -> list[int]:
        """The namespaces that are there, each looked at."""
        found = [id for (id,) in struct.iter_unpack("<I", self.identify(2)) if id]
        for id in found:
            kind, length, uuid = struct.unpack_from("<BBxx16s", self.identify(3, id))
            assert (kind, length) == (3, 16)
            assert uuid != bytes(16)
            data = self.identify(0, id)
            size, capacity = struct.unpack_from("<QQ", data)
            assert capacity == size == SECTORS
            assert data[26] & 0xF == data[25] == 0  # its format, of one
            assert struct.unpack_from("<HB", data, 128) == (0, 9)  # no metadata; 512 bytes
            assert data[29] == 0  # no protection information
        return found


@pytest.fixture(params=[PF, VF1], ids=["primary", "secondary"])
def linux(request: pytest.FixtureRequest) -> LinuxDriver:
    """A driver whose function works. A secondary controller's owner has another driver, not Linux's."""
    host = Host()
    if request.param == PF:
        return LinuxDriver(host, PF, 0x1_0000)
    owner = Driver(host)
    owner.start()
    host.enable_vfs()
    give_vf(host, owner)
    host.ram[owner.page : owner.page + 4] = struct.pack("<HH", 1, 1)
    assert owner.admin(0x15, 1, namespace=2, data=True).status == 0
    assert owner.admin(0x15, 0, namespace=1, data=True).status == 0
    return LinuxDriver(host, VF1, 0x2_0000)


def test_the_controller_is_one_that_the_driver_takes(linux: LinuxDriver) -> None:
    linux.start()
    data = linux.identity
    name = data[768:1024].split(b"\0")[0]
    assert name.startswith(b"nqn.")
    assert 0 < len(name) < 223
    assert data[4:24].strip()  # serial
    assert struct.unpack_from("<H", data, 78)[0] == linux.place - PF  # controllers of a subsystem differ in this
    assert data[76] & 2  # and it says that there may be several
    assert data[111] == 1  # an I/O controller, as each since 1.4 says
    assert struct.unpack_from("<I", data, 80)[0] == linux.get(VS)
    assert (data[512] & 0xF, data[513] & 0xF) == (6, 4)
    assert data[525] & 1  # write cache: flushes are wanted
    assert data[525] >> 1 & 3 == 3  # and may name all namespaces
    assert struct.unpack_from("<II", data, 272) == (0, 0)  # it wants no memory of the host's
    assert (data[263], data[265]) == (0, 0)  # one power state, nothing to be configured
    assert struct.unpack_from("<H", data, 320)[0] == 0  # no keep-alive
    assert struct.unpack_from("<I", data, 536)[0] & 3 == 0  # no SGLs
    effects = linux.get_log(5, 4096)
    used = [LOG, IDENTIFY, ABORT, SET, GET, EVENT, CREATE_CQ, CREATE_SQ, DELETE_CQ, DELETE_SQ]
    assert all(effects[4 * opcode] & 1 for opcode in used)
    assert all(effects[1024 + 4 * opcode] & 1 for opcode in (FLUSH, WRITE, READ, ZEROES, RANGES))


def test_queues_namespaces_and_io(linux: LinuxDriver) -> None:
    linux.start()
    answer = linux.run(0, SET, NONE, 0, 0, 7, 7 | 7 << 16)
    pairs = min(answer.result & 0xFFFF, answer.result >> 16) + 1
    assert answer.status == 0
    assert pairs >= 2
    linux.make_queues(2)
    assert linux.scan() == [1]
    host, page = linux.host, linux.page
    host.ram[page : page + 512] = bytes(range(256)) * 2
    for queue in (1, 2):
        sector, force = 8 * queue, 1 << 30
        assert linux.run(queue, WRITE, 1, page, 0, sector, 0, 0 | force).status == 0
        assert linux.run(queue, READ, 1, page + 0x400, 0, sector, 0, 0).status == 0
        assert host.ram[page + 0x400 : page + 0x600] == host.ram[page : page + 512]
    host.ram[page : page + 16] = struct.pack("<IIQ", 0, 8, 8)
    assert linux.run(1, RANGES, 1, page, 0, 0, 1 << 2).status == 0  # discard
    assert linux.run(1, ZEROES, 1, 0, 0, 8, 0, 0 | 1 << 25).status == 0  # which may discard
    assert linux.run(1, READ, 1, page, 0, 8, 0, 0).status == 0
    assert host.ram[page : page + 512] == bytes(512)
    assert linux.run(1, FLUSH, 1).status == 0


def test_what_would_fail_again_is_not_tried_again(linux: LinuxDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    linux.start()
    linux.make_queues(1)
    behind = linux.run(1, READ, 1, linux.page, 0, SECTORS, 0, 0)
    assert (behind.status, behind.final, behind.more) == (0x80, True, True)
    assert linux.run(0, 0x7F).final
    bad = linux.run(1, READ, 1, 0xFFFF_0000, 0, 0, 0, 0)  # no memory there
    assert (bad.status, bad.final, bad.more) == (4, False, True)
    count, queue, _, status = struct.unpack_from("<QHHH", linux.get_log(1, 64))
    assert (count, queue, status >> 1 & 0x7FF) == (3, 1, 4)


def test_an_abort_of_a_command_that_takes_too_long(linux: LinuxDriver) -> None:
    linux.start()
    linux.make_queues(1)
    slow = linux.put(1, READ, 1, linux.page, 0, 0, 0, 0)
    linux.ring(1)
    linux.host.pass_time(linux.host.now)
    abort = linux.put(0, ABORT, NONE, 0, 0, 1 | slow << 16)
    linux.ring(0)
    linux.host.pass_time(linux.host.now)
    (answer,) = linux.all(0)
    assert (answer.id, answer.status, answer.result & 1) == (abort, 0, 0)
    (aborted,) = linux.all(1)
    assert (aborted.id, aborted.status, aborted.final) == (slow, 7, False)


def test_a_request_for_events_can_be_taken_back(linux: LinuxDriver) -> None:
    linux.start()
    linux.ask_events()
    abort = linux.put(0, ABORT, NONE, 0, 0, EVENT_ID << 16)
    linux.ring(0)
    linux.host.pass_time()
    assert {answer.id: (answer.status, answer.result) for answer in linux.all(0)} == {EVENT_ID: (7, 0), abort: (0, 0)}
    linux.ask_events()
    assert linux.all(0) == []


def test_a_namespace_that_goes_is_an_event_only_for_who_wants_it() -> None:
    host = Host()
    owner = Driver(host)
    owner.start()
    host.enable_vfs()
    give_vf(host, owner, namespace=2)
    linux = LinuxDriver(host, VF1, 0x2_0000)
    linux.start()
    linux.ask_events()

    def change(action: int) -> None:
        host.ram[owner.page : owner.page + 4] = struct.pack("<HH", 1, 1)
        assert owner.admin(0x15, action, namespace=2, data=True).status == 0

    change(1)
    change(0)
    assert linux.take(0) is None
    optional = struct.unpack_from("<I", linux.identity, 92)[0]
    assert optional & 1 << 8
    assert linux.run(0, SET, NONE, 0, 0, 0xB, 1 << 8).status == 0
    change(1)
    answer = linux.take(0)
    assert answer is not None
    assert (answer.id, answer.result & 7, answer.result >> 8 & 0xFF, answer.result >> 16) == (EVENT_ID, 2, 0, 4)
    assert struct.unpack_from("<2I", linux.get_log(4, 4096)) == (2, 0)
    assert linux.scan() == []
    linux.ask_events()
    change(0)
    assert linux.take(0) is not None
    assert linux.scan() == [2]


def test_temperatures_as_its_sensor_driver_reads_and_sets_them(linux: LinuxDriver) -> None:
    linux.start()
    warning, critical = struct.unpack_from("<HH", linux.identity, 266)
    state, kelvin = struct.unpack_from("<BH", linux.get_log(2, 512))
    assert state == 0
    assert 273 < kelvin < warning < critical
    assert linux.run(0, GET, NONE, 0, 0, 4, 0).result == warning
    assert linux.run(0, GET, NONE, 0, 0, 4, 1 << 20).result == 0  # the lower one
    assert linux.run(0, GET, NONE, 0, 0, 4, 1 << 16).status == 2  # a sensor that is not there
    assert linux.run(0, SET, NONE, 0, 0, 4, 1 << 20 | 280).status == 0
    assert [linux.run(0, GET, NONE, 0, 0, 4, which).result for which in (0, 1 << 20)] == [warning, 280]
    linux.ask_events()
    assert linux.run(0, SET, NONE, 0, 0, 4, 290).status == 0  # it is hotter than that
    assert linux.get_log(2, 512)[0] == 2
    asked = linux.put(0, SET, NONE, 0, 0, 0xB, 1 << 1)
    linux.ring(0)
    linux.host.pass_time()
    assert {answer.id: answer.result for answer in linux.all(0)} == {asked: 0, EVENT_ID: 0x02_01_01}
    assert linux.run(0, SET, 1, 0, 0, 4, 300).status == 0x10F  # not a namespace's


def test_it_goes_and_comes_again(linux: LinuxDriver) -> None:
    for _ in range(2):
        linux.queues_at = QUEUES_AT
        linux.start()
        linux.make_queues(2)
        linux.ask_events()
        for delete in (DELETE_SQ, DELETE_CQ):
            assert [linux.run(0, delete, NONE, 0, 0, number).status for number in (2, 1)] == [0, 0]
        linux.set(CC, linux.get(CC) & ~(3 << 14) | NORMAL_SHUTDOWN)
        linux.wait(SHUTDOWN_STATUS, SHUT_DOWN, 5)
        assert not linux.get(CSTS) & FATAL


def test_virtual_functions_made_ready_by_hand() -> None:
    """The commands that QEMU's documentation gives for `nvme virt-mgmt`, in their order."""
    host = Host()
    owner = LinuxDriver(host, PF, 0x1_0000)
    owner.start()
    word = {"keep": 1, "offline": 7, "assign": 8, "online": 9}

    def manage(what: str, controller: int, kind: int = 0, count: int = 0) -> tuple[int, int]:
        answer = owner.run(0, 0x1C, NONE, 0, 0, word[what] | kind << 8 | controller << 16, count)
        return answer.status, answer.result

    assert [manage("keep", 0, kind, 0) for kind in (1, 0)] == [(0, 0)] * 2
    assert manage("keep", 0, 0, 1)[0] == 0x121  # all are the secondary controllers'
    assert manage("keep", 1)[0] == 0x11F
    assert manage("keep", 0, 2)[0] == 0x122
    owner.start()
    host.enable_vfs()
    assert manage("online", 1)[0] == 0x120  # with nothing
    assert (manage("offline", 1), manage("assign", 1, 1, 1), manage("assign", 1, 0, 2)) == ((0, 0), (0, 1), (0, 2))
    assert manage("online", 1) == (0, 0)
    assert manage("assign", 1, 0, 3)[0] == 0x120
    host.ram[owner.page : owner.page + 4] = struct.pack("<HH", 1, 1)
    assert owner.admin(0x15, 0, namespace=1, data=True).status == 0
    linux = LinuxDriver(host, VF1, 0x2_0000)
    linux.start()
    assert linux.run(0, SET, NONE, 0, 0, 7, 7 | 7 << 16).result == 0  # one pair
    linux.make_queues(1, vectors=False)
    assert linux.scan() == [1]


def test_no_two_cards_of_a_machine_are_taken_for_one() -> None:
    drives = [*DRIVES.values(), COMMODITY_DRIVE]
    cards = [Subsystem(drive.model, drive.vendor, drive.serial, {}, TIMES, 0) for drive in drives]
    assert len({card.name for card in cards}) == len(drives)
    assert len({drive.serial for drive in drives}) == len(drives)
    assert all(len(drive.serial) <= 20 for drive in drives)

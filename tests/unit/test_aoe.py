"""The ATA-over-Ethernet target: frames written by hand after the specification (AoEr11), errors, bounds, time."""

from __future__ import annotations

import struct

import pytest

from hv.host import aoe
from hv.host.aoe import BUFFERS, MAC, MOST_STRING, AoeTarget
from hv.host.store import MemoryStore, StoreError
from hv.silicon.timing import DiskTimes
from tests.fuzz.aoe import case

GUEST = bytes.fromhex("026876000001")
TAG = b"\xde\xad\xbe\xef"
TIMES = DiskTimes(read=1000, write=2000, flush=5000, sector=10, reset=0)
TURNAROUND = 100


class Bench:
    """A target, and what it sends."""

    def __init__(self, sectors: int = 100) -> None:
        self.store = MemoryStore(sectors, "remote")
        self.sent: list[tuple[bytes, int]] = []
        self.target = AoeTarget(self.store, TIMES, TURNAROUND, lambda frame, at: self.sent.append((frame, at)))

    def ask(self, body: str | bytes, at: int = 0, to: bytes = MAC) -> bytes | None:
        """What comes back, without its Ethernet header and what fills a short frame."""
        body = bytes.fromhex(body) if isinstance(body, str) else body
        self.target.receive(to + GUEST + b"\x88\xa2" + body, at)
        self.sent.clear()
        while self.target.due is not None:
            self.target.emit()
        if not self.sent:
            return None
        ((frame, _),) = self.sent
        assert frame[:14] == GUEST + MAC + b"\x88\xa2"
        assert len(frame) >= 60
        return frame[14:]

    def ata(self, command: int, sector: int = 0, count: int = 0, *, flags: int = 0x40, data: bytes = b"") -> bytes:
        """The answer to an ATA command, from its flags on."""
        head = bytes.fromhex("10 00 0001 00 00") + TAG
        argument = bytes((flags, 0, count, command)) + sector.to_bytes(6, "little") + bytes(2)
        answer = self.ask(head + argument + data)
        assert answer is not None
        assert answer[:10] == bytes.fromhex("18 00 0001 00 00") + TAG
        return answer[10:]

    def settings(self, wish: int, text: bytes = b"", length: int | None = None) -> bytes | None:
        size = len(text) if length is None else length
        return self.ask(bytes.fromhex("10 00 ffff ff 01") + TAG + struct.pack(">HHBBH", 0, 0, 0, wish, size) + text)


def test_a_broadcast_question_is_answered_with_shelf_slot_and_what_a_frame_holds() -> None:
    answer = Bench().ask("10 00 ffff ff 01 deadbeef 0000 0000 00 00 0000", to=b"\xff" * 6)
    assert answer is not None
    assert answer[:18] == bytes.fromhex("18 00 0001 00 01 deadbeef 0040 0001 02 10 0000")


def test_sectors_are_read_and_written() -> None:
    bench = Bench()
    old = bench.store.read(4, 2)
    answer = bench.ata(0x24, 4, 2)
    assert answer[:12] == bytes.fromhex("40 00 02 50 040000000000 0000")
    assert answer[12:] == old
    new = bytes(range(256)) * 4
    assert bench.ata(0x34, 4, 2, flags=0x41, data=new)[3] == 0x50
    assert bench.store.read(4, 2) == new
    assert bench.ata(0x20, 5, 1, flags=0)[12:] == new[512:]
    assert bench.ata(0xEA)[3] == bench.ata(0xE7, flags=0)[3] == 0x50


def test_the_identity_says_how_many_sectors() -> None:
    words = struct.unpack("<256H", Bench(12_345).ata(0xEC)[12:])
    assert words[100:104] == (12_345, 0, 0, 0)
    assert words[83] >> 10 & 1
    assert bytes(b for word in words[27:33] for b in (word >> 8, word & 255)) == b"hv AoE targe"


def test_a_short_address_has_28_bits() -> None:
    assert Bench().ata(0x20, 1 | 0xABC << 28, 1, flags=0)[12:] == Bench().store.read(1, 1)
    assert Bench().ata(0x24, 1 | 0xABC << 28, 1)[1] == 0x10


@pytest.mark.parametrize(
    ("command", "sector", "count", "flags", "error", "status"),
    [
        (0x24, 99, 2, 0x40, 0x10, 0x51),  # behind the end: IDNF
        (0x34, (1 << 48) - 1, 1, 0x41, 0x10, 0x51),
        (0x20, 0, 1, 0x40, 0x04, 0x51),  # a command of 28 bits with an address of 48: ABRT
        (0x24, 0, 1, 0x00, 0x04, 0x51),
        (0xC8, 0, 1, 0x00, 0x04, 0x51),  # no such command
        (0x00, 0, 0, 0x00, 0x04, 0x51),
    ],
)
def test_what_the_disk_refuses_is_an_ata_error(
    command: int, sector: int, count: int, flags: int, error: int, status: int
) -> None:
    answer = Bench().ata(command, sector, count, flags=flags, data=bytes(1024))
    assert (answer[1], answer[3]) == (error, status)


def test_what_the_server_refuses_is_an_aoe_error() -> None:
    bench = Bench()
    for body, error in (
        ("20 00 0001 00 00 deadbeef", 5),  # version 2
        ("10 00 0001 00 07 deadbeef", 1),  # command 7
        ("10 00 0001 00 00 deadbeef 40 00", 2),  # cut off
        ("10 00 0001 00 00 deadbeef 40000324 000000000000 0000", 2),  # three sectors
        ("10 00 0001 00 00 deadbeef 41000134 000000000000 0000 00", 2),  # a write without data
        ("10 00 0001 00 01 deadbeef 0000", 2),
        ("10 00 0001 00 01 deadbeef 0000 0000 00 05 0000", 2),  # nothing to do with the string that there is
    ):
        answer = bench.ask(body)
        assert answer is not None
        assert answer[:10] == bytes.fromhex(f"1c {error:02x} 0001 00") + bytes.fromhex(body)[5:10]
    assert bench.store.pages == {}


@pytest.mark.parametrize(
    "body", ["", "10", "18 00 0001 00 00 deadbeef", "10 00 0002 00 01 deadbeef", "10 00 0001 01 01 deadbeef"]
)
def test_what_is_for_nobody_here_is_ignored(body: str) -> None:
    assert Bench().ask(body) is None


def test_only_its_own_address_and_everybody_s_are_for_it() -> None:
    question = "10 00 ffff ff 01 deadbeef 0000 0000 00 00 0000"
    assert Bench().ask(question, to=GUEST) is None
    target = Bench().target
    target.receive(MAC + b"\x01" + GUEST[1:] + b"\x88\xa2" + bytes.fromhex(question), 0)  # from a group
    target.receive(MAC + GUEST + b"\x08\x00" + bytes.fromhex(question), 0)
    assert target.due is None


def test_the_string_that_marks_a_target() -> None:
    bench = Bench()
    assert bench.settings(3, b"mine") is not None
    assert bench.settings(0)[16:22] == b"\x00\x04mine"  # type: ignore[index]
    refused = bench.settings(3, b"yours")
    assert refused is not None
    assert refused[:2] == b"\x1c\x04"
    assert bench.settings(1, b"min") is None
    assert bench.settings(1, b"mine") is not None
    assert bench.settings(2, b"mi") is not None
    assert bench.settings(2, b"my") is None
    assert bench.settings(4, b"x" * MOST_STRING) is not None
    for length in (MOST_STRING + 1, 0xFFFF):
        assert bench.settings(4, b"y" * 1100, length)[:2] == b"\x1c\x02"  # type: ignore[index]
    assert bench.target.state.settings == b"x" * MOST_STRING


def test_a_store_that_fails_is_an_error_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def fail(*_: object, **__: object) -> bytes:
        raise StoreError("gone", 7)

    for name in ("read", "write", "flush"):
        monkeypatch.setattr(bench.store, name, fail)
    for command, flags, error, status in ((0x24, 0x40, 0x40, 0x51), (0x34, 0x41, 0x04, 0x71), (0xEA, 0x40, 0x04, 0x71)):
        answer = bench.ata(command, 6, 2, flags=flags, data=bytes(1024))
        assert (answer[1], answer[3], answer[4]) == (error, status, 7)
        assert len(answer) < 60


def test_a_read_only_store_is_not_written() -> None:
    bench = Bench()
    bench.store.read_only = True
    answer = bench.ata(0x34, 6, 1, flags=0x41, data=bytes(512))
    assert (answer[1], answer[3]) == (0x04, 0x71)
    assert bench.store.pages == {}


def test_answers_leave_when_the_disk_is_done_the_quick_ones_first() -> None:
    bench = Bench()
    for command, flags in ((0xEA, 0x40), (0x24, 0x40), (0x24, 0x40), (0xE5, 0)):
        body = bytes.fromhex("10 00 0001 00 00") + bytes([command]) * 4 + bytes((flags, 0, 1, command)) + bytes(8)
        bench.target.receive(MAC + GUEST + b"\x88\xa2" + body, 50)
    times = []
    while (due := bench.target.due) is not None:
        bench.target.emit()
        times.append((bench.sent[-1][0][20], due))
        assert bench.sent[-1][1] == due
    start = 50 + TURNAROUND
    assert times == [(0xE5, start), (0xEA, start + 5000), (0x24, start + 5010), (0x24, start + 5020)]


def test_more_than_it_can_keep_is_lost() -> None:
    bench = Bench()
    question = bytes.fromhex("10 00 ffff ff 01 deadbeef 0000 0000 00 00 0000")
    for _ in range(3 * BUFFERS):
        bench.target.receive(MAC + GUEST + b"\x88\xa2" + question, 0)
    assert len(bench.target.state.answers) == BUFFERS


# --- the fuzzer ---------------------------------------------------------------------------------------------------


def test_the_target_withstands_nonsense() -> None:
    reached = {what for seed in range(40) for what in case(seed)}
    assert {
        "read",
        "written",
        "settings",
        "silence",
        "refused 1",
        "refused 2",
        "refused 5",
        "ata error 0x10",
    } <= reached


@pytest.mark.parametrize("bug", ["no end of the disk", "no limit", "writes too much", "answers anybody"])
def test_the_fuzzer_finds_planted_bugs(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = AoeTarget._write
    if bug == "no end of the disk":
        monkeypatch.setattr(MemoryStore, "sectors", property(lambda _: 1 << 50, lambda *_: None), raising=False)
    elif bug == "no limit":
        monkeypatch.setattr(aoe, "MOST_STRING", 1 << 16)
    elif bug == "writes too much":
        monkeypatch.setattr(
            AoeTarget, "_write", lambda t, flags, at, data, n: write(t, flags, at, data, max(n, len(data) // 512))
        )
    else:
        monkeypatch.setattr(AoeTarget, "_answer", lambda t, answer: t.state.answers.append(
            aoe.Answer(answer.due, MAC + answer.frame[6:])))  # fmt: skip
    with pytest.raises((AssertionError, StoreError)):
        _ = [case(seed) for seed in range(200)]

"""Nonsense on the wire for the ATA-over-Ethernet target, compared with what a plain disk would hold.

It raises nothing, keeps to its bounds, answers the sender and nobody else, in order of time, and its disk holds what
was written by those frames, and by those alone, that it has called done.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable

from hv.host.aoe import BUFFERS, MAC, MOST_STRING, AoeTarget
from hv.host.store import SECTOR
from hv.silicon.timing import DiskTimes
from tests.fuzz.nbd import Fenced, mutilate

FRAMES = 60
SECTORS = 64
TIMES = DiskTimes(read=1000, write=2000, flush=5000, sector=10, reset=0)
ATA_COMMANDS = (0x24, 0x34, 0x34, 0x20, 0x30, 0xEA, 0xE7, 0xEC, 0xE5, 0x25, 0x00)


def _frame(chance: random.Random) -> bytes:
    """A request, mostly a good one, before anything is done to it."""
    command = chance.choice((0, 0, 0, 1, 2, 3, 255))
    shelf, slot = chance.choice(((1, 0), (1, 0), (1, 0), (0xFFFF, 0xFF), (2, 0)))
    head = struct.pack(
        ">BBHBBI", chance.choice((0x10,) * 9 + (0x20, 0x18)), 0, shelf, slot, command, chance.getrandbits(32)
    )
    if command == 1:
        text = chance.randbytes(chance.choice((0, 3, MOST_STRING, MOST_STRING + 1)))
        body = struct.pack(">HHBBH", 0, 0, 0, chance.randrange(7), chance.choice((len(text), 0xFFFF, 1))) + text
    else:
        sector = chance.choice(
            (*(chance.randrange(SECTORS) for _ in range(5)), SECTORS - 1, SECTORS, 1 << 28, (1 << 48) - 1)
        )
        flags, count = chance.choice((0x41, 0x41, 0x41, 0x40, 0x01, 0, 0xFF)), chance.choice((1, 2, 2, 0, 3, 255))
        body = struct.pack("<BBBB6s2x", flags, 0, count, chance.choice(ATA_COMMANDS), sector.to_bytes(6, "little"))
        body += chance.randbytes(chance.choice((0, SECTOR, 2 * SECTOR, 100)))
    source = chance.choice((b"\x02hv\0\0\x01", b"\x02hv\0\0\x02", b"\x03hv\0\0\x01"))
    return chance.choice((MAC, MAC, MAC, b"\xff" * 6, b"\x02other")) + source + b"\x88\xa2" + head + body


def case(seed: int) -> Iterable[str]:
    """One conversation."""
    chance, reached = random.Random(seed), set()
    store, sent = Fenced(SECTORS), []
    target = AoeTarget(store, TIMES, 100, lambda frame, at: sent.append((frame, at)))
    disk = bytearray(SECTORS * SECTOR)
    now = last = 0
    for _ in range(FRAMES):
        now += chance.randrange(4000)
        while (due := target.due) is not None and due <= now:
            target.emit()
            assert due >= last, "time runs backwards"
            last = due
        frame = mutilate(_frame(chance), chance)
        before = target.state.answers.copy()
        target.receive(frame, now)
        new = [answer for answer in target.state.answers if answer not in before]
        assert len(target.state.answers) <= BUFFERS
        assert len(target.state.settings) <= MOST_STRING
        assert len(new) <= 1
        if not new:
            reached.add("silence")
            continue
        answer = new[0].frame
        assert answer[:6] == frame[6:12], "an answer to somebody else"
        assert 60 <= len(answer) <= 1514
        assert answer[20:24] == frame[20:24], "the tag"
        assert new[0].due >= now
        if answer[14] & 4:
            reached.add(f"refused {answer[15]}")
        elif answer[19] == 1:
            reached.add("settings")
        else:
            _, error, count, status, address = struct.unpack("<BBBB6s", answer[24:34])
            command, sector = frame[27], int.from_bytes(address, "little")
            if not frame[24] & 0x40:
                sector &= (1 << 28) - 1
            if status & 1:
                reached.add(f"ata error {error:#x}")
            elif command in (0x30, 0x34):
                disk[sector * SECTOR : (sector + count) * SECTOR] = frame[36 : 36 + count * SECTOR]
                reached.add("written")
            elif command in (0x20, 0x24):
                found = answer[36 : 36 + count * SECTOR]
                assert found == disk[sector * SECTOR : (sector + count) * SECTOR], "another disk's data"
                reached.add("read")
    assert store.read(0, SECTORS) == disk, "a write that nobody made"
    return reached

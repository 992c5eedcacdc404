"""Captures in the classic libpcap format, with nanoseconds (draft-ietf-opsawg-pcap): tcpdump and Wireshark open them.

A frame's time is its virtual time, counted from EPOCH, so that two runs write the same bytes.
"""

from __future__ import annotations

import heapq
import struct
from pathlib import Path
from typing import BinaryIO

from hv.errors import HvError
from hv.silicon.cmos import FIRST_DATE

EPOCH = int(FIRST_DATE.timestamp())  # at which the machine's own clock starts too
MAGIC, VERSION, LONGEST, ETHERNET = 0xA1B23C4D, (2, 4), 0x4_0000, 1
NS = 10**9


class Capture:
    """A file that frames are written to in the order of their times, however they are told of."""

    def __init__(self, path: Path, tsc_hz: int) -> None:
        self.tsc_hz = tsc_hz
        self.waiting: list[tuple[int, int, bytes]] = []
        self.told = 0
        try:
            self.file: BinaryIO = path.open("wb", buffering=0)
            self.file.write(struct.pack("<IHHiIII", MAGIC, *VERSION, 0, 0, LONGEST, ETHERNET))
        except OSError as error:
            raise HvError(f"cannot write {path}: {error.strerror}", 1) from None

    def add(self, frame: bytes, at: int, now: int) -> None:
        """A frame at a virtual time (millicycles), told of at `now`. No frame before `now` can come any more."""
        heapq.heappush(self.waiting, (at, self.told, frame))
        self.told += 1
        while self.waiting and self.waiting[0][0] <= now:
            self._write()

    def _write(self) -> None:
        at, _, frame = heapq.heappop(self.waiting)
        seconds, rest = divmod(at * NS // (self.tsc_hz * 1000), NS)
        self.file.write(struct.pack("<IIII", EPOCH + seconds, rest, len(frame), len(frame)) + frame)

    def close(self) -> None:
        """Write what is left."""
        while self.waiting:
            self._write()
        self.file.close()

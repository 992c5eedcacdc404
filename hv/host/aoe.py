"""An ATA-over-Ethernet target: a disk on the wire, in front of a block store (AoE specification, revision 11).

A frame of type 0x88A2, behind the two Ethernet addresses (all numbers big-endian):
    version and flags (8 bits)   error (8)   shelf (16)   slot (8)   command (8)   tag (32, comes back as it is)
Command 0 carries the registers of an ATA command, and its data, in one frame each way; command 1 asks for or sets what
the target says of itself. It answers in the time of a server with this disk. Whatever is in a frame, the target answers
as the specification says, or ignores it.
Simplified: no reservations (command 3), no lists of addresses that may ask (2), no jumbo frames; of ATA only the
commands in READS, WRITES and FLUSHES, IDENTIFY DEVICE and CHECK POWER MODE, as single commands without queues.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from hv.devices.ata_identify import DEFAULT_GEOMETRY, MULTIWORD_DMA, identify
from hv.devices.ata_state import ABRT, ACTIVE, DF, DRDY, DSC, ERR, IDNF, UNC
from hv.host.store import SECTOR, Store, StoreError
from hv.silicon.timing import DiskTimes

MAC = bytes.fromhex("026876000003")
TYPE = b"\x88\xa2"
SHELF, SLOT = 1, 0
EVERY_SHELF, EVERY_SLOT = 0xFFFF, 0xFF
BROADCAST = b"\xff" * 6
SHORTEST_FRAME = 60
HEADER = struct.Struct(">BBHBB4s")
VERSION, RESPONSE, ERROR = 1, 8, 4  # the first in the upper half of the byte, the others flags in the lower
ATA, CONFIGURE = 0, 1
# What the error byte says (3.3).
UNKNOWN_COMMAND, BAD_ARGUMENT, CONFIGURED, BAD_VERSION = 1, 2, 4, 5

# Command 0: flags, error or feature, sector count, command or status, address, data (3.1).
ARGUMENT = struct.Struct("<BBBB6s2x")
EXTENDED, WRITE = 0x40, 0x01
MOST_SECTORS = 2  # that a frame of 1500 bytes holds
READS, WRITES, FLUSHES = {0x20: False, 0x24: True}, {0x30: False, 0x34: True}, {0xE7: False, 0xEA: True}  # 48 bits?
IDENTIFY, CHECK_POWER = 0xEC, 0xE5
GOOD = DRDY | DSC

# Command 1: buffers, firmware, most sectors, version and what to do, length, string (3.2).
SETTINGS = struct.Struct(">HHBBH")
MOST_STRING = 1024
BUFFERS = 64  # requests that wait for their time; more are lost
READ, TEST, TEST_PREFIX, SET_IF_EMPTY, SET = range(5)


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, error: int) -> None:
        super().__init__(error)
        self.error = error


class Answer(msgspec.Struct, frozen=True):
    """A frame that leaves at `due` (millicycles)."""

    due: int
    frame: bytes


class AoeState(msgspec.Struct):
    """Everything that the target remembers besides the sectors."""

    settings: bytes = b""
    answers: list[Answer] = []  # by time
    free: int = 0  # when the disk has moved the data of all commands so far


class AoeTarget:
    """A station of the wire. `send(frame, at)`; `turnaround` is the server's own time for a request, in millicycles."""

    def __init__(self, store: Store, times: DiskTimes, turnaround: int, send: Callable[[bytes, int], None]) -> None:
        self.store, self.times, self.turnaround, self.send = store, times, turnaround, send
        self.state = AoeState()

    # --- frames -----------------------------------------------------------------------------------------------

    def receive(self, frame: bytes, at: int) -> None:
        """Carry out a request, and let the answer leave when it would be ready."""
        source, body = frame[6:12], frame[14:]
        if frame[:6] not in (MAC, BROADCAST) or source[0] & 1 or frame[12:14] != TYPE or len(body) < HEADER.size:
            return
        first, _, shelf, slot, command, tag = HEADER.unpack_from(body)
        if first & RESPONSE or shelf not in (SHELF, EVERY_SHELF) or slot not in (SLOT, EVERY_SLOT):
            return
        if len(self.state.answers) >= BUFFERS:
            return
        ready, flags, error = at + self.turnaround, RESPONSE, 0
        argument: bytes | None
        try:
            if first >> 4 != VERSION:
                raise Refused(BAD_VERSION)
            if command == ATA:
                argument, ready = self._ata(body[HEADER.size :], ready)
            elif command == CONFIGURE:
                argument = self._configure(body[HEADER.size :])
            else:
                raise Refused(UNKNOWN_COMMAND)
        except Refused as refused:
            argument, flags, error = body[HEADER.size :], RESPONSE | ERROR, refused.error
        if argument is not None:
            head = HEADER.pack(VERSION << 4 | flags, error, SHELF, SLOT, command, tag)
            self._answer(Answer(ready, (source + MAC + TYPE + head + argument).ljust(SHORTEST_FRAME, b"\0")))

    def _answer(self, answer: Answer) -> None:
        answers = self.state.answers
        place = len(answers)
        while place and answers[place - 1].due > answer.due:
            place -= 1
        answers.insert(place, answer)

    @property
    def due(self) -> int | None:
        answers = self.state.answers
        return answers[0].due if answers else None

    def emit(self) -> None:
        """Send the next answer."""
        answer = self.state.answers.pop(0)
        self.send(answer.frame, answer.due)

    # --- command 1 --------------------------------------------------------------------------------------------

    def _configure(self, argument: bytes) -> bytes | None:
        """The string by which initiators mark a target as theirs. None: a test that it does not pass, so silence."""
        if len(argument) < SETTINGS.size:
            raise Refused(BAD_ARGUMENT)
        _, _, _, wish, length = SETTINGS.unpack_from(argument)
        given, s = argument[SETTINGS.size : SETTINGS.size + length], self.state
        wish &= 0xF
        if length > MOST_STRING or len(given) < length or wish > SET:
            raise Refused(BAD_ARGUMENT)
        if (wish == TEST and given != s.settings) or (wish == TEST_PREFIX and not s.settings.startswith(given)):
            return None
        if wish == SET_IF_EMPTY and s.settings not in (b"", given):
            raise Refused(CONFIGURED)
        if wish in (SET_IF_EMPTY, SET):
            s.settings = given
        return SETTINGS.pack(BUFFERS, 1, MOST_SECTORS, VERSION << 4 | wish, len(s.settings)) + s.settings

    # --- command 0 --------------------------------------------------------------------------------------------

    def _ata(self, argument: bytes, at: int) -> tuple[bytes, int]:
        """Carry out an ATA command. Returns registers and data, and when they are ready."""
        if len(argument) < ARGUMENT.size:
            raise Refused(BAD_ARGUMENT)
        flags, _, count, command, address = ARGUMENT.unpack_from(argument)
        data, written = b"", argument[ARGUMENT.size :]
        error, status, sector, moved = 0, GOOD, int.from_bytes(address, "little"), 0
        long_address = bool(flags & EXTENDED)
        if not long_address:
            sector &= (1 << 28) - 1
        try:
            if command == IDENTIFY:
                data = self._identity()
            elif command == CHECK_POWER:
                count = ACTIVE
            elif FLUSHES.get(command) == long_address:
                self.store.flush()
            elif long_address in (READS.get(command), WRITES.get(command)):
                if not 0 < count <= MOST_SECTORS:
                    raise Refused(BAD_ARGUMENT)
                moved = count
                if sector + count > self.store.sectors:
                    error, status, sector = IDNF, GOOD | ERR, max(sector, self.store.sectors)
                elif command in READS:
                    data = self.store.read(sector, count)
                else:
                    self._write(flags, sector, written, count)
            else:
                error, status = ABRT, GOOD | ERR
        except StoreError as trouble:
            reading, sector = command in READS, max(trouble.sector, 0)
            error, status = (UNC, GOOD | ERR) if reading else (ABRT, GOOD | ERR | DF)
        registers = ARGUMENT.pack(flags, error, count, status, sector.to_bytes(6, "little"))
        return registers + data, self._ready(command, moved, at)

    def _write(self, flags: int, sector: int, data: bytes, count: int) -> None:
        if not flags & WRITE or len(data) < count * SECTOR:
            raise Refused(BAD_ARGUMENT)
        if self.store.read_only:
            raise StoreError("the store is read-only", sector)
        self.store.write(sector, data[: count * SECTOR])

    def _identity(self) -> bytes:
        return identify(
            self.store.sectors, "hv AoE target", f"E{SHELF}.{SLOT}", geometry=DEFAULT_GEOMETRY, multiple=0,
            mode=MULTIWORD_DMA | 2, write_cache=True, look_ahead=True, device=0,
        )  # fmt: skip

    def _ready(self, command: int, sectors: int, at: int) -> int:
        """When a command that comes at a time is done. Latencies pass side by side, data one after the other."""
        t, s = self.times, self.state
        latency = t.read if command in READS else t.write if command in WRITES else t.flush if command in FLUSHES else 0
        if not latency:
            return at
        s.free = max(at + latency, s.free) + sectors * t.sector
        return s.free

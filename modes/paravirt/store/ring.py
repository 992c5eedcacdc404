"""The guest's channel to the store: two rings of bytes in a page that it shares, and an event channel (io/xs_wire.h).

    bytes 0-1023     requests    2048  consumed by the store    2052  produced by the guest
    bytes 1024-2047  replies     2056  consumed by the guest    2060  produced by the store
    2064  what the server can    2068  1: the guest wants to begin anew    2072  why the server ignores it

The counters run on for ever, modulo 2**32. The guest may write anything there. A distance that does not fit, or a
message longer than 4096 bytes, is against the protocol: the store ignores the guest until it asks to begin anew.
What is answered waits here while the guest makes no room; as long as it does, no further request is read.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hv.silicon.memory import Memory
from modes.paravirt.store.store import Store
from modes.paravirt.store.wire import HEADER, MOST_PAYLOAD, Message

SIZE = 1024
REQUESTS, REPLIES = 0, 1024
REQUEST_CONSUMED, REQUEST_PRODUCED, REPLY_CONSUMED, REPLY_PRODUCED = 2048, 2052, 2056, 2060
SERVER_FEATURES, CONNECTION, ERROR = 2064, 2068, 2072
FEATURES = 1 | 2  # it can reconnect, and it says what went wrong
RECONNECT = 1
ERROR_INDEX, ERROR_PROTOCOL = 2, 3
MOST_WAITING = 20  # messages on their way to the guest, before its requests wait
MOST_EVENTS = 1024  # of watches on their way; more are lost


class RingState(msgspec.Struct):
    received: bytes = b""  # of a message that is not complete
    waiting: list[bytes] = msgspec.field(default_factory=list)  # for the guest; the first may have gone in part
    sent: int = 0  # bytes of the first
    ignored: bool = False
    lost: int = 0  # events


class StoreRing:
    """`page()` is the host-physical address of the page, `tell()` the guest's event."""

    def __init__(
        self, store: Store, domid: int, memory: Memory, page: Callable[[], int], tell: Callable[[], None]
    ) -> None:  # fmt: skip
        self.store, self.memory, self.page, self.tell = store, memory, page, tell
        self.connection = store.connect(domid, self._event)
        self.s = RingState()
        self._serving = False

    def _index(self, offset: int) -> int:
        return int.from_bytes(self.memory.read(self.page() + offset, 4), "little")

    def _set(self, offset: int, value: int) -> None:
        self.memory.write(self.page() + offset, (value & 0xFFFF_FFFF).to_bytes(4, "little"))

    def reset(self) -> None:
        """A new beginning: the rings are empty, nothing is remembered of before."""
        self.connection.forget()
        self.s = RingState()
        for offset in (REQUEST_CONSUMED, REQUEST_PRODUCED, REPLY_CONSUMED, REPLY_PRODUCED, CONNECTION, ERROR):
            self._set(offset, 0)
        self._set(SERVER_FEATURES, FEATURES)

    def _ignore(self, why: int) -> None:
        self.connection.forget()
        self.s = RingState(ignored=True, lost=self.s.lost)
        self._set(ERROR, why)

    # --- the guest's event ------------------------------------------------------------------------------------

    def notified(self) -> None:
        """The guest has written requests, or made room."""
        if self._index(CONNECTION) == RECONNECT:
            self.reset()
            self.tell()
            return
        if self.s.ignored:
            return
        self._serving = True
        moved = self._send()
        while not self.s.ignored and len(self.s.waiting) < MOST_WAITING and self._serve():
            moved = True
            self._send()
        self._serving = False
        if moved:
            self.tell()

    def _serve(self) -> bool:
        """Take one request, or as much of it as is there. True: the ring has moved."""
        consumed, produced = self._index(REQUEST_CONSUMED), self._index(REQUEST_PRODUCED)
        there = produced - consumed & 0xFFFF_FFFF
        if there > SIZE:
            self._ignore(ERROR_INDEX)
            return True
        received = self.s.received
        wanted = HEADER.size - len(received)
        if wanted <= 0:
            wanted = HEADER.size + HEADER.unpack_from(received)[3] - len(received)
        taken = min(wanted, there)
        received += self._ring(REQUESTS, consumed, taken)
        if len(received) == HEADER.size and HEADER.unpack(received)[3] > MOST_PAYLOAD:
            self._ignore(ERROR_PROTOCOL)
            return True
        self._set(REQUEST_CONSUMED, consumed + taken)
        self.s.received = received
        if len(received) >= HEADER.size and len(received) == HEADER.size + HEADER.unpack_from(received)[3]:
            self.s.received = b""
            kind, request, transaction, _ = HEADER.unpack_from(received)
            message = Message(kind, request, transaction, received[HEADER.size :])
            self.s.waiting.append(self.store.request(self.connection, message).encode())
            self.store.deliver()
            return True
        return taken > 0

    def _ring(self, base: int, index: int, size: int) -> bytes:
        at = index % SIZE
        first = min(size, SIZE - at)
        page = self.page() + base
        return self.memory.read(page + at, first) + self.memory.read(page, size - first)

    # --- to the guest -----------------------------------------------------------------------------------------

    def _event(self, message: Message) -> None:
        """A watch's event. One that waits already is not said twice."""
        if self.s.ignored:
            return
        if len(self.s.waiting) >= MOST_EVENTS or len(message.payload) > MOST_PAYLOAD:
            self.s.lost += 1
            return
        data = message.encode()
        if data not in self.s.waiting[1 if self.s.sent else 0 :]:
            self.s.waiting.append(data)
        if not self._serving and self._send():  # a change that domain 0 has made
            self.tell()

    def _send(self) -> bool:
        """As much as there is room for. True: something has gone."""
        consumed, produced = self._index(REPLY_CONSUMED), self._index(REPLY_PRODUCED)
        room = SIZE - (produced - consumed & 0xFFFF_FFFF)
        if room < 0:
            self._ignore(ERROR_INDEX)
            return True
        out = b""
        while self.s.waiting and len(out) < room:
            part = self.s.waiting[0][self.s.sent : self.s.sent + room - len(out)]
            out += part
            self.s.sent += len(part)
            if self.s.sent == len(self.s.waiting[0]):
                del self.s.waiting[0]
                self.s.sent = 0
        if not out:
            return False
        at = produced % SIZE
        first = min(len(out), SIZE - at)
        self.memory.write(self.page() + REPLIES + at, out[:first])
        self.memory.write(self.page() + REPLIES, out[first:])
        self._set(REPLY_PRODUCED, produced + len(out))
        return True

"""The PV console: a ring in a page of the domain's, and an event channel (public/io/console.h).

    bytes 0-1023     to the guest      3072  consumed by the guest   3076  produced
    bytes 1024-3071  from the guest    3080  consumed by hv          3084  produced by the guest

The counters run on for ever, modulo 2**32. The guest may write anything there: a distance that does not fit is nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from modes.paravirt.domain import Domain

IN_SIZE, OUT_AT, OUT_SIZE = 1024, 1024, 2048
IN_CONSUMED, IN_PRODUCED, OUT_CONSUMED, OUT_PRODUCED = 3072, 3076, 3080, 3084
BACKEND_PORT = 2  # domain 0's end of the channel


class ConsoleRing:
    """The backend, as domain 0's console daemon. It looks like the other end of a serial line to hv."""

    def __init__(self, domain: Domain, sink: Callable[[int], None]) -> None:
        self.domain, self.sink = domain, sink
        domain.events.backends[BACKEND_PORT] = self.notified

    def _address(self, offset: int) -> int:
        return (self.domain.console << 12) + offset

    def _index(self, offset: int) -> int:
        return int.from_bytes(self.domain.memory.read(self._address(offset), 4), "little")

    def _set_index(self, offset: int, value: int) -> None:
        self.domain.memory.write(self._address(offset), struct.pack("<I", value & 0xFFFF_FFFF))

    def notified(self) -> None:
        """The guest has written, or made room. Take what it has written, and say so."""
        consumed, produced = self._index(OUT_CONSUMED), self._index(OUT_PRODUCED)
        waiting = produced - consumed & 0xFFFF_FFFF
        if not 0 < waiting <= OUT_SIZE:
            return
        ring = self.domain.memory.read(self._address(OUT_AT), OUT_SIZE)
        for i in range(waiting):
            self.sink(ring[consumed + i & OUT_SIZE - 1])
        self._set_index(OUT_CONSUMED, produced)
        self._tell()

    @property
    def room(self) -> int:
        """How many bytes the guest can be sent now."""
        waiting = self._index(IN_PRODUCED) - self._index(IN_CONSUMED) & 0xFFFF_FFFF
        return IN_SIZE - waiting if waiting <= IN_SIZE else 0

    def receive(self, data: bytes) -> None:
        """Bytes for the guest, at most `room`."""
        produced = self._index(IN_PRODUCED)
        for i, byte in enumerate(data):
            self.domain.memory.write(self._address(produced + i & IN_SIZE - 1), bytes((byte,)))
        self._set_index(IN_PRODUCED, produced + len(data))
        self._tell()

    def _tell(self) -> None:
        events = self.domain.events
        if self.domain.console_port in events.channels:
            events.raise_port(self.domain.console_port)

"""A guest's end of the store and of xenbus, without a CPU: the ring's bytes, grant entries and event channels by hand.

The numbers are those of Xen's public headers (io/xs_wire.h, grant_table.h, io/xenbus.h), not those of modes/paravirt.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from modes.paravirt.bus import FrontEnd
from modes.paravirt.domain_zero import DomainZero
from modes.paravirt.frames import Kind
from modes.paravirt.grants import View
from tests.pv_rig import Rig

DIRECTORY, READ, GET_PERMS, WATCH, UNWATCH, START, END = 1, 2, 3, 4, 5, 6, 7
INTRODUCE, GET_DOMAIN_PATH, WRITE, MKDIR, RM, SET_PERMS, EVENT, ERROR, IS_INTRODUCED = 8, 10, 11, 12, 13, 14, 15, 16, 17
RESET_WATCHES, DIRECTORY_PART = 21, 22
RING, TABLE = 20, 40  # frames of the rig
RING_SIZE = 1024
REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, FEATURES, CONNECTION, RING_ERROR = 2048, 2052, 2056, 2060, 2064, 2068, 2072


class Reply(NamedTuple):
    kind: int
    request: int
    transaction: int
    payload: bytes


class TurningBackend:
    """A device of kind "test" whose one ring is a granted page: each kick turns its first bytes around."""

    kind, number = "test", 0

    def __init__(self) -> None:
        self.front_nodes: Mapping[str, str] = {"mac": "00:16:3e:00:00:01"}
        self.view: View | None = None
        self.connects = self.disconnects = 0

    def offer(self) -> dict[str, str]:
        return {"feature-x": "1"}

    def connect(self, front: FrontEnd) -> dict[str, str]:
        self.front = front
        self.view = front.grants.map(front.number("ring-ref"), write=True)
        self.connects += 1
        return {"sectors": "8"}

    def disconnect(self) -> None:
        assert self.view is not None
        self.front.grants.unmap(self.view.handle)
        self.view = None
        self.disconnects += 1

    def kicked(self) -> None:
        assert self.view is not None
        self.view.write(0, self.view.read(0, 4)[::-1])
        self.front.notify()

    def state(self) -> Any:
        return None if self.view is None else self.view.handle

    def set_state(self, state: Any, front: FrontEnd | None) -> None:
        self.view = None
        if front is not None:
            self.front, self.view = front, front.grants.view(state)


class StoreRig(Rig):
    """Domain 1 with its store, and a back end that waits for it."""

    def __init__(self) -> None:
        super().__init__()
        d = self.domain
        d.store, d.store_port = self.mfn(RING), d.events.bind_backend(1)
        self.frames.take_as(d.store, Kind.WRITABLE, d.domid)
        self.zero = DomainZero(d)
        self.zero.introduce(1024, {})
        self.backend = TurningBackend()
        self.device = self.zero.bus.add(self.backend)
        self.events: list[tuple[bytes, bytes]] = []  # of watches: path, token
        self.request_id = 0
        self.out = b""

    def held(self) -> list[tuple[int, bool]]:
        s = self.domain.grants.s
        mappings = [(s.uses[handle.ref].frame, handle.write) for handle in s.handles.values()]
        return [(self.domain.store, True), *mappings]

    # --- the ring ---------------------------------------------------------------------------------------------

    def index(self, offset: int, value: int | None = None) -> int:
        at = (self.mfn(RING) << 12) + offset
        if value is not None:
            self.memory.write(at, struct.pack("<I", value & 0xFFFF_FFFF))
        return int.from_bytes(self.memory.read(at, 4), "little")

    def kick(self) -> None:
        self.domain.events.send(self.domain.store_port)

    def put_bytes(self, data: bytes) -> None:
        """Bytes of requests; the ring is emptied by kicks as often as it is full."""
        page = self.mfn(RING) << 12
        while data:
            produced = self.index(REQ_PROD)
            room = RING_SIZE - (produced - self.index(REQ_CONS) & 0xFFFF_FFFF)
            part, data = data[:room], data[room:]
            at = produced % RING_SIZE
            self.memory.write(page + at, part[: RING_SIZE - at])
            self.memory.write(page, part[RING_SIZE - at :])
            self.index(REQ_PROD, produced + len(part))
            self.kick()
            self.take_bytes()

    def take_bytes(self) -> None:
        """What the store has sent, until it sends nothing more."""
        page = (self.mfn(RING) << 12) + RING_SIZE
        while (there := self.index(RSP_PROD) - self.index(RSP_CONS) & 0xFFFF_FFFF) > 0:
            consumed = self.index(RSP_CONS)
            ring = self.memory.read(page, RING_SIZE) * 2
            self.out += ring[consumed % RING_SIZE :][:there]
            self.index(RSP_CONS, consumed + there)
            self.kick()

    def replies(self) -> list[Reply]:
        """The whole messages that have come, without the events, which are kept apart."""
        found = []
        while len(self.out) >= 16:
            kind, request, transaction, length = struct.unpack_from("<4I", self.out)
            if len(self.out) < 16 + length:
                break
            payload, self.out = self.out[16 : 16 + length], self.out[16 + length :]
            if kind == EVENT:
                path, token, rest = payload.split(b"\0")
                assert rest == b""
                self.events.append((path, token))
            else:
                found.append(Reply(kind, request, transaction, payload))
        return found

    def ask(self, kind: int, payload: bytes, transaction: int = 0) -> bytes:
        """A request and its reply's payload; an error's name begins with "!"."""
        self.request_id += 1
        self.put_bytes(struct.pack("<4I", kind, self.request_id, transaction, len(payload)) + payload)
        (reply,) = self.replies()
        assert reply[1:3] == (self.request_id, transaction)
        if reply.kind == ERROR:
            return b"!" + reply.payload.removesuffix(b"\0")
        assert reply.kind == kind
        return reply.payload

    def read(self, path: bytes) -> bytes:
        return self.ask(READ, path + b"\0")

    def write(self, path: bytes, value: bytes, transaction: int = 0) -> bytes:
        return self.ask(WRITE, path + b"\0" + value, transaction)

    # --- grants, the device -----------------------------------------------------------------------------------

    def grant(self, ref: int, frame: int, flags: int = 1, domid: int = 0) -> None:
        """Write an entry of the grant table; `frame` is one of the rig's."""
        (table,) = self.domain.grants.grow(1)
        self.memory.write((table << 12) + 8 * ref, struct.pack("<HHI", flags, domid, self.mfn(frame)))

    def flags(self, ref: int) -> int:
        (table,) = self.domain.grants.grow(1)
        return int.from_bytes(self.memory.read((table << 12) + 8 * ref, 2), "little")

    def connect(self, ref: int = 8, frame: int = 30) -> int:
        """As a front end's driver does. Returns its port."""
        self.grant(ref, frame)
        port = self.domain.events.alloc_unbound(0)
        self.write(b"device/test/0/ring-ref", b"%d" % ref)
        self.write(b"device/test/0/event-channel", b"%d" % port)
        self.write(b"device/test/0/state", b"3")
        return port

    def backend_state(self) -> bytes:
        return self.read(b"/local/domain/0/backend/test/1/0/state")

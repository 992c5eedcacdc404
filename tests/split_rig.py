"""A front end in this process: memory, a grant table, rings, and domain 0 with its back ends on the other side.

The rings here are written after public/io/ring.h and share no code with modes/paravirt/backends.
"""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

from hv.host.outside import Outside
from hv.host.store import MemoryStore
from hv.host.wire import Wire
from hv.silicon.memory import Memory, Region, anonymous
from hv.vm import Vm
from modes.paravirt.abi import GUEST_DOMID
from modes.paravirt.backends.blkback import Blkback
from modes.paravirt.backends.cpu import BackendCpu
from modes.paravirt.backends.netback import Netback
from modes.paravirt.bus import FrontEnd
from modes.paravirt.foreign import MachineFrames
from modes.paravirt.frames import Frames
from modes.paravirt.grants import Grants
from tests.support import costs

BASE, FRAMES = 0x4_0000_0000, 128
OTHERS = range(FRAMES, FRAMES + 8)  # the frames behind the guest's own: another domain's
TABLE = OTHERS.stop  # and then the grant table
OTHER_DOMID = 2
PAGE = 0x1000
MAC = bytes.fromhex("026876000001")
READ_ONLY, IN_USE = 4, 8 | 16
LONG = 10**12  # millicycles


class SharedRing:
    """The front end's side of a ring in one frame."""

    def __init__(self, rig: Rig, frame: int, entry: int, size: int) -> None:
        self.rig, self.frame, self.entry, self.size = rig, frame, entry, size
        self.requests = self.responses = 0  # req_prod_pvt, rsp_cons
        rig.put(frame, 0, bytes(PAGE))
        rig.put(frame, 0, struct.pack("<4I", 0, 1, 0, 1))

    def index(self, place: int, value: int | None = None) -> int:
        """One of req_prod, req_event, rsp_prod, rsp_event (0 to 3)."""
        if value is not None:
            self.rig.put(self.frame, 4 * place, struct.pack("<I", value & 0xFFFF_FFFF))
        return int.from_bytes(self.rig.get(self.frame, 4 * place, 4), "little")

    def slot(self, index: int) -> int:
        return 64 + index % self.size * self.entry

    def ask(self, request: bytes) -> None:
        self.rig.put(self.frame, self.slot(self.requests), request)
        self.requests += 1

    def push(self) -> bool:
        """Show the requests. True: the back end wants a kick."""
        old, new = self.index(0), self.requests & 0xFFFF_FFFF
        self.index(0, new)
        return (new - self.index(1)) % (1 << 32) < (new - old) % (1 << 32)

    def answers(self, size: int) -> list[bytes]:
        """The responses so far, and the wish to hear of the next."""
        found = []
        while self.responses != self.index(2):
            found.append(self.rig.get(self.frame, self.slot(self.responses), size))
            self.responses = self.responses + 1 & 0xFFFF_FFFF
        self.index(3, self.responses + 1)
        return found


class Rig:
    """128 frames of memory, of which the front end hands out the next free one. They are named by number."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory or Memory()
        size = (TABLE + 1) * PAGE
        self.memory.add(Region("RAM", BASE, size, anonymous(size), 0))
        self.frames = frames = Frames([(BASE >> 12, TABLE)])
        for mfn in range(BASE >> 12, (BASE >> 12) + TABLE):
            frames.give(mfn, GUEST_DOMID if mfn < (BASE >> 12) + FRAMES else OTHER_DOMID)
        self.grants = Grants(self.memory, MachineFrames(frames, GUEST_DOMID))
        self.grants.new_page = lambda: (BASE >> 12) + TABLE
        self.grants.grow(1)
        self.now = 0
        self.events = 0
        self.values: dict[str, str] = {}
        self.next_frame, self.next_ref = 0, 8
        machine = SimpleNamespace(beside=[], look_by=lambda when: None)
        self.model = costs()
        self.outside = Outside(local=MemoryStore(4096, "local"))
        self.cpu = BackendCpu(cast("Vm", SimpleNamespace(costs=self.model, machine=machine, outside=self.outside)))
        self.cpu.vm.now = 0  # type: ignore[misc]

    # --- the guest's memory -----------------------------------------------------------------------------------

    def put(self, frame: int, offset: int, data: bytes) -> None:
        self.memory.write(BASE + frame * PAGE + offset, data)

    def get(self, frame: int, offset: int, size: int) -> bytes:
        return self.memory.read(BASE + frame * PAGE + offset, size)

    def frame(self) -> int:
        self.next_frame += 1
        return self.next_frame - 1

    def grant(self, frame: int, flags: int = 1, domid: int = 0) -> int:
        self.next_ref += 1
        self.set_grant(self.next_ref, frame, flags, domid)
        return self.next_ref

    def set_grant(self, ref: int, frame: int, flags: int, domid: int = 0) -> None:
        self.put(TABLE, ref * 8, struct.pack("<HHI", flags, domid, (BASE >> 12) + frame & 0xFFFF_FFFF))

    def flags(self, ref: int) -> int:
        return int.from_bytes(self.get(TABLE, ref * 8, 2), "little")

    # --- the front end as a back end sees it ------------------------------------------------------------------

    def text(self, name: str) -> str | None:
        return self.values.get(name)

    number = FrontEnd.number

    def notify(self) -> None:
        self.events += 1

    @property
    def front(self) -> FrontEnd:
        return cast("FrontEnd", self)

    # --- time -------------------------------------------------------------------------------------------------

    def advance(self, time: int = LONG) -> None:
        """Let so much time pass, in millicycles."""
        vm: Any = self.cpu.vm
        end = vm.now + time
        while self.cpu.deadline <= end:
            vm.now = max(vm.now, self.cpu.deadline)
            self.cpu.advance(vm.now)
        vm.now = end


class BlockFront(Rig):
    """A block front end. `store` is the disk."""

    def __init__(self, store: MemoryStore | None = None, memory: Memory | None = None) -> None:
        super().__init__(memory)
        self.store = store or MemoryStore(4096, "local")
        self.back = Blkback(self.cpu, self.store, self.model.local, 51712)
        self.ring_frame = self.frame()
        self.ring_ref = self.grant(self.ring_frame)
        self.connect()

    def connect(self) -> None:
        self.ring = SharedRing(self, self.ring_frame, 112, 32)
        self.values = {"ring-ref": str(self.ring_ref), "protocol": "x86_64-abi"}
        self.nodes = self.back.connect(self.front)

    def ask(
        self,
        operation: int,
        sector: int,
        segments: list[tuple[int, int, int]],
        *,
        id: int = 7,
        count: int | None = None,
    ) -> None:
        """Put in a request; segments are (reference, first, last sector)."""
        raw = struct.pack("<BBHIQQ", operation, len(segments) if count is None else count, 0xCA00, 0, id, sector)
        self.ring.ask((raw + b"".join(struct.pack("<IBBH", *segment, 0) for segment in segments)).ljust(112, b"\0"))

    def go(self) -> list[tuple[int, int, int]]:
        """Show, kick if that is wanted, wait. (id, operation, status) of each response."""
        if self.ring.push():
            self.back.kicked()
        self.advance()
        return self.answers()

    def answers(self) -> list[tuple[int, int, int]]:
        return [struct.unpack("<QBxh", raw) for raw in self.ring.answers(12)]


class NetFront(Rig):
    """A network front end; `sent` is what comes out of the wire at the other end, with the time."""

    def __init__(self, memory: Memory | None = None) -> None:
        super().__init__(memory)
        wire = self.cpu.lay_wire()  # with hv's own peer at its other end
        self.back = Netback(self.cpu, wire, MAC)
        self.sent: list[tuple[bytes, int]] = []
        self.inject = wire.plug_card(lambda frame, at: self.sent.append((frame, at)))
        self.wire: Wire = wire
        self.tx_frame, self.rx_frame = self.frame(), self.frame()
        self.connect()

    def connect(self) -> None:
        self.tx, self.rx = SharedRing(self, self.tx_frame, 12, 256), SharedRing(self, self.rx_frame, 8, 256)
        self.values = {
            "tx-ring-ref": str(self.grant(self.tx_frame)), "rx-ring-ref": str(self.grant(self.rx_frame)),
            "request-rx-copy": "1",
        }  # fmt: skip
        self.nodes = self.back.connect(self.front)

    def ask(self, ref: int, offset: int, size: int, *, flags: int = 0, id: int = 1) -> None:
        self.tx.ask(struct.pack("<IHHHH", ref, offset, flags, id, size))

    def extra(self, kind: int, more: int = 0) -> None:
        self.tx.ask(struct.pack("<BB", kind, more).ljust(12, b"\0"))

    def give(self, ref: int, *, id: int = 1) -> None:
        self.rx.ask(struct.pack("<HHI", id, 0, ref))

    def go(self) -> list[tuple[int, int]]:
        """Show, kick if that is wanted, wait. (id, status) of each response to a transmit request."""
        wanted = [ring.push() for ring in (self.tx, self.rx)]
        if any(wanted):
            self.back.kicked()
        self.advance()
        return [struct.unpack("<Hh", raw) for raw in self.tx.answers(4)]

    def received(self) -> list[tuple[int, int, int, int]]:
        """(id, offset, flags, status) of each receive response."""
        return [struct.unpack("<HHHh", raw) for raw in self.rx.answers(8)]

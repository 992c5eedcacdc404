"""A guest with Linux's front ends, without a CPU: xenbus, netfront and blkfront in our own words, step by step.

What they do is Linux's (drivers/xen/xenbus, drivers/net/xen-netfront.c, drivers/block/xen-blkfront.c); the numbers are
those of Xen's public headers, written out here once more.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from hv.host.outside import Outside
from hv.host.store import MemoryStore
from hv.vm import Vm
from modes.paravirt.backends.blkback import Blkback
from modes.paravirt.backends.cpu import BackendCpu
from modes.paravirt.backends.netback import Netback
from tests.split_rig import LONG, MAC, SharedRing
from tests.store_rig import DIRECTORY, END, START, WATCH, StoreRig
from tests.support import costs

INITIALISING, INIT_WAIT, INITIALISED, CONNECTED, CLOSING, CLOSED = range(1, 7)
GRANTED, READ_ONLY, IN_USE = 1, 4, 8 | 16
PAGE = 0x1000
FIRST_FRAME, FIRST_REF = 50, 16


class Guest(StoreRig):
    """Domain 1. A network card and a disk wait for it; `sent` is what its packets look like at the wire's other end."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryStore(4096, "local")
        machine = SimpleNamespace(beside=[], look_by=lambda when: None)
        self.vm: Any = SimpleNamespace(costs=costs(), machine=machine, outside=Outside(local=self.disk), now=0)
        self.zero_cpu = BackendCpu(cast("Vm", self.vm))
        wire = self.zero_cpu.lay_wire()
        self.sent: list[bytes] = []
        self.zero.bus.add(Netback(self.zero_cpu, wire, MAC))
        self.send_frame = wire.plug_card(lambda frame, at: self.sent.append(frame))
        self.zero.bus.add(Blkback(self.zero_cpu, self.disk, self.vm.costs.local, 51712))
        self.next_frame, self.next_ref = FIRST_FRAME, FIRST_REF

    def advance(self, time: int = LONG) -> None:
        """Let so much time pass, in millicycles."""
        end = self.vm.now + time
        while self.zero_cpu.deadline <= end:
            self.vm.now = max(self.vm.now, self.zero_cpu.deadline)
            self.zero_cpu.advance(self.vm.now)
        self.vm.now = end

    # --- memory and grants ----------------------------------------------------------------------------------------

    def new_frame(self) -> int:
        self.next_frame += 1
        return self.next_frame - 1

    def new_grant(self, frame: int, flags: int = GRANTED) -> int:
        self.next_ref += 1
        self.grant(self.next_ref, frame, flags)
        return self.next_ref

    def end_grant(self, ref: int) -> None:
        """Take it back: nobody may use it any more."""
        assert not self.flags(ref) & IN_USE
        self.grant(ref, 0, 0)

    def page_read(self, frame: int, offset: int, size: int) -> bytes:
        return self.memory.read((self.mfn(frame) << 12) + offset, size)

    def page_write(self, frame: int, offset: int, data: bytes) -> None:
        self.memory.write((self.mfn(frame) << 12) + offset, data)

    def new_ring(self, entry: int, size: int) -> tuple[SharedRing, int]:
        """A ring in a page of its own, and the reference that grants it."""
        frame = self.new_frame()
        pages: Any = SimpleNamespace(put=self.page_write, get=self.page_read)
        return SharedRing(pages, frame, entry, size), self.new_grant(frame)

    # --- the store ------------------------------------------------------------------------------------------------

    def names(self, path: str) -> list[str]:
        reply = self.ask(DIRECTORY, path.encode() + b"\0")
        assert not reply.startswith(b"!")
        return [name.decode() for name in reply.split(b"\0") if name]

    def text(self, path: str) -> str | None:
        reply = self.read(path.encode())
        return None if reply == b"!ENOENT" else reply.decode()

    def number(self, path: str, default: int = 0) -> int:
        text = self.text(path)
        return default if text is None else int(text)

    def change(self, directory: str, values: Mapping[str, object]) -> None:
        """All of them in one transaction, which is tried again as often as somebody else comes between."""
        while True:
            transaction = int(self.ask(START, b"\0").rstrip(b"\0"))
            for name, value in values.items():
                path = f"{directory}/{name}".encode()
                assert self.write(path, str(value).encode(), transaction) == b"OK\0"
            if self.ask(END, b"T\0", transaction) == b"OK\0":
                return


class FrontEnd:
    """A driver's half of a device: `node` is its directory, `other` the back end's."""

    def __init__(self, guest: Guest, kind: str, number: int) -> None:
        self.guest, self.node = guest, f"device/{kind}/{number}"
        self.port = 0
        assert kind in guest.names("device")
        assert str(number) in guest.names(f"device/{kind}")
        assert self.state == INITIALISING  # no driver touches a device in any other state
        assert guest.number(f"{self.node}/backend-id", -1) == 0
        self.other = guest.text(f"{self.node}/backend") or ""
        assert guest.text(self.other) is not None
        guest.events.clear()
        assert guest.ask(WATCH, f"{self.other}/state\0{kind}\0".encode()) == b"OK\0"
        assert guest.events == [(f"{self.other}/state".encode(), kind.encode())]  # it fires at once

    @property
    def state(self) -> int:
        return self.guest.number(f"{self.node}/state")

    @property
    def other_state(self) -> int:
        return self.guest.number(f"{self.other}/state")

    def switch(self, state: int) -> None:
        assert self.guest.write(f"{self.node}/state".encode(), str(state).encode()) == b"OK\0"

    def switch_and_hear(self, state: int, wanted: int) -> None:
        """Say a state, be told that the other side's has changed, and look at it."""
        self.guest.events.clear()
        self.switch(state)
        assert any(path.decode() == f"{self.other}/state" for path, _ in self.guest.events)
        assert self.other_state == wanted

    def offered(self, name: str, default: int = 0) -> int:
        return self.guest.number(f"{self.other}/{name}", default)

    def new_port(self) -> int:
        self.port = self.guest.domain.events.alloc_unbound(0)
        return self.port

    def kick(self) -> None:
        self.guest.domain.events.send(self.port)

    def told(self) -> bool:
        """Has an event come since the last time?"""
        events = self.guest.domain.events
        pending = events.is_pending(self.port)
        word = events.shared + 0x800 + self.port // 64 * 8
        self.guest.memory.write_u64(word, self.guest.memory.read_u64(word) & ~(1 << self.port % 64))
        return pending

    def close(self) -> None:
        """The handshake of a driver that goes: Closing and Closed, each waited for."""
        self.switch_and_hear(CLOSING, CLOSING)
        self.switch_and_hear(CLOSED, CLOSED)


class NetFront(FrontEnd):
    def __init__(self, guest: Guest) -> None:
        super().__init__(guest, "vif", 0)
        self.buffers: dict[int, tuple[int, int]] = {}  # receive requests by their place: reference, frame
        self.pending: dict[int, int] = {}  # transmit requests by identifier: reference

    def connect(self) -> None:
        self.switch(INITIALISING)
        assert self.other_state == INIT_WAIT
        assert self.offered("feature-rx-copy") == 1
        assert self.offered("multi-queue-max-queues", 1) == 1
        assert not self.offered("feature-split-event-channels")
        assert not self.offered("feature-xdp-headroom")
        self.guest.number(f"{self.node}/trusted", 1)
        self.mac = bytes.fromhex((self.guest.text(f"{self.node}/mac") or "").replace(":", ""))
        self.tx, self.tx_ref = self.guest.new_ring(12, 256)
        self.rx, self.rx_ref = self.guest.new_ring(8, 256)
        self.guest.change(self.node, {
            "multi-queue-num-queues": 1, "tx-ring-ref": self.tx_ref, "rx-ring-ref": self.rx_ref,
            "event-channel": self.new_port(), "request-rx-copy": 1, "feature-rx-notify": 1, "feature-sg": 1,
            "feature-gso-tcpv4": 1, "feature-gso-tcpv6": 1, "feature-ipv6-csum-offload": 1,
        })  # fmt: skip
        self.switch_and_hear(CONNECTED, CONNECTED)
        self.scatter = self.offered("feature-sg")
        self.checksums = not self.offered("feature-no-csum-offload")
        self.large = [self.offered(f"feature-gso-tcpv{version}") for version in (4, 6)]

    def fill(self, count: int) -> None:
        for _ in range(count):
            place, frame = self.rx.requests % 256, self.guest.new_frame()
            self.buffers[place] = self.guest.new_grant(frame), frame
            self.rx.ask(struct.pack("<HHI", place, 0, self.buffers[place][0]))
        if self.rx.push():
            self.kick()

    def receive(self) -> list[bytes]:
        """The frames that have come. The n-th answer is for the n-th request."""
        first, frames = self.rx.responses, []
        for i, answer in enumerate(self.rx.answers(8)):
            id, offset, flags, status = struct.unpack("<HHHh", answer)
            place = (first + i) % 256
            ref, frame = self.buffers.pop(place)
            assert id == place
            assert not flags & ~3  # no further slots, no extra information
            assert 0 < status <= PAGE - offset
            frames.append(self.guest.page_read(frame, offset, status))
            self.guest.end_grant(ref)
        return frames

    def transmit(self, parts: list[bytes], offset: int = 0, *, blank: bool = False) -> None:
        """A packet in as many pages as parts; `blank`: the back end is to fill in the checksum."""
        for i, part in enumerate(parts):
            frame = self.guest.new_frame()
            self.guest.page_write(frame, offset, part)
            ref, id = self.guest.new_grant(frame, GRANTED | READ_ONLY), self.tx.requests % 256
            flags = (0 if i == len(parts) - 1 else 4) | (3 if blank and i == 0 else 0)
            size = sum(map(len, parts)) if i == 0 else len(part)
            self.tx.ask(struct.pack("<IHHHH", ref, offset, flags, id, size))
            self.pending[id] = ref
        if self.tx.push():
            self.kick()

    def collect(self) -> list[int]:
        """The statuses of what has gone; each answer must be for something that is pending."""
        statuses = []
        for answer in self.tx.answers(4):
            id, status = struct.unpack("<Hh", answer)
            self.guest.end_grant(self.pending.pop(id))
            statuses.append(status)
        return statuses

    def remove(self) -> None:
        self.close()
        for ref, _ in self.buffers.values():
            self.guest.end_grant(ref)
        for ref in (self.tx_ref, self.rx_ref):
            self.guest.end_grant(ref)
        self.guest.domain.events.close(self.port)
        self.buffers.clear()


class BlockFront(FrontEnd):
    def __init__(self, guest: Guest) -> None:
        super().__init__(guest, "vbd", 51712)
        assert guest.number(f"{self.node}/virtual-device") == 51712
        self.shadow: dict[int, list[int]] = {}  # references by request

    def connect(self) -> None:
        assert self.other_state == INIT_WAIT
        assert self.offered("max-ring-page-order") == 0
        assert self.offered("multi-queue-max-queues", 1) == 1
        self.ring, self.ring_ref = self.guest.new_ring(112, 32)
        self.guest.change(self.node, {
            "ring-ref": self.ring_ref, "event-channel": self.new_port(), "protocol": "x86_64-abi",
            "feature-persistent": 1,
        })  # fmt: skip
        self.switch_and_hear(INITIALISED, CONNECTED)
        self.sectors = int(self.guest.text(f"{self.other}/sectors") or "")
        self.info = int(self.guest.text(f"{self.other}/info") or "")
        self.sector_size = int(self.guest.text(f"{self.other}/sector-size") or "")
        self.physical_size = self.offered("physical-sector-size", self.sector_size)
        names = ("barrier", "flush-cache", "discard", "persistent", "max-indirect-segments")
        self.features = {name for name in names if self.offered(f"feature-{name}")}
        self.switch(CONNECTED)

    def ask(self, operation: int, sector: int, frames: list[int], last: int = 7) -> int:
        """A request about whole pages, the last one up to sector `last`. Its identifier."""
        id = self.ring.requests % 32
        flags = GRANTED | (READ_ONLY if operation == 1 else 0)
        self.shadow[id] = [self.guest.new_grant(frame, flags) for frame in frames]
        raw = struct.pack("<BBHIQQ", operation, len(frames), 51712, 0, id, sector)
        for i, ref in enumerate(self.shadow[id]):
            raw += struct.pack("<IBBH", ref, 0, last if i == len(frames) - 1 else 7, 0)
        self.ring.ask(raw.ljust(112, b"\0"))
        return id

    def go(self) -> dict[int, int]:
        """Show the requests and wait: the status of each that was answered."""
        if self.ring.push():
            self.kick()
        self.guest.advance()
        statuses = {}
        for answer in self.ring.answers(12):
            id, _, status = struct.unpack("<QBxh", answer)
            for ref in self.shadow.pop(id):
                self.guest.end_grant(ref)
            statuses[id] = status
        return statuses

    def remove(self) -> None:
        self.close()
        self.guest.end_grant(self.ring_ref)
        self.guest.domain.events.close(self.port)

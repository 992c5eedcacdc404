"""A hostile front end against the network and block back ends: what domain 0 owes to itself and to everybody else.

It writes anything into its rings and indices, also while domain 0 reads them, as another of its CPUs could; grants
frames that it has not, takes grants back, grants them again to other frames; kicks without end, and goes away with
requests in flight. Whatever it does, the back ends raise nothing, write nowhere but into what was granted to them for
writing, show nobody what was never granted, stay inside the disk, work for a bounded time and keep their counts; and a
well-meaning front end that connects afterwards finds everything in order.
`python -m tests.fuzz.pv_backends SEED TRIES` runs any number of tries and prints what was reached.
"""

from __future__ import annotations

import copy
import random
import struct
import sys
from collections.abc import Callable, Iterable

from hv.host.store import SECTOR, MemoryStore, StoreError
from hv.silicon.memory import Memory
from modes.paravirt.abi import Refused
from modes.paravirt.backends.netback import QUEUE
from modes.paravirt.backends.ring import Ring
from modes.paravirt.grants import GrantRefused
from tests.fuzz._coverage import Coverage
from tests.split_rig import BASE, FRAMES, LONG, MAC, OTHERS, PAGE, READ_ONLY, TABLE, BlockFront, NetFront, SharedRing

TRIES_A_CASE = 400
SECTORS = 256
OTHER = bytes.fromhex("0268760000fe")
# Frames by number: what may be granted for writing, what for reading, and what never is, or is another domain's.
WRITABLE, READABLE, PRIVATE = range(8, 56), range(56, 96), range(96, OTHERS.stop)
SECRET = b"nobody's business"
MOST_ACCESSES = 15_000  # of memory, in one look at the rings
BLOCK_REFUSALS = ("unsupported", "number of segments", "segment", "sector", "grant", "run away", "medium")
NET_REFUSALS = (
    "size", "grant", "checksum", "not offered", "run away", "frame", "slot across a page's end",
    "packet without an end", "packet of too many slots", "no extra information", "unknown extra information",
)  # fmt: skip
EXPECTED = [
    *(f"block {what}" for what in BLOCK_REFUSALS), *(f"net {what}" for what in NET_REFUSALS),
    *(f"{kind} {what}" for kind in ("block", "net") for what in (
        "okay", "error", "connected", "not connected", "gone in flight", "snapshot", "healthy", "changed meanwhile",
        "kicked without end",
    )),
    "block unsupported response", "net frame received", "net frame on the wire",
]  # fmt: skip


class Watched(Memory):
    """Memory that knows who may write where, and that another CPU of the guest's writes to while domain 0 reads."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False  # domain 0 acts
        self.accesses = 0
        self.may_write: Callable[[int], bool] = lambda frame: True
        self.meanwhile: Callable[[int], None] = lambda frame: None

    def count(self) -> None:
        self.accesses += 1
        assert self.accesses <= MOST_ACCESSES, "unbounded work"

    def read(self, address: int, size: int) -> bytes:
        data = super().read(address, size)
        if self.inside:
            self.count()
            self.inside = False
            self.meanwhile(address - BASE >> 12)
            self.inside = True
        return data

    def write(self, address: int, data: bytes) -> None:
        if self.inside:
            self.count()
            frame = address - BASE >> 12
            assert frame == address + len(data) - 1 - BASE >> 12 or not data, "a write across frames"
            assert self.may_write(frame), f"frame {frame} was not granted for writing"
        super().write(address, data)


class Flaky(MemoryStore):
    """A disk that now and then fails, and that notices when somebody reaches for what it has not."""

    failing = 0.0

    def __init__(self, chance: random.Random) -> None:
        super().__init__(SECTORS)
        self.chance = chance

    def _maybe(self, sector: int, count: int) -> None:
        assert 0 <= sector < sector + count <= self.sectors, "outside the disk"
        if self.chance.random() < self.failing:
            raise StoreError("flaky", sector)

    def read(self, sector: int, count: int) -> bytes:
        self._maybe(sector, count)
        return super().read(sector, count)

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        assert data, "nothing to write"
        assert SECRET not in data, "the disk has what was never granted"
        self._maybe(sector, len(data) // SECTOR)
        super().write(sector, data)

    def flush(self) -> None:
        self._maybe(0, 1)


class Hostile:
    """What both kinds of front end have in common."""

    kind: str
    front: BlockFront | NetFront

    def __init__(self, seed: int, coverage: Coverage) -> None:
        self.random, self.coverage = random.Random(seed), coverage
        self.memory = Watched()
        self.connected = True
        self.acts: dict[Callable[[], None], int] = {
            self.request: 30, self.go: 20, self.time: 15, self.regrant: 12, self.index: 1, self.scribble: 2,
            self.flood: 1, self.reconnect: 4, self.snapshot: 1, self.healthy: 1,
        }  # fmt: skip

    def begin(self) -> None:
        """The front end is there: fill its memory."""
        front = self.front
        for frame in PRIVATE:
            front.put(frame, 0, (SECRET * 250)[:PAGE])
        self.rings = [ring.frame for ring in self.shared()]
        self.fixed = set(front.grants.s.uses)  # the rings' references
        self.refs = [self.fresh() for _ in range(40)]
        self.memory.may_write = lambda frame: frame in WRITABLE or frame in self.rings or frame == TABLE
        self.memory.meanwhile = self.meanwhile

    def fresh(self) -> int:
        """A reference with a new meaning, mostly a good one."""
        r = self.random
        ref = r.choice([ref for ref in range(1, 90) if ref not in self.fixed])
        frames, flags = r.choice(((WRITABLE, 1), (WRITABLE, 1), (READABLE, 1 | READ_ONLY)))
        frame, domid = r.choice(frames), 0
        if r.random() < 0.05:
            frame = r.choice((*OTHERS, TABLE, 1 << 20, (1 << 32) - 1, *range(96, FRAMES)))
            flags = r.choice((1, 1 | READ_ONLY)) if frame >= FRAMES else r.choice((0, 2, 3, READ_ONLY))
        elif r.random() < 0.03:
            domid = r.choice((1, 2, 0x7FF0))
        use = self.front.grants.s.uses.get(ref)
        if use is not None and use.frame - (BASE >> 12) in READABLE:
            flags |= READ_ONLY  # while it is in use a reference stays that frame's, with the rights that it has now
        self.front.set_grant(ref, frame, flags, domid)
        return ref

    def ref(self) -> int:
        r = self.random
        return (
            r.choice(self.refs) if r.random() < 0.98 else r.choice((0, 511, 512, 1 << 31, (1 << 32) - 1, *self.fixed))
        )

    def meanwhile(self, frame: int) -> None:
        """Another CPU of the guest's acts between two reads of domain 0."""
        r = self.random
        if frame in self.rings and r.random() < 0.02:
            at = r.randrange(64, PAGE - 16)
            self.front.put(frame, at, r.choice((bytes(16), b"\xff" * 16, r.randbytes(16))))
            self.coverage.hit(f"{self.kind} changed meanwhile")

    # --- a step -----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One act, and whether all promises still hold."""
        acts, weights = zip(*self.acts.items(), strict=True)
        act = self.random.choices(acts, weights)[0]
        before = +self.front.back.refused
        act()
        if self.front.back.s.broken and self.random.random() < 0.3:
            self.start_anew()
        for what in self.front.back.refused - before:
            self.coverage.hit(f"{self.kind} {what}")
        self.check()

    def check(self) -> None:
        grants, front = self.front.grants.s, self.front
        assert len(grants.handles) == self.held(), "frames stay mapped, or do not"
        if not self.connected:
            assert not grants.handles, "mapped for nobody"
            assert front.back.deadline is None
        if front.back.s.broken:
            assert front.back.s.wake is None, "a broken front end is listened to"
        for ring in self.own_rings():
            s = ring.state
            assert s.taken - s.answered & 0xFFFF_FFFF <= ring.size, "more answers than requests"
            assert s.shown == s.answered or front.back.s.broken
        for frame in PRIVATE:
            assert front.get(frame, 0, 16) == SECRET[:16]

    def held(self) -> int:
        """How many frames the back end has mapped."""
        return len(self.rings) if self.connected else 0

    def own_rings(self) -> list[Ring]:
        """The back end's, while it is connected."""
        raise NotImplementedError

    def advance(self, time: int) -> None:
        """Let domain 0 act."""
        self.memory.inside, self.memory.accesses = True, 0
        try:
            self.front.advance(time)
        finally:
            self.memory.inside = False

    # --- acts -------------------------------------------------------------------------------------------------

    def request(self) -> None:
        raise NotImplementedError

    def collect(self) -> None:
        """Take the responses."""
        raise NotImplementedError

    def push(self) -> bool:
        raise NotImplementedError

    def go(self) -> None:
        if (self.push() or self.random.random() < 0.2) and self.connected:
            self.front.back.kicked()
        self.time()

    def time(self) -> None:
        self.advance(self.random.choice((0, 1, self.front.cpu.delay, 100_000_000, LONG)))
        self.collect()

    def full(self, ring: SharedRing) -> bool:
        """One more request would be too many; sometimes that is no reason."""
        return ring.requests - ring.responses & 0xFFFF_FFFF >= ring.size and self.random.random() < 0.98

    def regrant(self) -> None:
        self.refs[self.random.randrange(len(self.refs))] = self.fresh()

    def index(self) -> None:
        """An index of a ring is something else."""
        r = self.random
        ring = r.choice(self.shared())
        place = r.randrange(4)
        value = r.choice(
            (0, ring.index(place) + 1, ring.index(place) - 1, r.getrandbits(32), ring.requests + ring.size)
        )
        ring.index(place, value)

    def shared(self) -> list[SharedRing]:
        raise NotImplementedError

    def scribble(self) -> None:
        """Rubbish into a ring."""
        self.front.put(self.random.choice(self.rings), self.random.randrange(64, PAGE - 64), self.random.randbytes(64))

    def flood(self) -> None:
        if self.connected and not self.front.back.s.broken:
            self.front.back.kicked()
            deadline = self.front.back.deadline
            for _ in range(200):
                self.front.back.kicked()
            assert self.front.back.deadline == deadline, "each kick is work"
            self.coverage.hit(f"{self.kind} kicked without end")

    def reconnect(self) -> None:
        """Go away, with whatever is under way, or come back."""
        front = self.front
        if self.connected:
            if self.in_flight():
                self.coverage.hit(f"{self.kind} gone in flight")
            front.back.disconnect()
            self.connected = False
            return
        good = self.random.random() < 0.7
        if not good:
            name = self.random.choice(list(front.values))
            front.values[name] = self.random.choice(("", "x", "0", "-1", "99999999999999999999", "511", "1e3", "٣"))
        try:
            front.back.connect(front.front)
            self.connected = True
            self.coverage.hit(f"{self.kind} connected")
        except (Refused, GrantRefused):
            self.coverage.hit(f"{self.kind} not connected")
            assert not front.grants.s.handles, "a connection that failed holds something"
        if not good:
            self.start_anew()

    def in_flight(self) -> bool:
        raise NotImplementedError

    def start_anew(self) -> None:
        """Rings and grants as a driver that begins has them, and a connection."""
        if self.connected:
            self.front.back.disconnect()
        self.front.next_ref = min(self.fixed) - 1
        self.front.connect()
        self.connected = True

    def snapshot(self) -> None:
        front = self.front
        state, wire = copy.deepcopy((front.back.state(), front.cpu.state))
        front.back.set_state(state, front.front if self.connected else None)  # type: ignore[arg-type]
        front.cpu.state = wire
        self.coverage.hit(f"{self.kind} snapshot")

    def healthy(self) -> None:
        """A well-meaning front end is served as if nothing had been."""
        self.memory.meanwhile = lambda frame: None
        self.advance(LONG)  # what is on its way arrives before
        self.start_anew()
        self.serve()
        self.memory.meanwhile = self.meanwhile
        self.coverage.hit(f"{self.kind} healthy")

    def serve(self) -> None:
        raise NotImplementedError


class HostileBlock(Hostile):
    kind = "block"
    front: BlockFront

    def __init__(self, seed: int, coverage: Coverage) -> None:
        super().__init__(seed, coverage)
        self.store = Flaky(self.random)
        self.front = BlockFront(self.store, self.memory)
        self.begin()

    def own_rings(self) -> list[Ring]:
        return [self.front.back.ring] if self.connected else []

    def held(self) -> int:
        return super().held() + sum(len(request.handles) for request in self.front.back.s.flight)

    def shared(self) -> list[SharedRing]:
        return [self.front.ring]

    def in_flight(self) -> bool:
        return bool(self.front.back.s.flight)

    def push(self) -> bool:
        return self.front.ring.push()

    def request(self) -> None:
        r = self.random
        self.store.failing = r.choice((0.0, 0.0, 0.3))
        for _ in range(r.choice((1, 1, 2, 8, 33))):
            if self.full(self.front.ring):
                return
            operation = r.choice((*[0, 1, 3] * 5, 2, 4, 5, 6, 255))
            segments = [(self.ref(), *self.part()) for _ in range(r.choice((0, 1, 1, 1, 2, 11)))]
            sector = r.choice((0, *[r.randrange(SECTORS - 88)] * 9, SECTORS - 1, SECTORS, 1 << 63, (1 << 64) - 1))
            count = r.choice((12, 13, 255)) if r.random() < 0.05 else None
            self.front.ask(operation, sector, segments, id=r.getrandbits(64), count=count)

    def part(self) -> tuple[int, int]:
        r = self.random
        return (
            (0, 7)
            if r.random() < 0.9
            else r.choice((*((0, 0), (3, 5), (7, 7)) * 3, (5, 3), (0, 8), (255, 255), (8, 8)))
        )

    def collect(self) -> None:
        if self.front.ring.index(2) - self.front.ring.responses & 0xFFFF_FFFF > 64:
            self.front.ring.responses = self.front.ring.index(2)  # it has broken that itself
        for _, _, status in self.front.answers():
            self.coverage.hit({0: "block okay", -1: "block error", -2: "block unsupported response"}.get(status, "?"))

    def serve(self) -> None:
        front, r = self.front, self.random
        self.store.failing = 0.0
        data, sector = r.randbytes(PAGE), r.randrange(SECTORS - 8)
        out, back = WRITABLE[0], WRITABLE[1]
        front.put(out, 0, data)
        front.put(back, 0, bytes(PAGE))
        front.set_grant(100, out, 1 | READ_ONLY)
        front.set_grant(101, back, 1)
        front.ask(1, sector, [(100, 0, 7)], id=1)
        assert front.go() == [(1, 1, 0)], "a write"
        assert self.store.read(sector, 8) == data, "wrong data were written"
        front.ask(0, sector, [(101, 0, 7)], id=2)
        assert front.go() == [(2, 0, 0)], "a read"
        assert front.get(back, 0, PAGE) == data, "wrong data were read"


class HostileNet(Hostile):
    kind = "net"
    front: NetFront

    def __init__(self, seed: int, coverage: Coverage) -> None:
        super().__init__(seed, coverage)
        self.front = NetFront(self.memory)
        self.last = 0
        self.begin()
        self.acts[self.frame] = 10
        send = self.front.back.send

        def watched(frame: bytes, at: int) -> None:
            assert 60 <= len(frame) <= 1518, "no frame"
            assert SECRET not in frame, "the wire has what was never granted"
            assert at >= self.last, "before the last one"
            self.last = at
            self.coverage.hit("net frame on the wire")
            send(frame, at)

        self.front.back.send = watched

    def own_rings(self) -> list[Ring]:
        return [self.front.back.tx, self.front.back.rx] if self.connected else []

    def shared(self) -> list[SharedRing]:
        return [self.front.tx, self.front.rx]

    def in_flight(self) -> bool:
        return bool(self.front.back.s.sent)

    def push(self) -> bool:
        wanted = [ring.push() for ring in self.shared()]
        return any(wanted)

    def check(self) -> None:
        super().check()
        assert len(self.front.back.s.arrived) <= QUEUE, "too many frames wait"
        assert len(self.front.back.s.sent) <= 256

    def request(self) -> None:
        """A packet or a few, and a few buffers."""
        r, front = self.random, self.front
        for _ in range(r.choice((1, 1, 3, 30))):
            if self.full(front.tx):
                break
            slots = r.choice((1, 2, 2, 3, 3, 18, 19, 25)) if r.random() < 0.2 else 1
            extras = r.choice((0, 0, 0, 0, 0, 0, 1, 2))
            size = r.choice((60, 100, 1514, 1518, *[r.randrange(60, 1500)] * 20, 13, 1519, 5000, 0xFFFF))
            rest = [r.choice((1, 20, 40)) for _ in range(slots - 1)]
            flags = r.choice((0, 0, 1, 2)) | (8 if extras else 0)
            self.header()
            for i, part in enumerate([size, *rest]):
                more = 4 if i + 1 < slots or r.random() < 0.01 else 0
                offset = r.choice((0, 0, 0, 100, 2048, 4096 - part if part < 4096 else 0))
                if r.random() < 0.003:
                    offset = r.choice((4095, 0xFFFF))
                front.ask(self.ref(), offset, part, flags=flags | more if i == 0 else more, id=r.getrandbits(16))
                for n in range(extras if i == 0 else 0):
                    front.extra(r.choice((*[4, 5] * 6, 1, 2, 3, 0, 6, 255)), more=int(n + 1 < extras))
            if r.random() < 0.02:
                front.ask(self.ref(), 0, 100, flags=8)
        for _ in range(0 if self.full(front.rx) else r.choice((0, 1, 4, 40))):
            front.give(self.ref(), id=r.getrandbits(16))

    def header(self) -> None:
        """Something like a packet in a frame that may be granted."""
        r = self.random
        ip = struct.pack(
            ">BBHHHBB", r.choice((0x45, 0x4F, 0x65)), 0, r.choice((86, 60, 0, 0xFFFF)), 0, 0, 64, r.choice((6, 17, 1))
        )
        self.front.put(r.choice((*WRITABLE, *READABLE)), 0, OTHER + MAC + b"\x08\x00" + ip + r.randbytes(40))

    def frame(self) -> None:
        """Something comes over the wire."""
        r = self.random
        for _ in range(r.choice((1, 1, 50))):
            self.front.inject(
                MAC + OTHER + b"\x08\x00" + r.randbytes(r.choice((46, 100, 1500, 1504, 9000))), self.front.cpu.now
            )

    def collect(self) -> None:
        for ring in self.shared():
            if ring.index(2) - ring.responses & 0xFFFF_FFFF > 512:
                ring.responses = ring.index(2)  # it has broken that itself
        for raw in self.front.tx.answers(4):
            status = struct.unpack("<Hh", raw)[1]
            self.coverage.hit({0: "net okay", -1: "net error"}.get(status, "net other"))
        for _, _, _, status in self.front.received():
            if status > 0:
                self.coverage.hit("net frame received")

    def serve(self) -> None:
        front, r = self.front, self.random
        data, out, back = OTHER + MAC + b"\x88\xb5" + r.randbytes(80), WRITABLE[0], WRITABLE[1]
        front.sent.clear()
        front.put(out, 0, data)
        front.put(back, 0, bytes(PAGE))
        front.set_grant(100, out, 1 | READ_ONLY)
        front.set_grant(101, back, 1)
        front.give(101, id=6)
        front.go()
        answer = MAC + OTHER + b"\x88\xb5" + r.randbytes(80)
        front.inject(answer, front.cpu.now)  # so that the switch knows again who is where
        self.advance(LONG)
        assert front.received() == [(6, 0, 0, len(answer))], "a frame"
        assert front.get(back, 0, PAGE) == answer.ljust(PAGE, b"\0"), "wrong data arrived"
        front.ask(100, 0, len(data), id=5)
        assert front.go() == [(5, 0)], "a packet"
        assert [frame for frame, _ in front.sent] == [data], "a wrong frame"


def attack(seed: int, tries: int, coverage: Coverage) -> None:
    hostile = (HostileNet if seed % 2 else HostileBlock)(seed, coverage)
    for _ in range(tries):
        hostile.step()
    hostile.healthy()


def case(seed: int) -> Iterable[str]:
    """One front end and TRIES_A_CASE acts of it."""
    coverage = Coverage(EXPECTED)
    attack(seed, TRIES_A_CASE, coverage)
    return coverage.reached


def run(seed: int, tries: int) -> Coverage:
    """As many cases as it takes."""
    coverage = Coverage(EXPECTED)
    for number in range(-(-tries // TRIES_A_CASE)):
        attack(seed + number, TRIES_A_CASE, coverage)
    return coverage


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2])).report())

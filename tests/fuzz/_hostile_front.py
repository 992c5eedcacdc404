"""What a hostile front end is to any back end: grants, indices, comings and goings, and the promises that are checked.

The block and the network front end of pv_backends.py are two of it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

from hv.silicon.memory import Memory
from modes.paravirt.abi import Refused
from modes.paravirt.backends.ring import Ring
from modes.paravirt.grants import GrantRefused
from tests.fuzz._coverage import Coverage
from tests.split_rig import BASE, FRAMES, LONG, OTHERS, PAGE, READ_ONLY, TABLE, BlockFront, NetFront, SharedRing

# Frames by number: what may be granted for writing, what for reading, and what never is, or is another domain's.
WRITABLE, READABLE, PRIVATE = range(8, 56), range(56, 96), range(96, OTHERS.stop)
SECRET = b"nobody's business"
MOST_ACCESSES = 15_000  # of memory, in one look at the rings


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

"""A guest that attacks with its virtual function of an NVMe card, against what the card owes to everybody else.

It writes anything anywhere: registers, doorbells, queues outside memory, over one another or of no size, data pages
that lead nowhere, commands in every state, resets and deletions with commands in flight; and the card's owner takes the
function away. Whatever it does, the card raises nothing, does work in proportion, acts in no other function's name, and
leaves other namespaces alone (`check`); afterwards a well-meaning driver finds everything in order (`healthy`).
`python -m tests.fuzz.nvme SEED TRIES` runs any number of tries and prints what was reached.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Iterable

from hv.host.store import MemoryStore, StoreError
from hv.silicon.nvme.controller import MOST_EVENTS, MOST_IN_FLIGHT, Controller
from tests.fuzz._coverage import Coverage, attack
from tests.nvme_host import PF, RAM, TIMES, VF1, Driver, Host, give_vf

SECTORS = 512
REGISTERS = {
    "CAP": 0, "VS": 8, "INTMS": 0xC, "INTMC": 0x10, "CC": 0x14, "CSTS": 0x1C, "NSSR": 0x20, "AQA": 0x24, "ASQ": 0x28,
    "ACQ": 0x30, "doorbell": 0x1000, "table": 0x2000, "pending": 0x3000, "nothing": 0x800,
}  # fmt: skip
ADMIN = {
    "delete sq": 0, "create sq": 1, "log": 2, "delete cq": 4, "create cq": 5, "identify": 6, "abort": 8,
    "set features": 9, "get features": 0xA, "event": 0xC, "namespaces": 0xD, "attach": 0x15, "virtualization": 0x1C,
    "unknown": 0x7B,
}  # fmt: skip
IO = {"flush": 0, "write": 1, "read": 2, "compare": 5, "zeroes": 8, "dataset": 9, "unknown": 0x7F}
STATUSES = (
    0, 1, 2, 4, 7, 8, 0xB, 0xC, 0x13, 0x80, 0x100, 0x101, 0x102, 0x105, 0x108, 0x109, 0x10C, 0x10D, 0x280, 0x281, 0x285,
)  # fmt: skip
NEVER_DONE = ("namespaces", "attach", "virtualization", "unknown")  # not by a secondary controller
EXPECTED = [
    *(f"{name} {direction}" for name in REGISTERS for direction in ("read", "write")),
    *(
        f"admin {name} {how}"
        for name in ADMIN
        for how in ("done", "refused")
        if how == "refused" or name not in NEVER_DONE
    ),
    *(f"{name} {how}" for name in IO for how in ("done", "refused") if how == "refused" or name != "unknown"),
    *(f"status {status:#x}" for status in STATUSES),
    *(f"data {shape}" for shape in ("one page", "two pages", "list", "chain")),
    *(f"{what} in flight" for what in ("delete", "disable", "function reset", "taken away", "detach")),
    *("fatal", "held completions", "full of commands", "interrupt", "masked interrupt", "event reported", "healthy"),
    "configuration write",
]
SIZES = (1, 2, 4, 8)
MOST_READS = 40 * MOST_IN_FLIGHT  # of memory, for one doorbell


class Flaky(MemoryStore):
    """A medium that now and then fails, and that notices when somebody reaches for what it has not."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(SECTORS)
        self.chance, self.failing = chance, 0.03

    def _checked(self, sector: int, count: int) -> None:
        assert 0 <= sector <= sector + count <= SECTORS, "behind the end of the medium"
        if self.chance.random() < self.failing:
            raise StoreError("a bad sector")

    def read(self, sector: int, count: int) -> bytes:
        self._checked(sector, count)
        return super().read(sector, count)

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        self._checked(sector, len(data) // 512)
        super().write(sector, data, durable=durable)


class Forbidden(MemoryStore):
    """A namespace of somebody else."""

    def __init__(self) -> None:
        super().__init__(SECTORS)

    def read(self, sector: int, count: int) -> bytes:
        raise AssertionError("somebody else's namespace was read")

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        raise AssertionError("somebody else's namespace was written")


class Hostile:
    """The attacker has VF 1 and namespace 2; namespace 1 is its neighbour's."""

    def __init__(self, seed: int, coverage: Coverage) -> None:
        self.random, self.coverage = random.Random(seed), coverage
        self.store = Flaky(self.random)
        self.host = Host([Forbidden(), self.store])
        self.host.enable_vfs()
        self.pf = Driver(self.host)
        self.pf.start()
        self.vf = give_vf(self.host, self.pf)
        self.commands: dict[int, str] = {}  # identifier -> what it was
        self.restart()
        self.acts: list[tuple[int, Callable[[], None]]] = [
            (8, self.registers), (6, self.doorbells), (30, self.io), (16, self.admin), (10, self.queues),
            (12, self.time), (3, self.configuration), (3, self.memory), (2, self.disable), (1, self.owner),
            (3, self.abort), (3, self.flood), (1, self.healthy),
        ]  # fmt: skip

    @property
    def controller(self) -> Controller:
        return self.vf.function.controller

    def restart(self) -> None:
        """Everything as a driver leaves it before its first command."""
        self.host.configure(VF1, 4, 4, 2)
        self.vf.start()
        self.commands.clear()
        self.vf.create_queues()
        self.vf.create_queues(2)

    def step(self) -> None:
        """One hostile act."""
        host = self.host
        host.written.clear()
        host.interrupts.clear()
        host.completions.clear()
        host.reads = 0
        act = self.random.choices([act for _, act in self.acts], [weight for weight, _ in self.acts])[0]
        act()
        self.collect()
        check(self.controller)
        assert host.reads <= MOST_READS, "too much work"
        if self.controller.state.csts & 2 or self.random.random() < 0.01:
            if self.controller.state.csts & 2:
                self.coverage.hit("fatal")
            self.restart()

    def collect(self) -> None:
        """What the card has told and written since."""
        for function, data in self.host.completions:
            if function != VF1:
                continue
            id, status = struct.unpack_from("<HH", data, 12)
            self.coverage.hit(f"status {status >> 1 & 0x7FF:#x}")
            name = self.commands.get(id)
            if name is not None:
                self.coverage.hit(f"{name} {'refused' if status >> 1 else 'done'}")
            if name == "admin event" and not status >> 1:
                self.coverage.hit("event reported")
        for function, _ in self.host.interrupts:
            if function == VF1:
                self.coverage.hit("interrupt")
        s = self.controller.state
        if self.vf.function.state.msix.pending:
            self.coverage.hit("masked interrupt")
        if any(cq.held for cq in s.cqs.values()):
            self.coverage.hit("held completions")
        if len(s.flight) == MOST_IN_FLIGHT:
            self.coverage.hit("full of commands")

    def alone(self) -> None:
        """Only the attacker acts now: nothing may happen in another function's name."""
        assert all(function == VF1 for function, _, _ in self.host.written), "DMA in another function's name"
        assert all(function == VF1 for function, _ in self.host.interrupts), "another function's interrupt"

    # --- acts -------------------------------------------------------------------------------------------------

    def number(self) -> int:
        r = self.random
        return r.choice((0, 1, 2, 3, 7, 8, r.randrange(64), r.randrange(1 << 16), r.getrandbits(32), (1 << 32) - 1))

    def address(self) -> int:
        """Where a queue or data might be."""
        r, vf = self.random, self.vf
        page = vf.page + 0x1000 * r.randrange(8)
        return r.choice(
            (
                *(page,) * 6, page | r.choice((4, 512, 4092)), page + r.randrange(0x1000), vf.sq[0], vf.cq[0],
                RAM - 0x1000, RAM - 16, RAM, r.getrandbits(64), 0xFEE0_0000, 0xFEB0_0000, self.pf.base, (1 << 64) - 4,
            )
        )  # fmt: skip

    def registers(self) -> None:
        r = self.random
        name = r.choice(list(REGISTERS))
        size = r.choice(SIZES)
        offset = REGISTERS[name] + r.choice((0, 0, 0, 4, r.randrange(16)))
        if name == "CC" and r.random() < 0.8:
            name, offset = "CSTS", 0x1C
        if r.random() < 0.5:
            value = self.vf.get(offset, size)
            assert 0 <= value < 1 << 8 * size
            self.coverage.hit(f"{name} read")
        else:
            self.vf.set(offset, (self.number() | self.number() << 32) & (1 << 8 * size) - 1, size)
            self.coverage.hit(f"{name} write")
        self.alone()

    def doorbells(self) -> None:
        r = self.random
        offset = 0x1000 + 4 * r.choice((0, 1, 2, 3, 4, 5, 6, r.randrange(1024)))
        self.vf.set(offset, r.choice((r.randrange(9), self.number() & 0xFFFF_FFFF)))
        self.coverage.hit("doorbell write")
        self.go()

    def put(self, queue: int, name: str, opcode: int, *words: int, prps: tuple[int, int] | None = None) -> None:
        r, vf = self.random, self.vf
        prp1, prp2 = prps or (self.address(), self.address())
        namespace = r.choice((2, 2, 2, 2, 2, 1, 0, 3, 0xFFFF_FFFF, r.getrandbits(32)))
        flags = r.choice((0,) * 30 + (1, 0x40, 0xFF))
        id = vf.put(queue, opcode, namespace, prp1, prp2, *words, flags=flags)
        self.commands[id] = name

    def go(self, queue: int | None = None) -> None:
        """Ring, and perhaps let some time pass."""
        if queue is not None:
            self.vf.ring(queue)
        self.host.pass_time(self.host.now + self.random.choice((0, 0, TIMES.read, 10 * TIMES.write)))
        if self.random.random() < 0.6:
            for number in (0, 1, 2):
                self.vf.all(number)
        self.alone()

    def data(self) -> tuple[int, tuple[int, int]]:
        """A number of sectors, and pages for them: one, two, a list, a list that goes on elsewhere."""
        r, vf = self.random, self.vf
        shape = r.choice(("one page", "two pages", "list", "chain"))
        self.coverage.hit(f"data {shape}")
        if shape == "one page":
            return r.randrange(1, 9), (self.address(), self.address())
        if shape == "two pages":
            return r.randrange(9, 17), (self.address(), self.address())
        count, table = r.randrange(17, 280), vf.base + 0x7000
        at = table + (0 if shape == "list" else 0xFF0)
        for _ in range(r.randrange(1, 30)):
            at = min(at, RAM - 8)
            struct.pack_into("<Q", self.host.ram, at, self.address())
            at += 8
            if at % 0x1000 == 0:  # the last entry of a page leads on
                following = r.choice((vf.page, table, r.getrandbits(64), vf.page + 4))
                struct.pack_into("<Q", self.host.ram, at - 8, following)
                at = following & ~7 if following < RAM - 0x1000 else vf.page
        return count, (self.address(), r.choice((table, table + 0xFF0, table + 0xFF8, table + 4, self.address())))

    def io(self) -> None:
        r = self.random
        name = r.choice((*IO, "read", "write", "read", "write"))
        queue = r.choice((1, 2))
        count, prps = self.data()
        sector = r.choice((r.randrange(64), r.randrange(SECTORS), SECTORS, self.number(), r.getrandbits(64)))
        if r.random() < 0.05:
            count = r.randrange(1, 1 << 16)
        first = (self.number() & 3, 0) if name == "dataset" else (sector & 0xFFFF_FFFF, sector >> 32)
        more = r.choice((0, 0, 1 << 30, 1 << 31, 1 << 26))
        self.put(queue, name, IO[name], *first, (count - 1) & 0xFFFF | more, prps=prps)
        if r.random() < 0.7:
            self.go(queue)

    def admin(self) -> None:
        r = self.random
        name = r.choice(list(ADMIN))
        words = {
            "log": (r.choice((1, 2, 3, 4, 5, 5, 0x70)) | r.choice((15, 127, 1023, self.number() & 0xFFFF)) << 16, 0,
                    r.choice((0, 0, 4, 2, self.number()))),
            "identify": (r.choice((0, 1, 2, 3, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, self.number() & 0xFF)),),
            "set features": (r.choice((*range(1, 12), 0x80)) | r.choice((0, 0, 0, 1 << 31)), self.number()),
            "get features": (r.choice((*range(1, 12), 0x80)) | r.randrange(8) << 8, self.number()),
        }.get(name, (self.number(), self.number(), self.number()))  # fmt: skip
        self.put(0, f"admin {name}", ADMIN[name], *words)
        if r.random() < 0.8:
            self.go(0)

    def queues(self) -> None:
        """Queues anywhere, of any size, and deletions while they are used."""
        r = self.random
        number, size = (
            r.choice((1, 1, 2, 3, 3, 4, 9, self.number() & 0xFFFF)),
            r.choice((7, 7, 63, 0, 1, 1023, 1024, 0xFFFF)),
        )
        name = r.choice(("create sq", "create cq", "delete sq", "delete cq"))
        if name.startswith("create"):
            flags = r.choice((1, 1, 1, 3, 3, 3, 0))
            to = r.choice((1, 2, 3, 0, 5, self.number() & 0xFFFF))
            words: tuple[int, ...] = number | size << 16, flags | to << 16
        else:
            words = (number,)
        if name == "delete sq" and any(flight.queue == number for flight in self.controller.state.flight):
            self.coverage.hit("delete in flight")
        self.put(0, f"admin {name}", ADMIN[name], *words)
        self.go(0)

    def abort(self) -> None:
        flight = self.controller.state.flight
        queue, id = (
            (flight[0].queue, flight[0].entry[2] | flight[0].entry[3] << 8) if flight else (1, self.number() & 0xFFFF)
        )
        self.put(0, "admin abort", ADMIN["abort"], queue | id << 16)
        self.go(0)

    def flood(self) -> None:
        """As many commands as fit, again and again, and nobody who takes completions."""
        for _ in range(self.random.choice((1, 5, 50))):
            self.put(0, "admin event", ADMIN["event"])
            queue = self.random.choice((1, 2))
            for _ in range(7):
                self.put(queue, "flush", IO["flush"])
            self.vf.ring(queue)
            self.host.pass_time(self.host.now)
        self.collect()
        if self.random.random() < 0.5:
            self.go()

    def time(self) -> None:
        self.host.pass_time(self.host.now + self.random.choice((1, TIMES.read, TIMES.flush, 100 * TIMES.write)))
        self.alone()

    def configuration(self) -> None:
        r = self.random
        offset, size = r.choice((4, 0x72, 0xA8, 0xA8, r.randrange(4092))), r.choice((1, 2, 4))
        value = r.choice((0x8000, 0xC000, 4, self.number())) & (1 << 8 * size) - 1
        if offset == 0xA8 and size > 1 and value & 0x8000 and self.controller.state.flight:
            self.coverage.hit("function reset in flight")
        self.host.configure(VF1, offset, value, size)
        self.coverage.hit("configuration write")
        self.host.pass_time(self.host.now + TIMES.flush)
        self.alone()
        if r.random() < 0.5:
            self.host.configure(VF1, 4, 4, 2)
            self.host.configure(VF1, 0x72, 0x8000, 2)

    def memory(self) -> None:
        """Rubbish into its queues."""
        r = self.random
        at = r.choice(list(self.vf.sq.values())) + r.randrange(0x800)
        self.host.ram[at : at + 64] = r.randbytes(64)

    def disable(self) -> None:
        if self.controller.state.flight:
            self.coverage.hit("disable in flight")
        self.vf.set(0x14, self.random.choice((0, 0, 0x46_0001 | 1 << 14, 0x46_0001 | 1 << 7)))
        self.coverage.hit("CC write")
        self.host.written.clear()
        self.time()
        self.restart()

    def owner(self) -> None:
        """The card's owner takes the function away, or its namespace, and gives it back."""
        pf, r, in_flight = self.pf, self.random, bool(self.controller.state.flight)
        way = r.choice(("offline", "disabled", "detached"))
        if way == "detached":
            self.host.ram[pf.page : pf.page + 4] = struct.pack("<HH", 1, 1)
            assert pf.admin(0x15, 1, namespace=2, data=True).status == 0
            if in_flight:
                self.coverage.hit("detach in flight")
            self.time_of_all()
            self.host.ram[pf.page : pf.page + 4] = struct.pack("<HH", 1, 1)
            assert pf.admin(0x15, 0, namespace=2, data=True).status == 0
            return
        if way == "offline":
            pf.put(0, 0x1C, 0, 0, 0, 7 | 1 << 16)
            pf.ring(0)
            self.host.pass_time(self.host.now)
            assert [completion.status for completion in pf.all(0)] == [0]
        else:
            self.host.configure(PF, 0x168, 0, 2)
        if in_flight:
            self.coverage.hit("taken away in flight")
        assert self.vf.get(0x1C) == 2
        self.host.written.clear()
        self.time_of_all()
        assert all(function != VF1 for function, _, _ in self.host.written), "a function that is gone writes"
        assert pf.admin(0x1C, 9 | 1 << 16).status == 0
        self.host.enable_vfs()
        self.restart()

    def time_of_all(self) -> None:
        self.host.pass_time(self.host.now + 100 * TIMES.write)

    def healthy(self) -> None:
        """After a reset everything is in order: a well-meaning driver reads what it writes."""
        kept, self.store.failing = self.store.failing, 0.0
        self.host.configure(VF1, 0xA8, 0x8000, 2)
        self.restart()
        vf, r = self.vf, self.random
        count = r.randrange(1, 9)
        data, sector = r.randbytes(count * 512), r.randrange(SECTORS - 8)
        self.host.ram[vf.page : vf.page + len(data)] = data
        assert vf.io(1, sector, count, vf.page, namespace=2) == 0, "a write"
        assert self.store.read(sector, count) == data, "wrong data were written"
        assert vf.io(2, sector, count, vf.page + 0x1000, namespace=2) == 0, "a read"
        assert self.host.ram[vf.page + 0x1000 : vf.page + 0x1000 + len(data)] == data, "wrong data were read"
        assert (VF1, 0x41) in self.host.interrupts, "no interrupt"
        self.store.failing = kept
        self.coverage.hit("healthy")


def check(controller: Controller) -> None:
    """What is true at every moment."""
    s = controller.state
    assert len(s.flight) <= MOST_IN_FLIGHT, "too many commands"
    assert len(s.asked) <= 4
    assert len(s.events) <= MOST_EVENTS
    assert len(s.errors) <= 64
    assert not s.csts & ~0xF
    assert all(flight.queue in s.sqs for flight in s.flight), "a command without a queue"
    assert sum(len(cq.held) for cq in s.cqs.values()) <= 2 * MOST_IN_FLIGHT, "too many completions are held"
    assert len(s.sqs) <= 1 + controller.queue_limit
    assert len(s.cqs) <= 1 + controller.queue_limit
    for sq in s.sqs.values():
        assert 0 <= sq.head < sq.size
        assert 0 <= sq.tail < sq.size
        assert sq.completions in s.cqs, "a submission queue without a completion queue"
    for cq in s.cqs.values():
        assert 0 <= cq.head < cq.size
        assert 0 <= cq.tail < cq.size
        assert cq.vector < controller.vector_limit
    assert controller.deadline is None or isinstance(controller.deadline, int)


def run(seed: int, tries: int) -> Coverage:
    return attack(Hostile, EXPECTED, seed, tries)


def case(seed: int) -> Iterable[str]:
    """500 hostile acts, for `make fuzz`."""
    return run(seed, 500).reached


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2])).report())

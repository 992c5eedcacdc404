"""A hostile driver for the IDE controller: random accesses, commands in every state, tables that lead nowhere.

Whatever it does, the controller raises nothing, stays inside memory and its disks, works for a bounded time and keeps
its own promises (`check`); after a reset a well-meaning driver finds it in order (`Hostile.healthy`).
`python -m tests.fuzz.ide SEED TRIES` (without make: any number of tries) prints what was reached.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Iterable

from hv.devices.ata_drive import COMMANDS
from hv.devices.ata_state import (
    DATA_IN,
    DATA_OUT,
    DIAGNOSTIC,
    DMA,
    EXTENDED,
    FETCHING,
    READS,
    READY,
    RESETTING,
    STORING,
    WORKING,
    WRITES,
)
from hv.devices.ata_transfer import CHUNK
from hv.devices.ide import IDETIM, Ide
from hv.host.store import SECTOR, MemoryStore, StoreError
from tests.fuzz._coverage import Coverage, attack
from tests.ide_host import BSY, BUFFER, COMMAND, CONTROL, DRQ, MASTER, MEMORY, TABLE, Board, Host

SIZES = (1, 2, 4)
PHASES = (READY, WORKING, DATA_IN, DATA_OUT, FETCHING, STORING, DMA, RESETTING)
PORTS = {
    **{f"command {offset}": (COMMAND, offset) for offset in range(8)},
    "control": (CONTROL, 0),
    **{f"master {offset}": (MASTER, offset) for offset in range(8)},
}
EXPECTED = [
    *(f"{name} {direction}" for name in PORTS for direction in ("read", "write")),
    *(f"command {code:#04x}" for code in (*COMMANDS, DIAGNOSTIC)),
    *(f"{what} while {phase}" for what in ("command", "reset", "time") for phase in PHASES),
    *(f"table {shape}" for shape in ("inside", "outside", "over itself", "endless", "odd")),
    *("string read", "string write", "config write", "dma done", "dma error", "dma waits", "medium error", "not found"),
    *("aborted", "healthy"),
]
MOST_ACCESSES = 2 * CHUNK * SECTOR + 64  # of memory, in one step of time: a table entry and two bytes


class Flaky(MemoryStore):
    """A disk that now and then fails, and that notices when somebody reaches for what it has not."""

    def __init__(self, sectors: int, chance: random.Random) -> None:
        super().__init__(sectors)
        self.chance, self.failing = chance, 0.0
        self.failures = 0

    def _maybe(self, sector: int, count: int) -> None:
        assert 0 <= sector < sector + count <= self.sectors, "outside the disk"
        assert count <= CHUNK, "more than a step may move"
        if self.chance.random() < self.failing:
            self.failures += 1
            raise StoreError("flaky", sector + count - 1)

    def read(self, sector: int, count: int) -> bytes:
        self._maybe(sector, count)
        return super().read(sector, count)

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        assert len(data) % SECTOR == 0
        self._maybe(sector, len(data) // SECTOR)
        super().write(sector, data)

    def flush(self) -> None:
        self._maybe(0, 1)


class CountingBoard(Board):
    """Memory that counts how often it is asked."""

    accesses = 0

    def read(self, address: int, size: int) -> bytes:
        self.accesses += 1
        return super().read(address, size)

    def write(self, address: int, data: bytes) -> None:
        self.accesses += 1
        super().write(address, data)


class Hostile:
    """One controller with three disks and the driver that wishes it ill."""

    def __init__(self, seed: int, coverage: Coverage) -> None:
        self.random, self.coverage = random.Random(seed), coverage
        self.stores = [Flaky(sectors, self.random) for sectors in (4096, 70_000, 40)]
        self.host = Host(*self.stores)
        self.board = CountingBoard()
        self.host.board = self.host.bus.functions[1 << 3 | 1].slot.outside = self.board  # type: ignore[attr-defined]

        self.acts: dict[Callable[[], None], int] = {
            self.write: 20, self.read: 15, self.command: 14, self.table: 3, self.start: 3, self.dma: 8, self.time: 24,
            self.reset: 2, self.string: 9, self.config: 1, self.flakiness: 1, self.healthy: 1,
        }  # fmt: skip

    def step(self) -> None:
        """One hostile act."""
        acts, weights = zip(*self.acts.items(), strict=True)
        act = self.random.choices(acts, weights)[0]
        self.board.accesses = 0
        act()
        if act != self.healthy:
            assert self.board.accesses <= MOST_ACCESSES, "unbounded work"
        check(self.host.ide)

    def phase(self, ch: int) -> str:
        drive = self.host.ide.channels[ch].selected
        return READY if drive is None else drive.state.phase

    def port(self, direction: str) -> tuple[int, int]:
        name, (bases, offset) = self.random.choice(list(PORTS.items()))
        self.coverage.hit(f"{name} {direction}")
        return bases[self.random.randrange(2)] + offset, self.random.choice(SIZES)

    # --- acts -------------------------------------------------------------------------------------------------

    def write(self) -> None:
        port, size = self.port("write")
        value = self.random.getrandbits(8 * size)
        if port in CONTROL and self.random.random() < 0.9:
            value &= ~4  # else it would be in reset most of the time
        self.host.out(port, value, size)

    def read(self) -> None:
        port, size = self.port("read")
        assert 0 <= self.host.inp(port, size) < 1 << 8 * size

    def command(self) -> None:
        """A command that is often a good one."""
        known = self.random.random() < 0.9
        self.give(
            self.random.randrange(2),
            self.random.choice((*COMMANDS, DIAGNOSTIC)) if known else self.random.randrange(256),
        )

    def give(self, ch: int, code: int) -> None:
        """Give a command with an address that is often on the disk."""
        r, host = self.random, self.host
        sector = r.choice((r.randrange(40), r.randrange(4096), r.randrange(80_000), r.getrandbits(48)))
        count = r.choice((1, 2, r.randrange(256), 256, r.randrange(65536)))
        device = r.choice((0xA0, 0xE0, 0xE0, 0xE0)) | r.randrange(16) << 4 & 0x10 | (sector >> 24 & 15)
        if code in EXTENDED:
            host.registers(0, count >> 8, sector >> 24 & 0xFF, sector >> 32 & 0xFF, sector >> 40 & 0xFF, ch=ch)
        feature = r.choice((2, 3, 0x82, 0x55, 0xAA, 0x66, 0xCC, r.randrange(256)))
        host.registers(feature, count & 0xFF, sector & 0xFF, sector >> 8 & 0xFF, sector >> 16 & 0xFF, device, ch=ch)
        self.coverage.hit(f"command while {self.phase(ch)}")
        selected = host.ide.channels[ch].selected
        if selected is not None and selected.state.phase == READY:
            self.coverage.hit(f"command {code:#04x}")
        host.out(COMMAND[ch] + 7, code)
        error = host.inp(COMMAND[ch] + 1)
        if host.inp(CONTROL[ch]) & 1:
            self.coverage.hit("not found" if error & 0x10 else "aborted")

    def table(self) -> None:
        """Table entries that lead into memory, out of it, onto the table itself, for ever, or to odd places."""
        shape = self.random.choice(("inside", "outside", "over itself", "endless", "odd"))
        self.coverage.hit(f"table {shape}")
        count = self.random.choice((1, 3, 50))
        for i in range(count):
            size = self.random.choice((2, 512, 1024, 0, self.random.getrandbits(16)))
            address = {
                "inside": self.random.randrange(BUFFER, MEMORY - 0x1_0000),
                "outside": self.random.choice((MEMORY - 2, 0xFEC0_0000, 0xFFFF_FFFE, self.random.getrandbits(32))),
                "over itself": TABLE + self.random.randrange(64),
                "endless": BUFFER,
                "odd": BUFFER + 1,
            }[shape]
            flags = 0 if shape == "endless" else 0x8000 * (i == count - 1) | self.random.getrandbits(15)
            size = {"endless": 2, "odd": size | 1}.get(shape, size)
            self.host.board.write(TABLE + 8 * i, struct.pack("<IHH", address, size, flags))

    def start(self) -> None:
        """Start or stop a bus master."""
        self.start_master(self.random.randrange(2))

    def start_master(self, ch: int) -> None:
        """Mostly at the table, mostly to memory."""
        where = self.random.choice((TABLE, TABLE, TABLE, MEMORY - 4, self.random.getrandbits(32)))
        self.host.out(MASTER[ch], 0)
        self.host.out(MASTER[ch] + 4, where, 4)
        self.host.out(MASTER[ch], self.random.choice((1, 9, 9, 9, 0)))

    def dma(self) -> None:
        """All that a transfer by DMA needs, each part as bad as chance has it."""
        ch = self.random.randrange(2)
        self.table()
        self.start_master(ch)
        self.give(ch, self.random.choice((0xC8, 0xC8, 0xCA, 0x25, 0x35)))

    def time(self) -> None:
        """Let time pass: to the next event, or by a random span."""
        ide, before = self.host.ide, [(self.phase(ch), self.host.ide.masters[ch].state.status) for ch in range(2)]
        failures = sum(store.failures for store in self.stores)
        if self.random.random() < 0.8:
            self.host.pass_time()
        else:
            self.host.board.now += self.random.randrange(10_000_000)
            ide.advance(self.host.board.now)
        for ch, (phase, status) in enumerate(before):
            self.coverage.hit(f"time while {phase}")
            if phase == DMA:
                after = ide.masters[ch].state.status
                waits = self.phase(ch) == DMA
                self.coverage.hit("dma error" if after & ~status & 2 else "dma waits" if waits else "dma done")
        if sum(store.failures for store in self.stores) > failures:
            self.coverage.hit("medium error")

    def reset(self) -> None:
        ch = self.random.randrange(2)
        self.coverage.hit(f"reset while {self.phase(ch)}")
        self.host.out(CONTROL[ch], 4 | self.random.choice((0, 2)))
        if self.random.random() < 0.9:
            self.host.out(CONTROL[ch], self.random.choice((0, 2)))

    def string(self) -> None:
        """REP INS or REP OUTS at the data port or any other."""
        port, size = COMMAND[self.random.randrange(2)] + self.random.choice((0, 0, 0, 7)), self.random.choice(SIZES)
        count = self.random.choice((1, 512 // size, 512 // size, self.random.randrange(3000)))
        if self.random.random() < 0.5:
            self.coverage.hit("string read")
            assert len(self.host.ports.read_string(port, size, count)) == size * count
        else:
            self.coverage.hit("string write")
            self.host.ports.write_string(port, size, self.random.randbytes(size * count))

    def config(self) -> None:
        """Configuration space: decoding and bus mastering off and on, the window elsewhere."""
        self.coverage.hit("config write")
        offset, size = self.random.randrange(256), self.random.choice(SIZES)
        offset &= -size
        self.host.config(offset, size, self.random.getrandbits(8 * size))
        if self.random.random() < 0.8:
            self.well_configured()

    def well_configured(self) -> None:
        self.host.config(0x20, 4, MASTER[0])
        self.host.config(4, 2, 5)
        self.host.config(IDETIM, 4, 0x8000_8000)

    def flakiness(self) -> None:
        for store in self.stores:
            store.failing = self.random.choice((0.0, 0.0, 0.2))

    def healthy(self) -> None:
        """After a reset everything is in order: a well-meaning driver reads and writes what it should."""
        self.well_configured()
        ch, host, r = self.random.randrange(2), self.host, self.random
        store = self.stores[ch]
        kept, store.failing = store.failing, 0.0
        for each in (0, 1):  # the other channel might write to the memory that this is about
            host.out(CONTROL[each], 4)
            host.out(CONTROL[each], 0)
        assert host.settle(ch) & (BSY | DRQ) == 0, "not ready after a reset"
        sector, count = r.randrange(store.sectors - 8), r.randrange(1, 9)
        edges = host.board.edges[ch]
        host.address("lba28", sector, count, ch=ch)
        want = store.read(sector, count)
        assert host.read_pio(0x20, ch=ch) == want, "wrong data by PIO"
        assert host.board.edges[ch] > edges, "no interrupt"
        data = r.randbytes(count * SECTOR)
        host.board.write(BUFFER, data)
        host.table((BUFFER, 256), (BUFFER + 256, count * SECTOR - 256))
        host.inp(COMMAND[ch] + 7)
        host.address("lba48", sector, count, ch=ch)
        assert host.dma(0x35, to_memory=False, ch=ch) == 4, "a DMA write did not end as it should"
        assert store.read(sector, count) == data, "wrong data by DMA"
        store.failing = kept
        self.coverage.hit("healthy")


def check(ide: Ide) -> None:
    """What is true at every moment."""
    due = [drive.state.due for channel in ide.channels for drive in channel.present if drive.state.due is not None]
    assert ide.deadline == min(due, default=None), "a deadline that nobody was told of"
    for number, channel in enumerate(ide.channels):
        drive = channel.selected
        pulled = drive is not None and drive.state.irq and not channel.state.control & 2
        assert channel.state.line == pulled, "the interrupt line"
        master = ide.masters[number].state
        assert master.left >= 0
        assert master.left <= 0x1_0000
        assert master.status & 0x98 == 0
        for each in channel.present:
            s = each.state
            assert bool(s.status & BSY) == (s.phase not in (READY, DATA_IN, DATA_OUT)), "BSY"
            assert bool(s.status & DRQ) == (s.phase in (DATA_IN, DATA_OUT)), "DRQ"
            assert s.at <= len(s.buffer) <= CHUNK * SECTOR, "the buffer"
            assert len(s.buffer) == 0 or s.phase != READY, "a buffer that nobody needs"
            if s.phase in (DMA, FETCHING, STORING) and s.command in READS | WRITES:
                assert 0 < s.left <= each.store.sectors - s.sector, "a transfer behind the end"
            assert all(0 <= value < 256 for value in (*s.registers, *s.previous, s.error, s.status)), "8 bits"


def run(seed: int, tries: int) -> Coverage:
    return attack(Hostile, EXPECTED, seed, tries)


def case(seed: int) -> Iterable[str]:
    """500 hostile acts, for `make fuzz`."""
    return run(seed, 500).reached


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2])).report())

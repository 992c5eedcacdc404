"""Who has a function of an 82599 and means ill, against what the card and its owner owe to everybody else.

Even cases: a guest with virtual function 0. It writes anything anywhere: registers, rings at its neighbour, at devices
or nowhere, descriptors of any kind, messages and locks of the mailbox, resets in flight; and its owner takes the
function away. The neighbour, with function 1, and the wire must not notice: nothing forged leaves, nothing is read or
written in another's name, what is for others does not come in, work and interrupts are bounded, and both functions
serve a well-meaning driver afterwards.
Odd cases: whoever owns the whole card drives all of its functions like that. The card raises nothing, works for a
bounded time, and after a reset is as good as new.

`case(seed)` is one card and TRIES_A_CASE acts; `run(seed, tries)` as many cases as it takes. Here are the acts; what
must hold whatever they do is in _ixgbe_card.py, what there is to reach in _ixgbe_reach.py.
"""

from __future__ import annotations

import copy
import struct
from collections import Counter
from collections.abc import Callable, Iterable

from hv.silicon.ixgbe import registers as reg
from modes.sriov.nic_owner import INTERVAL_US
from tests.fuzz._ixgbe_card import SECRET
from tests.fuzz._ixgbe_reach import EFFECTS, MESSAGES, QUEUE, SIZES, VIRTUAL
from tests.fuzz._ixgbe_traffic import Traffic
from tests.ixgbe_host import BROADCAST, MAC, OUTSIDE, PF, RING, SHARE, US, Driver, frame_to, mac, place

TRIES_A_CASE = 500
AT_ONCE = 30  # registers
MOST_ACCESSES = 60_000  # of memory, by one act


class Hostile(Traffic):
    """All acts, and how often each is chosen."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.acts: dict[Callable[[], None], int] = {
            self.write: 20, self.read: 15, self.ring: 10, self.descriptors: 15, self.doorbell: 20, self.enable: 10,
            self.frames: 20, self.time: 20, self.message: 12, self.table: 3, self.segments: 3, self.send: 6,
            self.configuration: 2, self.software_reset: 1, self.flood: 1, self.take_away: 1, self.neighbour: 4,
            self.snapshot: 1, self.healthy: 1, self.card_reset: 1, self.starve: 2, self.moderate: 2,
        }  # fmt: skip

    def step(self) -> None:
        """One act, and whether all promises still hold."""
        acts, weights = zip(*self.acts.items(), strict=True)
        act = self.random.choices(acts, weights)[0]
        host = self.host
        host.reads = 0
        host.written.clear()
        counters = dict(self.card.chip.state.counters)
        act()
        for name, counter in EFFECTS.items():
            if self.card.chip.state.counters.get(counter, 0) > counters.get(counter, 0):
                self.reached[name] += 1
        self.serve()
        if act not in (self.healthy, self.neighbour, self.flood):
            assert host.reads + len(host.written) <= MOST_ACCESSES, "unbounded work"
        self.reached["blocked"] += bool(host.blocked)
        self.check()
        host.blocked.clear()
        self.wire.clear()

    # --- acts -------------------------------------------------------------------------------------------------

    def place(self, driver: Driver, way: str) -> int:
        r = self.random
        if driver.vf is not None:
            name, offset = r.choice(list(VIRTUAL.items()))
            if name[:3] in ("VFR", "VFT", "VFS", "VFD") and r.random() < 0.2:
                offset += 0x40 * r.randrange(8)
            elif name in ("VTIVAR", "VTEITR", "VFMBMEM"):
                offset += 4 * r.randrange(16)
        elif r.random() < 0.3:
            name, offset = r.choice(list(QUEUE.items()))
            offset += 0x40 * r.choice((0, 0, 1, 2, 63)) + (0xC000 if name[0] in "RS" and r.random() < 0.1 else 0)
        else:
            register = r.choice(reg.REGISTERS)
            name, offset = register.name, register.offset + register.step * r.randrange(register.count)
            if r.random() < 0.05:
                name, offset = "nothing there", r.choice((0x1FFF0, 0x2104, 0x5404, r.randrange(128 << 10) & ~3))
        self.reached[f"{name} {way}"] += 1
        return offset

    def write(self) -> None:
        for _ in range(AT_ONCE):
            self.write_one()

    def write_one(self) -> None:
        r, driver = self.random, self.somebody()
        offset, value, size = self.place(driver, "write"), self.value(), r.choices(SIZES, (1, 1, 20, 1))[0]
        self.reached[f"{size} bytes write"] += 1
        if offset == 0 and r.random() < 0.95:
            value &= ~(1 << 26 | 1 << 3)  # else it would be in reset most of the time
        at = min(offset + r.choice((0, 0, 0, 0, 0, 0, 1, 2, 3)), (0x4000 if driver.vf is not None else 0x2_0000) - 1)
        driver.function.write(0, at, size, value & (1 << 8 * size) - 1)

    def read(self) -> None:
        for _ in range(AT_ONCE):
            self.read_one()

    def read_one(self) -> None:
        r, driver = self.random, self.somebody()
        offset, size = self.place(driver, "read"), r.choices(SIZES, (1, 1, 10, 1))[0]
        self.reached[f"{size} bytes read"] += 1
        got = driver.function.read(0, offset + r.randrange(4), size)
        assert 0 <= got < 1 << 8 * size

    def moderate(self) -> None:
        """Interrupts that keep their distance, or are masked in the table."""
        r, driver = self.random, self.somebody()
        if driver.vf is not None:
            driver.set(0x820, r.choice((0, 8, 0xFF8)) | r.getrandbits(1) << 31)
        bar = 4 if driver.vf is None else 3
        driver.function.write(bar, 12, 4, r.getrandbits(1))
        for _ in range(3):
            driver.set(0x104 if driver.vf is not None else 0x808, r.choice((1, 7)))

    def time(self) -> None:
        self.host.pass_time(self.host.now + self.random.choice((1, US, 20 * US, 300 * US)))

    def message(self) -> None:
        """Something for the mailbox."""
        r, driver = self.random, self.drivers[0]
        if r.random() < 0.8:
            driver.set(0x2FC, 4)
        name = r.choice(list(MESSAGES))
        words = {
            "SET_MAC": struct.unpack("<II", r.choice((mac(0), mac(0), mac(1), MAC)) + b"\0\0"),
            "SET_VLAN": (r.choice((5, 7, 5, 7, r.randrange(4096))), 0),
            "SET_LPE": (r.choice((1518, 9000, self.value())), 0),
            "NEGOTIATE": (r.choice((0, 2, 2, 1, 7)), 0),
        }.get(name, (self.value(), self.value()))
        driver.set(0x200, MESSAGES[name] | r.choice((0, 1, 1, 30, 255)) << 16 | r.choice((0,) * 9 + (1 << 31,)))
        driver.set(0x204, words[0])
        driver.set(0x208, words[1])
        driver.set(0x2FC, r.choice((1, 1, 1, 1, 2, 3, 5, 0, 0xFF)))
        if self.owned and r.random() < 0.5:
            self.host.set(0x4B00, r.choice((1, 2, 3, 8, 16, 0x1F)))
        self.host.pass_time(self.host.now + r.choice((0, INTERVAL_US * US, INTERVAL_US * US)))

    def flood(self) -> None:
        for _ in range(self.random.choice((10, 100))):
            self.drivers[0].set(0x2FC, 1)
            self.host.pass_time(self.host.now + US)
            self.serve()
        self.reached["mailbox flood"] += 1

    def table(self) -> None:
        """MSI-X."""
        r, driver = self.random, self.somebody()
        bar = 4 if driver.vf is None else 3
        at, size = r.choice((0, 4, 8, 12, 12, 16, 28, 44, 48, 0x2000, 0x2004, r.randrange(0x4000))), r.choice(SIZES)
        if r.random() < 0.5:
            assert 0 <= driver.function.read(bar, at, size) < 1 << 8 * size
        else:
            value = r.choice((0, 1, 0xFEE0_0000, self.value()))
            driver.function.write(bar, at, size, value & (1 << 8 * size) - 1)

    def in_flight(self, driver: Driver) -> bool:
        state = driver.function.state
        return state.transmit.fetch is not None or bool(state.receive.waiting)

    def configuration(self) -> None:
        r, driver = self.random, self.somebody()
        offset, size = r.choice((4, 0x72, 0xA8, 0xA8, r.randrange(4092))), r.choice((1, 2, 4))
        value = r.choice((0x8000, 0xC000, 4, self.value())) & (1 << 8 * size) - 1
        if driver.vf is None and self.owned and r.random() < 0.5:
            self.host.configure(PF, r.choice((0x168, 0x170)), r.choice((0, 9, 1, 2, 4, 0xFFFF)), 2)
            self.reached["functions switched"] += 1
            return
        if offset == 0xA8 and size > 1 and value & 0x8000:
            self.host.receive(self.any_frame())
            self.reached["function reset in flight"] += self.in_flight(driver)
        self.host.configure(driver.place, offset, value, size)
        if r.random() < 0.7:
            self.host.configure(driver.place, 4, 4 if driver.vf is not None else 6, 2)
            self.host.configure(driver.place, 0x72, 0x8000, 2)

    def software_reset(self) -> None:
        driver = self.drivers[0]
        self.host.receive(frame_to(mac(0)))
        self.reached["software reset in flight"] += self.in_flight(driver)
        driver.set(0, 1 << 26)
        self.host.written.clear()
        self.host.pass_time(self.host.now + 10 * US)
        if self.random.random() < 0.8:
            self.restart(driver)

    def take_away(self) -> None:
        """The owner takes the function away, and later gives it again."""
        if self.owner is None:
            return
        for frame in (frame_to(mac(0)), frame_to(BROADCAST)):
            self.host.receive(frame)
        self.reached["taken away in flight"] += self.in_flight(self.drivers[0])
        self.owner.take_away(0)
        self.vlans.clear()
        self.card.connect(self.never_sent)
        self.drivers[0].set(0x2018, self.random.randrange(RING))
        self.drivers[0].set(0x2FC, 1)
        heads = [ring.head for _, ring in sorted(self.card.chip.state.tx.items())]
        self.host.pass_time(self.host.now + 300 * US)
        assert heads == [ring.head for _, ring in sorted(self.card.chip.state.tx.items())], "one that is gone fetches"
        self.serve()
        self.card.connect(self.sent)
        self.give(0)

    def never_sent(self, frame: bytes, at: int) -> None:
        assert frame[6:12] != mac(0), "a function that is gone sends"

    def card_reset(self) -> None:
        """By whoever owns it all. The hostile guest may ignore it, and is silent then; the neighbour starts again."""
        if self.owner is None:
            self.host.set(0, self.random.choice((1 << 26, 1 << 3)))
            self.reached["card reset"] += 1
            return
        self.host.receive(frame_to(mac(0)))
        self.reached["card reset in flight"] += self.in_flight(self.drivers[0])
        self.owner.reset()
        self.vlans.clear()
        self.card.connect(self.never_sent)
        self.drivers[0].set(0x2018, self.random.randrange(RING))
        self.host.pass_time(self.host.now + 100 * US)
        self.card.connect(self.sent)
        for driver in self.drivers if self.random.random() < 0.8 else self.drivers[1:]:
            self.restart(driver)

    def neighbour(self) -> None:
        """The well-meaning neighbour sends, to the wire and to himself by the wire's other end."""
        if self.owner is None:
            return
        driver = self.drivers[1]
        driver.taken()
        frame = frame_to(self.random.choice((OUTSIDE, BROADCAST)), mac(1), self.random.randbytes(60))
        count = len(self.seen(frame))
        index = driver.send(frame)
        self.settle()
        assert driver.done(index), "the neighbour cannot send"
        assert len(self.seen(frame)) > count, "the neighbour's frame is lost"
        answer = frame_to(mac(1), OUTSIDE, SECRET + self.random.randbytes(40))
        got: list[bytes] = []
        for _ in range(30):  # a flood of broadcasts may take his descriptors, but never for long
            self.host.receive(answer)
            self.host.pass_time(self.host.now + US)
            got += driver.taken()
        assert answer in got, "the neighbour cannot receive"

    def snapshot(self) -> None:
        """Taken, spoilt and put back."""
        functions = self.card.chip.functions
        saved = [copy.deepcopy(function.state) for function in functions]
        for function, state in zip(functions, saved, strict=True):
            function.state = copy.deepcopy(state)
        assert [function.state for function in functions] == saved
        self.reached["snapshot"] += 1

    def healthy(self) -> None:
        """After a reset everything is in order: a well-meaning driver sends, and hears what it should."""
        host = self.host
        if self.owned:
            host.configure(PF, 0xA8, 0x8000, 2)
            host.configure(PF, 4, 6, 2)
            for table in (0x5200, 0xA000, 0xA600, 0xF100, 0xF200, 0xF400, 0x8000):  # which no reset touches
                for word in range(128 if table != 0x8000 else 64):
                    host.set(table + 4 * word, 0)
            host.virtualize(2)
            for queue in range(4):
                host.set(0x2F04, 1 << 16 | queue << 8)
        driver = self.drivers[0]
        host.configure(driver.place, 0xA8, 0x8000, 2)
        if self.owned:
            host.set(0x51E0, 3)
            host.set(0x8110, 3)
        else:
            host.pass_time(host.now + 2 * INTERVAL_US * US)
            self.serve()
        host.ram[driver.base : driver.base + SHARE] = bytes(SHARE)
        self.restart(driver)
        self.settle()
        driver.taken()
        host.interrupts.clear()
        frame = frame_to(OUTSIDE, mac(0), self.random.randbytes(60))
        index = driver.send(frame)
        self.settle()
        assert driver.done(index), "not healthy: cannot send"
        assert self.seen(frame), "not healthy: nothing on the wire"
        host.receive(frame_to(mac(0), payload=frame[14:]))
        host.pass_time(host.now + 10 * US)
        assert frame_to(mac(0), payload=frame[14:]) in driver.taken(), "not healthy: cannot receive"
        assert any(function == place(0) for function, _, _ in host.interrupts), "not healthy: no interrupt"
        self.reached["healthy"] += 1


def case(seed: int) -> Iterable[str]:
    """One card, one who means ill."""
    hostile = Hostile(seed)
    for _ in range(TRIES_A_CASE):
        hostile.step()
    return (+hostile.reached).elements()


def run(seed: int, tries: int) -> Counter[str]:
    """Cases from `seed` on. Returns how often each thing was reached."""
    reached: Counter[str] = Counter()
    for number in range(-(-tries // TRIES_A_CASE)):
        reached.update(case(seed + number))
    return reached

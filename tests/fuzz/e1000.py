"""A hostile driver for the 82540EM: the card raises nothing, writes only where it was told to, works for a bounded
time, keeps its own promises, and after a reset serves a well-meaning driver.

`case(seed)` is one card and TRIES_A_CASE acts; `run(seed, tries)` as many cases as it takes.
"""

from __future__ import annotations

import copy
import random
import struct
from collections import Counter
from collections.abc import Callable, Iterable

from hv.devices.e1000 import registers as reg
from hv.devices.e1000.nic import IO_BAR, MEMORY_BAR
from hv.devices.e1000.transmit import LONGEST_PACKET
from tests.nic_bench import EOP, IFCS, MAC, OTHER, RAM, RS, RX_RING, TX_RING, BenchSlot, NicBench, frame_to

TRIES_A_CASE = 1000
SIZES = (1, 2, 4, 8)
MOST_ACCESSES = 50_000  # of memory by one act: BATCH packets, each looped back into 64 small buffers
MOST_BYTES = 12 << 20  # moved by one act: BATCH packets of LONGEST_PACKET, out and in again
# What a statistics counter that counts says was reached.
EFFECTS = {
    "sent": reg.GPTC, "received": reg.GPRC, "multicast sent": reg.MPTC, "broadcast received": reg.BPRC,
    "no descriptors": reg.RNBC, "fifo full": reg.MPC, "runt": reg.RUC, "oversize": reg.ROC, "paused": reg.XOFFRXC,
    "resumed": reg.XONRXC, "asked to pause": reg.XOFFTXC, "asked to go on": reg.XONTXC,
    "unknown flow control": reg.FCRUC, "segmented": reg.TSCTC, "segmented badly": reg.TSCTFC,
}  # fmt: skip
TX_KINDS = ("legacy", "context", "segmentation context", "data", "segmented data", "reserved", "random")
RINGS = ("good", "outside", "in a device", "overlapping", "on itself", "empty", "huge")
EXPECTED = frozenset(
    [
        *(f"{register.name} {direction}" for register in reg.REGISTERS for direction in ("read", "write")),
        *(f"{size} bytes {direction}" for size in SIZES for direction in ("read", "write")),
        *(f"tx {kind}" for kind in TX_KINDS),
        *(f"{which} ring {shape}" for which in ("tx", "rx") for shape in RINGS),
        *EFFECTS,
        "nothing there read", "nothing there write", "io read", "io write", "reset", "healthy", "looped", "snapshot",
    ]
)  # fmt: skip


class Fence(BenchSlot):
    """Memory that knows where the card may write: its rings, and the buffer that it has just been told of."""

    def __init__(self, bench: NicBench) -> None:
        super().__init__()
        self.bench = bench
        self.accesses = self.bytes = 0
        self.buffer = 0, 0

    def _in_ring(self, low: int, address: int, size: int) -> bool:
        chip = self.bench.nic.chip
        base = chip[low + 4] << 32 | chip[low]
        return (address - base) % (1 << 64) + size <= chip[low + 8]  # a ring may go round the end of the address space

    def read(self, address: int, size: int) -> bytes:
        assert 0 <= address < 1 << 64
        self.accesses += 1
        self.bytes += size
        data = super().read(address, size)
        if size == 8 and self._in_ring(reg.RDBAL, address, 8):
            control = self.bench.nic.chip[reg.RCTL]
            room = 2048 >> (control >> 16 & 3) if not control & reg.RCTL_BSEX or not control >> 16 & 3 else 0
            self.buffer = int.from_bytes(data, "little"), room or 32768 >> (control >> 16 & 3)
        return data

    def write(self, address: int, data: bytes) -> None:
        self.accesses += 1
        self.bytes += len(data)
        start, room = self.buffer
        in_buffer = start <= address and address + len(data) <= start + room
        in_ring = any(self._in_ring(ring, address, len(data)) for ring in (reg.RDBAL, reg.TDBAL))
        super().write(address, data)
        assert in_buffer or in_ring or not data, f"{len(data)} bytes at {address:#x} were nobody's"


class Hostile:
    """One card and the driver that wishes it ill."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.reached: Counter[str] = Counter()
        self.bench = NicBench()
        self.bench.slot = self.slot = Fence(self.bench)
        self.nic = self.bench.nic
        self.nic.slot = self.slot
        self.nic.connect(self.sent)
        self.last_sent = 0
        self.acts: dict[Callable[[], None], int] = {
            self.write: 20, self.read: 15, self.ring: 8, self.descriptors: 20, self.doorbell: 20, self.frame: 25,
            self.time: 20, self.enable: 12, self.segments: 3, self.own_frame: 3, self.serial: 3,
            self.reset: 1, self.snapshot: 1, self.healthy: 1,
        }  # fmt: skip

    def sent(self, frame: bytes, at: int) -> None:
        assert 60 <= len(frame) <= LONGEST_PACKET, "no frame"
        assert at >= max(self.last_sent, self.slot.now - 10**12), "before the last one"
        self.last_sent = at

    def step(self) -> None:
        """One act, and whether all promises still hold."""
        acts, weights = zip(*self.acts.items(), strict=True)
        act = self.random.choices(acts, weights)[0]
        self.slot.accesses = self.slot.bytes = 0
        before = {name: self.nic.statistics[counter] for name, counter in EFFECTS.items()}
        act()
        self.reached.update(name for name, was in before.items() if self.nic.statistics[EFFECTS[name]] > was)
        if act != self.healthy:
            assert self.slot.accesses <= MOST_ACCESSES, "unbounded work"
            assert self.slot.bytes <= MOST_BYTES, "unbounded work"
        self.check()

    def check(self) -> None:
        chip, s = self.nic.chip, self.nic.state
        assert s.line == self.slot.level
        assert not s.line or chip[reg.ICR] & chip[reg.IMS], "an interrupt without a cause"
        waits = s.line or self.slot.now < s.quiet_until
        assert waits or not chip[reg.ICR] & chip[reg.IMS], "a cause without an interrupt"
        assert sum(map(len, s.receive_fifo)) <= 64 << 10, "the FIFO holds more than there is"
        assert len(s.packet) <= LONGEST_PACKET + 1, "a packet that never ends"
        assert all(0 <= value < 1 << 32 for value in s.registers.values())
        assert s.timers.keys() <= self.nic.timers.keys()
        assert chip.catching_up is None

    # --- acts -------------------------------------------------------------------------------------------------

    def value(self) -> int:
        """Numbers that hurt more often than others."""
        r = self.random
        return r.choice((
            0, 1, 0x80, 0xFFFF_FFFF, r.getrandbits(32), r.getrandbits(8), r.getrandbits(16), 1 << r.randrange(32), RAM,
            TX_RING, 16 * r.randrange(64),
        ))  # fmt: skip

    def place(self, direction: str) -> int:
        register = self.random.choice(reg.REGISTERS)
        offset = register.offset + register.step * self.random.randrange(register.count)
        if self.random.random() < 0.05:
            aliases = [alias for alias, real in reg.ALIASES.items() if real == offset]
            offset = self.random.choice([*aliases, self.random.randrange(128 << 10) & ~3])
        real = reg.ALIASES.get(offset, offset)
        self.reached[f"{reg.AT[real].name if real in reg.AT else 'nothing there'} {direction}"] += 1
        return offset

    def write(self) -> None:
        offset, value, size = self.place("write"), self.value(), self.random.choices(SIZES, (1, 1, 20, 1))[0]
        self.reached[f"{size} bytes write"] += 1
        if offset == reg.CTRL and self.random.random() < 0.9:
            value &= ~(reg.CTRL_RST | reg.CTRL_PHY_RST)  # else it would be in reset most of the time
        if self.random.random() < 0.05:
            self.nic.write(IO_BAR, self.random.randrange(8), size, offset)
            self.nic.write(IO_BAR, 4, size, value)
            self.reached["io write"] += 1
        else:
            at = offset + self.random.choice((0, 0, 0, 0, 0, 0, 1, 2, 3))
            self.nic.write(MEMORY_BAR, min(at, (128 << 10) - 1), size, value)

    def read(self) -> None:
        offset, size = self.place("read"), self.random.choices(SIZES, (1, 1, 10, 1))[0]
        self.reached[f"{size} bytes read"] += 1
        if self.random.random() < 0.05:
            self.nic.write(IO_BAR, 0, 4, offset)
            got = self.nic.read(IO_BAR, self.random.choice((0, 3, 4, 4, 5)), size)
            self.reached["io read"] += 1
        else:
            got = self.nic.read(MEMORY_BAR, offset + self.random.randrange(4), size)
        assert 0 <= got < 1 << 8 * size

    def ring(self) -> None:
        """A ring that is somewhere."""
        r, bench = self.random, self.bench
        which, low, good = r.choice((("tx", reg.TDBAL, TX_RING), ("rx", reg.RDBAL, RX_RING)))
        shape = r.choice((*RINGS, *["good"] * 8))
        self.reached[f"{which} ring {shape}"] += 1
        base = {
            "outside": r.choice((RAM, RAM - 16, (1 << 64) - 16, r.getrandbits(64))), "in a device": 0xFEB0_0000,
            "overlapping": TX_RING + RX_RING - good - 16 * r.randrange(8),
        }.get(shape, good)  # fmt: skip
        bench[low], bench[low + 4] = base & 0xFFFF_FFFF, base >> 32
        bench[low + 8] = {"empty": 0, "huge": 0xF_FF80}.get(shape, r.choice((128, 256, 1024)))
        bench[low + 0x10] = r.choice((0, r.randrange(8), r.getrandbits(16)))
        if shape == "on itself":
            for i in range(64):
                self.slot.ram[base + 16 * i : base + 16 * i + 8] = struct.pack("<Q", base + r.randrange(64))

    def descriptors(self) -> None:
        """A few descriptors with lengths and offsets of any kind."""
        r = self.random
        for i in range(r.choice((1, 2, 16, 64))):
            kind = r.choice(TX_KINDS)
            self.reached[f"tx {kind}"] += 1
            address = r.choice((0x1_0000 + r.randrange(0x1000), RAM - 64, 0xFEB0_0000, TX_RING, r.getrandbits(64)))
            length = r.choice((0, 1, 60, 1514, 0xFFFF, 0xF_FFFF, r.randrange(2000), r.randrange(2000)))
            command = r.getrandbits(8) & ~0x20 | (r.choice((EOP, EOP | IFCS | RS, 0)))
            low = {
                "legacy": length & 0xFFFF | r.getrandbits(8) << 16,
                "context": length | 0x20 << 24,
                "segmentation context": length | 0x24 << 24,
                "data": length | 0x20 << 24 | 1 << 20,
                "segmented data": length | 0x24 << 24 | 1 << 20,
                "reserved": length | 0x20 << 24 | r.randrange(2, 16) << 20,
                "random": r.getrandbits(32),
            }[kind]
            if kind in {"context", "data"}:
                command &= ~4
            high = r.getrandbits(32)
            if "context" in kind and r.random() < 0.8:  # one that makes sense
                address = struct.unpack("<Q", struct.pack("<BBHBBH", 14, 24, 33, 34, r.choice((40, 50)), 0))[0]
                high = r.choice((1, 2, 100, 1460, 9000, 0xFFFF)) << 16 | r.choice((0, 42, 54, 255)) << 8
            raw = struct.pack("<QII", address, low | command << 24, high)
            at = (TX_RING + 16 * i) % (RAM - 16)
            self.slot.ram[at : at + 16] = raw
        for i in range(r.choice((0, 8, 64))):
            buffer = r.choice((0x8_0000 + 0x800 * i, RAM - 100, TX_RING, 0xFEB0_0000, r.getrandbits(64), 2**64 - 1))
            self.slot.ram[RX_RING + 16 * i : RX_RING + 16 * i + 8] = struct.pack("<Q", buffer)

    def segments(self) -> None:
        """A segmentation that makes sense, from wherever the head is."""
        bench, payload = self.bench, self.random.randrange(1, 6000)
        bench[reg.TDBAL], bench[reg.TDBAH], bench[reg.TDLEN], bench[reg.TDH] = TX_RING, 0, 1024, 0
        context = struct.pack("<BBHBBH", 14, 24, 33, 34, 50, 0) + struct.pack("<I", payload | 0x27 << 24)
        self.slot.fill(TX_RING, context + struct.pack("<HH", 54 << 8, self.random.choice((1, 100, 1460, 8000))))
        command = (0x24 | EOP | IFCS | RS) << 24
        bench.put(1, 0x1_0000, payload + 54 | 1 << 20 | command, 3 << 8)
        bench[reg.TDT] = 2

    def doorbell(self) -> None:
        tail = self.random.choice((0, 1, 7, self.random.randrange(64), self.random.getrandbits(16), 0xFFFF))
        self.bench[self.random.choice((reg.TDT, reg.RDT))] = tail

    def frame(self) -> None:
        """Something from the line."""
        frame = self.any_frame()
        for _ in range(self.random.choice((1, 1, 1, 40))):
            self.nic.receive(frame, self.slot.now)

    def own_frame(self) -> None:
        """The same, sent to itself."""
        frame, bench = self.any_frame()[:2000], self.bench
        bench[reg.TCTL], bench[reg.RCTL] = 0, bench[reg.RCTL] | 1 << 6 | reg.RCTL_EN
        bench[reg.TDBAL], bench[reg.TDBAH], bench[reg.TDLEN], bench[reg.TDH], bench[reg.TDT] = TX_RING, 0, 1024, 0, 4
        self.slot.fill(0x1_0000, frame)
        for i in range(4):
            bench.put(i, 0x1_0000, len(frame) | (EOP | IFCS | RS) << 24)
        sent, given = self.nic.statistics[reg.GPTC], self.slot.ram[TX_RING : TX_RING + 64]
        bench[reg.TCTL] = reg.TCTL_EN | reg.TCTL_PSP
        for i in range(4):  # what the card writes itself
            given[16 * i + 12] = self.slot.ram[TX_RING + 16 * i + 12]
        if given == self.slot.ram[TX_RING : TX_RING + 64]:  # else the frame was received on top of its descriptors
            assert self.nic.statistics[reg.GPTC] <= sent + 8, "a frame went out more often than it was given"

    def any_frame(self) -> bytes:
        r = self.random
        destination = r.choice((MAC, MAC, b"\xff" * 6, b"\1" + MAC[1:], OTHER, bytes.fromhex("0180c2000001")))
        size = r.choice((0, 10, 46, 46, 100, 1000, 1500, 1504, 9000, 17000))
        kind = r.choice((0x0800, 0x0806, 0x8100, 0x8808, 0x86DD))
        payload = r.randbytes(min(size, 64)).ljust(size, b"\0")
        if kind == 0x0800:
            payload = struct.pack(">BBH", r.choice((0x45, 0x4F, 0x40, 0x60)), 0, r.choice((size, 20, 0))) + payload[4:]
        elif kind == 0x8808:
            payload = struct.pack(">HH", r.choice((1, 1, 1, 2)), r.choice((0, 1, 2, 0xFFFF))) + payload[4:]
        return frame_to(destination, payload, kind)

    def time(self) -> None:
        """A moment, or until the next timer."""
        r, deadline = self.random, self.nic.deadline
        if deadline is not None and r.random() < 0.5 and deadline - self.slot.now < 10**9:
            self.slot.now = max(deadline, self.slot.now)
        else:
            self.slot.now += r.choice((1, 1000, 25_000, 250_000_000))  # up to 100 us
        self.nic.advance(self.slot.now)
        deadline = self.nic.deadline
        assert deadline is None or deadline > self.slot.now, "no progress"

    def enable(self) -> None:
        """Things that a random number seldom switches on together."""
        r, bench = self.random, self.bench
        bench[reg.CTRL] = reg.CTRL_SLU | r.choice((0, reg.CTRL_VME, reg.CTRL_RFCE | reg.CTRL_TFCE))
        bench[reg.TCTL] = reg.TCTL_EN | r.choice((0, reg.TCTL_PSP, reg.TCTL_PSP | reg.TCTL_SWXOFF))
        loop = r.choice((0, 0, 0, 1 << 6))
        self.reached["looped"] += bool(loop)
        bench[reg.RCTL] = (
            reg.RCTL_EN
            | loop
            | r.choice((reg.RCTL_BAM, reg.RCTL_UPE | reg.RCTL_MPE | reg.RCTL_BAM))
            | (r.getrandbits(32) & (reg.RCTL_LPE | reg.RCTL_BSEX | 3 << 16 | reg.RCTL_SECRC | reg.RCTL_VFE | 3 << 8))
        )
        bench[reg.RXCSUM] = r.getrandbits(11)
        bench[reg.PBA] = r.choice((0, 0x30, 0x3F))
        bench[reg.FCAL], bench[reg.FCAH], bench[reg.FCT] = 0x00C2_8001, 0x0100, 0x8808
        bench[reg.FCRTH], bench[reg.FCRTL] = r.choice((0, 64, 2048)), r.choice((0, 64, 1024)) | reg.FCRTL_XONE
        for delay in (reg.ITR, reg.RDTR, reg.RADV, reg.TIDV, reg.TADV):
            bench[delay] = r.choice((0, 0, 1, 0xFFFF))

    def serial(self) -> None:
        """The EEPROM's wires and the PHY's registers."""
        for _ in range(self.random.randrange(60)):
            self.bench[reg.EECD] = self.random.getrandbits(3) | 2
        self.bench[reg.MDIC] = self.random.getrandbits(21) & ~(1 << 15) | 1 << 21 | self.random.getrandbits(2) << 26

    def reset(self) -> None:
        self.reached["reset"] += 1
        self.bench[reg.CTRL] = reg.CTRL_RST | self.random.choice((0, reg.CTRL_PHY_RST))

    def snapshot(self) -> None:
        """Everything that the card remembers is in its state."""
        self.reached["snapshot"] += 1
        self.nic.state = copy.deepcopy(self.nic.state)

    def healthy(self) -> None:
        """After a reset it sends and receives for a driver that keeps to the manual."""
        bench, mine = self.bench, frame_to(MAC, self.random.randbytes(100))
        bench[reg.CTRL] = reg.CTRL_PHY_RST
        bench[reg.CTRL] = reg.CTRL_RST
        bench.pass_time(1_000_000_000)  # at 10 Mb/s what was in the send buffer takes a while
        bench[reg.PBA] = 0x30
        bench.start_transmitter()
        bench.start_receiver(control=1 << 6 | reg.RCTL_SECRC | reg.RCTL_UPE)
        bench[reg.IMS] = reg.RXT0
        bench.transmit(mine)
        bench.pass_time(1_000_000)
        assert bench.received(0)[0] == mine, "not healthy"
        assert bench.line(), "not healthy: no interrupt"
        assert bench[reg.ICR] & reg.RXT0
        assert bench[reg.ICR] == 0
        bench[reg.RCTL] = 0
        self.reached["healthy"] += 1


def case(seed: int) -> Iterable[str]:
    """One card, one driver."""
    hostile = Hostile(seed)
    for _ in range(TRIES_A_CASE):
        hostile.step()
    return hostile.reached.elements()


def run(seed: int, tries: int) -> Counter[str]:
    """Cases from `seed` on. Returns how often each thing was reached."""
    reached: Counter[str] = Counter()
    for number in range(-(-tries // TRIES_A_CASE)):
        reached.update(case(seed + number))
    return reached

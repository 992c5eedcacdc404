"""Who has a function of an 82599 and means ill, against what the card and its owner owe to everybody else.

Even cases: a guest with virtual function 0. It writes anything anywhere: registers, rings at its neighbour, at devices
or nowhere, descriptors of any kind, messages and locks of the mailbox, resets in flight; and its owner takes the
function away. The neighbour, with function 1, and the wire must not notice: nothing forged leaves, nothing is read or
written in another's name, what is for others does not come in, work and interrupts are bounded, and both functions
serve a well-meaning driver afterwards.
Odd cases: whoever owns the whole card drives all of its functions like that. The card raises nothing, works for a
bounded time, and after a reset is as good as new.

`case(seed)` is one card and TRIES_A_CASE acts; `run(seed, tries)` as many cases as it takes.
"""

from __future__ import annotations

import copy
import random
import struct
from collections import Counter
from collections.abc import Callable, Iterable

from hv.silicon.ixgbe import registers as reg
from hv.silicon.ixgbe import statistics as stat
from hv.silicon.ixgbe.transmit import LONGEST, LONGEST_TO_CUT
from modes.sriov.nic_owner import INTERVAL_US, NicOwner
from tests.ixgbe_host import (
    BROADCAST,
    ENABLE,
    MAC,
    OUTSIDE,
    PF,
    RAM,
    RING,
    RX,
    RX_BUFFERS,
    SHARE,
    TX,
    TX_BUFFERS,
    US,
    Driver,
    Host,
    frame_to,
    mac,
    place,
)

TRIES_A_CASE = 500
AT_ONCE = 30  # registers
SIZES = (1, 2, 4, 8)
MOST_ACCESSES = 60_000  # of memory, by one act
SECRET = b"what is between others"
VIRTUAL = {
    "VTCTRL": 0, "VTSTATUS": 8, "VTLINKS": 0x10, "VTFRTIMER": 0x48, "VTEICR": 0x100, "VTEICS": 0x104, "VTEIMS": 0x108,
    "VTEIMC": 0x10C, "VTEIAC": 0x110, "VTEIAM": 0x114, "VTIVAR": 0x120, "VTIVAR_MISC": 0x140, "VTRSCINT": 0x180,
    "VFMBMEM": 0x200, "VFMAILBOX": 0x2FC, "VFPSRTYPE": 0x300, "VTEITR": 0x820, "VFRDBAL": 0x1000, "VFRDBAH": 0x1004,
    "VFRDLEN": 0x1008, "VFDCA_RXCTRL": 0x100C, "VFRDH": 0x1010, "VFSRRCTL": 0x1014, "VFRDT": 0x1018,
    "VFGPRC": 0x101C, "VFGORC": 0x1020, "VFRXDCTL": 0x1028, "VFRSCCTL": 0x102C, "VFMPRC": 0x1034, "VFTDBAL": 0x2000,
    "VFTDBAH": 0x2004, "VFTDLEN": 0x2008, "VFDCA_TXCTRL": 0x200C, "VFTDH": 0x2010, "VFTDT": 0x2018,
    "VFGPTC": 0x201C, "VFGOTC": 0x2020, "VFTXDCTL": 0x2028, "VFTDWBAL": 0x2038, "VFTDWBAH": 0x203C,
    "VT nothing": 0x3F00,
}  # fmt: skip
QUEUE = {  # of the physical function: a receive queue's, a transmit queue's
    "RDBAL": 0x1000, "RDBAH": 0x1004, "RDLEN": 0x1008, "DCA_RXCTRL": 0x100C, "RDH": 0x1010, "SRRCTL": 0x1014,
    "RDT": 0x1018, "RXDCTL": 0x1028, "RSCCTL": 0x102C, "TDBAL": 0x6000, "TDBAH": 0x6004, "TDLEN": 0x6008,
    "DCA_TXCTRL": 0x600C, "TDH": 0x6010, "TDT": 0x6018, "TXDCTL": 0x6028, "TDWBAL": 0x6038, "TDWBAH": 0x603C,
}  # fmt: skip
# What a counter of the card that counts says was reached.
EFFECTS = {
    "sent": stat.GPTC, "received": stat.GPRC, "broadcast received": stat.BPRC, "multicast sent": stat.MPTC,
    "no descriptors, dropped": stat.QPRDC, "buffer full": stat.MPC, "runt": stat.RUC, "oversize": stat.ROC,
    "forged": stat.SSVPC,
}  # fmt: skip
TX_KINDS = ("legacy", "context", "data", "segmented data", "reserved", "random")
RINGS = ("good", "at the neighbour", "outside", "in a device", "overlapping", "empty", "huge")
MESSAGES = {
    "RESET": 1, "SET_MAC": 2, "SET_MULTICAST": 3, "SET_VLAN": 4, "SET_LPE": 5, "SET_MACVLAN": 6, "NEGOTIATE": 8,
    "GET_QUEUES": 9, "unknown message": 0x55,
}  # fmt: skip
NEVER_GRANTED = ("SET_MACVLAN", "unknown message")
SELDOM_REFUSED = ("RESET", "SET_MULTICAST", "SET_VLAN")  # only if there was no RESET before
EXPECTED = frozenset(
    [
        *(f"{name} {way}" for name in (*VIRTUAL, *QUEUE, "nothing there") for way in ("read", "write")),
        *(f"{register.name} {way}" for register in reg.REGISTERS for way in ("read", "write")),
        *(f"{size} bytes {way}" for size in SIZES for way in ("read", "write")),
        *(f"tx {kind}" for kind in TX_KINDS),
        *(f"{which} ring {shape}" for which in ("tx", "rx") for shape in RINGS),
        *(f"{name} granted" for name in MESSAGES if name not in NEVER_GRANTED),
        *(f"{name} refused" for name in MESSAGES if name not in SELDOM_REFUSED),
        *EFFECTS,
        "blocked", "looped inside", "segmented", "head written back", "frame waits for descriptors", "throttled",
        "masked", "pending in MSI-X", "function reset in flight", "software reset in flight", "taken away in flight",
        "card reset", "mailbox locked", "mailbox flood", "functions switched", "snapshot", "healthy",
    ]
)  # fmt: skip


class Hostile:
    """One card. `mine` are the functions of whoever is hostile; the others belong to well-meaning ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.reached: Counter[str] = Counter()
        self.wire: list[bytes] = []
        self.host = host = Host()
        self.card = host.card
        host.card.connect(self.sent)
        self.owned = bool(seed % 2)
        self.owner: NicOwner | None = None
        self.drivers = [Driver(host, 0), Driver(host, 1)]
        if self.owned:
            host.virtualize(2)
            self.drivers.append(Driver(host))
            self.mine = list(self.drivers)
        else:
            self.owner = NicOwner(host.card, 0xF000_0000, host.bus)
            self.mine = self.drivers[:1]
        self.last_served = -(10**12)
        self.vlans: set[int] = set()  # that the guest has asked for
        for vf in range(2):
            self.give(vf)
        self.acts: dict[Callable[[], None], int] = {
            self.write: 20, self.read: 15, self.ring: 10, self.descriptors: 15, self.doorbell: 20, self.enable: 10,
            self.frames: 20, self.time: 20, self.message: 12, self.table: 3, self.segments: 3, self.send: 6,
            self.configuration: 2, self.software_reset: 1, self.flood: 1, self.take_away: 1, self.neighbour: 4,
            self.snapshot: 1, self.healthy: 1, self.card_reset: 1, self.starve: 2, self.moderate: 2,
        }  # fmt: skip

    def give(self, vf: int) -> None:
        """A function with its driver up, as its owner gives it."""
        driver = self.drivers[vf]
        if self.owner is not None:
            self.owner.give(vf, mac(vf))
        self.restart(driver)

    def restart(self, driver: Driver) -> None:
        """Everything as a driver leaves it before its first frame."""
        host = self.host
        if driver.vf is None:
            return
        host.configure(driver.place, 4, 4, 2)
        if self.owner is not None:
            driver.set(0, 1 << 26)
            driver.set(0x2FC, 0)
            driver.set(0x200, 1)
            driver.set(0x2FC, 1)
            host.pass_time(host.now + 2 * INTERVAL_US * US)
            self.serve()
        driver.rx_next = driver.tx_next = 0
        driver.start()

    def sent(self, frame: bytes, at: int) -> None:
        """On the wire."""
        self.wire.append(frame)
        assert 60 <= len(frame) <= LONGEST + 4, "no frame"
        if self.owner is not None:
            assert frame[6:12] in (mac(0), mac(1)), "a forged source address"
            if frame[12:14] == b"\x81\x00" and frame[6:12] == mac(0):
                assert int.from_bytes(frame[14:16], "big") & 0xFFF in self.vlans, "a VLAN of somebody else's"

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

    def serve(self) -> None:
        """The owner's interrupts. They keep their distance."""
        host, owner = self.host, self.owner
        told = [when for function, _, when in host.interrupts if function == PF]
        host.interrupts.clear()
        if owner is None or not told:
            return
        for when in told:
            assert when - self.last_served >= INTERVAL_US * US, "a flood of interrupts"
            self.last_served = when
        before = [(guest.messages, guest.refused) for guest in owner.state]
        words = [self.host.get(0x13000 + 64 * vf) for vf in range(2)]
        owner.service()
        for vf, (messages, refused) in enumerate(before):
            guest = owner.state[vf]
            if guest.messages == messages + 1:
                how = "refused" if guest.refused > refused else "granted"
                kinds = {number: name for name, number in MESSAGES.items()}
                self.reached[f"{kinds.get(words[vf] & 0xFFFF, 'other message')} {how}"] += 1
                if vf == 0 and how == "granted" and words[0] & 0xFFFF == MESSAGES["SET_VLAN"] and words[0] >> 16 & 0xFF:
                    self.vlans.add(self.host.get(0x13004) & 0xFFF)

    def check(self) -> None:
        """What is true at every moment."""
        chip, host = self.card.chip, self.host
        s = chip.state
        waiting = [arrival for function in chip.functions for arrival in function.state.receive.waiting]
        assert s.buffered == sum(len(arrival.frame) for arrival in waiting), "the receive buffer does not add up"
        assert s.buffered <= 512 << 10, "the receive buffer holds more than there is"
        assert all(0 <= value < 1 << 32 for value in s.registers.values())
        assert all(0 <= value < 1 << 32 for value in s.counters.values())
        for ring in s.tx.values():
            assert len(ring.packet) <= LONGEST_TO_CUT + 1, "a packet that never ends"
            self.reached["segmented"] += ring.cutting is not None
        for vf, box in s.mailboxes.items():
            assert box.owner in (0, 4, 8), "a mailbox of two"
            self.reached["mailbox locked"] += box.owner == 4 and vf == 0
        for function in chip.functions:
            i = function.state.interrupts
            if function.msix.enabled:
                late = [v for v in range(function.vectors) if i.armed & i.causes & i.mask & 1 << v]
                assert all(i.quiet.get(v, 0) > host.now for v in late), "a cause without a message"
                self.reached["throttled"] += bool(late)
                self.reached["pending in MSI-X"] += bool(function.state.msix.pending)
            self.reached["masked"] += bool(i.causes & i.armed & ~i.mask)
            stuck = function.state.receive
            self.reached["frame waits for descriptors"] += bool(stuck.waiting) and stuck.look is None
        if self.owner is not None:
            self.check_others()

    def check_others(self) -> None:
        """The neighbour and the card's owner, from whom nothing may be taken."""
        host, base = self.host, self.drivers[1].base
        assert all(function == place(0) for function, _ in host.blocked), "DMA in another's name"
        for function, address, size in host.written:
            assert function != PF, "DMA in the owner's name"
            if function == place(1):
                in_rings = base + RX <= address and address + size <= base + TX + 16 * RING
                in_buffers = base + RX_BUFFERS <= address and address + size <= base + TX_BUFFERS
                assert in_rings or in_buffers, "DMA in the neighbour's name"
        if self.random.random() < 0.05:
            assert SECRET not in host.ram[SHARE : 2 * SHARE], "what is for the neighbour came in"
        for frame in self.drivers[1].taken():
            assert frame[:6] == mac(1) or frame[0] & 1, "the neighbour got what is not for him"
            self.reached["looped inside"] += frame[6:12] == mac(0)

    # --- acts -------------------------------------------------------------------------------------------------

    def value(self) -> int:
        """Numbers that hurt more often than others."""
        r = self.random
        return r.choice((
            0, 1, 7, 0x80, ENABLE, 0xFFFF_FFFF, r.getrandbits(32), r.getrandbits(8), r.getrandbits(16),
            1 << r.randrange(32), self.mine[0].base + RX, 16 * r.randrange(64), 0x8081_8283,
        ))  # fmt: skip

    def address(self) -> int:
        """Where a ring or data might be."""
        r, mine = self.random, self.mine[0].base
        return r.choice((
            *(mine + TX_BUFFERS + r.randrange(0x4000),) * 5, mine + RX_BUFFERS + 0x800 * r.randrange(RING), mine + TX,
            mine + SHARE - 16, self.drivers[1].base + RX_BUFFERS, 0, RAM - 64, RAM, 0xFEE0_0000, 0xFEB0_0000,
            r.getrandbits(64), (1 << 64) - 8,
        ))  # fmt: skip

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

    def somebody(self) -> Driver:
        return self.random.choice(self.mine)

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

    def ring(self) -> None:
        """A ring that is somewhere."""
        r, driver = self.random, self.somebody()
        which, registers, good = r.choice((("tx", driver.tx, TX), ("rx", driver.rx, RX)))
        shape = r.choice((*RINGS, *["good"] * 8))
        self.reached[f"{which} ring {shape}"] += 1
        base = {
            "at the neighbour": self.drivers[1].base + good, "in a device": 0xFEB0_0000,
            "outside": r.choice((RAM, RAM - 16, (1 << 64) - 128, r.getrandbits(64))),
            "overlapping": driver.base + TX + RX - good + 128 * r.randrange(2),
        }.get(shape, driver.base + good)  # fmt: skip
        driver.set(registers, base & 0xFFFF_FFFF)
        driver.set(registers + 4, base >> 32)
        driver.set(registers + 8, {"empty": 0, "huge": 0xF_FF80}.get(shape, r.choice((128, 256, 1024))))
        driver.set(registers + 0x10, r.choice((0, r.randrange(8), r.getrandbits(16))))
        if which == "rx":
            form = r.choice((0, 1, 1, 1, 2, 5)) << 25
            driver.set(registers + 0x14, r.choice((2, 1, 0, 31)) | form | r.getrandbits(1) << 28)
        elif r.random() < 0.2:
            where = self.address() & ~3
            driver.set(registers + 0x38, where & 0xFFFF_FFFC | 1)
            driver.set(registers + 0x3C, where >> 32)
            self.reached["head written back"] += 1
        else:
            driver.set(registers + 0x38, 0)

    def descriptors(self) -> None:
        """A few descriptors with lengths and offsets of any kind."""
        r, driver, ram = self.random, self.somebody(), self.host.ram
        for index in range(r.choice((1, 2, RING, 64))):
            kind = r.choice(TX_KINDS)
            self.reached[f"tx {kind}"] += 1
            length = r.choice((0, 1, 14, 60, 60, 1514, 1514, 0xFFFF, r.randrange(2000)))
            command = r.choice((0x0B, 0x0B, 0x0B, 0x03, 0x02, 0x49, r.getrandbits(8) & 0x5F))
            low = {
                "legacy": length | r.getrandbits(8) << 16 | command << 24,
                "context": 1 << 29 | 2 << 20 | r.choice((0, 1, 2, 3, 4, 6)) << 10,
                "data": length | 3 << 20 | (command | 0x20) << 24,
                "segmented data": length | 3 << 20 | (command | 0xA0) << 24,
                "reserved": length | r.choice((0, 1, 4, 15)) << 20 | (command | 0x20) << 24,
                "random": r.getrandbits(32),
            }[kind]
            address, high = self.address(), r.getrandbits(32)
            if kind == "context" and r.random() < 0.8:  # one that makes sense
                address = r.choice((20, 40)) | 14 << 9 | r.choice((0, 5, 7)) << 16
                high = (
                    r.choice((0, 1, 100, 1460, 9000, 0xFFFF)) << 16
                    | r.choice((0, 8, 20, 255)) << 8
                    | r.getrandbits(1) << 4
                )
            struct.pack_into("<QII", ram, driver.base + TX + 16 * index, address, low, high)
        frames = r.choice((0, 1, 16))
        for index in range(frames):
            frame = self.any_frame(r.choice((mac(0), mac(0), mac(0), mac(1), OUTSIDE, MAC)))[:0x400]
            driver.fill(frame, 0x400 * index)
        for index in range(r.choice((0, 8, RING))):
            struct.pack_into("<QQ", ram, driver.base + RX + 16 * index, self.address(), r.getrandbits(64))

    def segments(self) -> None:
        """A packet to be cut that makes sense, from wherever the head is."""
        r, driver = self.random, self.somebody()
        head, payload = r.randrange(RING - 4), r.randrange(1, 6000)
        base = driver.base + TX
        for register, value in ((0, base), (4, 0), (8, 16 * RING), (0x10, head), (0x18, head), (0x28, ENABLE)):
            driver.set(driver.tx + register, value)
        at = driver.fill(frame_to(OUTSIDE, mac(driver.vf or 0), r.randbytes(40).ljust(40 + payload, b"\0"), 0x0800))
        struct.pack_into("<QII", self.host.ram, base + 16 * head, 20 | 14 << 9, 1 << 29 | 2 << 20 | 3 << 10,
                         r.choice((1, 100, 1460, 8000)) << 16 | 20 << 8)  # fmt: skip
        low = payload + 54 | 3 << 20 | 0xAB << 24
        struct.pack_into("<QII", self.host.ram, base + 16 * (head + 1), at, low, payload << 14 | 3 << 8)
        driver.set(driver.tx + 0x18, head + 2)
        self.host.pass_time(self.host.now + 2 * US)

    def send(self) -> None:
        """A frame that makes sense, perhaps to the neighbour or to many, perhaps in another's name."""
        r, driver = self.random, self.somebody()
        source = mac(driver.vf or 0) if r.random() < 0.8 else r.choice((mac(1), MAC))
        payload = r.randbytes(50).ljust(r.choice((50, 50, 50, 20_000)))
        frame = frame_to(r.choice((mac(1), BROADCAST, b"\1" + MAC[1:], OUTSIDE)), source, payload)
        base = driver.base + TX
        for register, value in ((0, base), (4, 0), (8, 16 * RING), (0x10, 0), (0x18, 0), (0x28, ENABLE)):
            driver.set(driver.tx + register, value)
        struct.pack_into("<QII", self.host.ram, base, driver.fill(frame), len(frame) | 0x2B3 << 20, 0)
        driver.set(driver.tx + 0x18, 1)
        self.host.pass_time(self.host.now + 3 * US)

    def doorbell(self) -> None:
        r, driver = self.random, self.somebody()
        tail = r.choice((0, 1, 7, r.randrange(64), r.getrandbits(16), 0xFFFF))
        driver.set(r.choice((driver.tx, driver.tx, driver.rx)) + 0x18, tail)
        self.host.pass_time(self.host.now + r.choice((0, US, 3 * US)))

    def enable(self) -> None:
        """Most of what random writes have switched off."""
        r, driver = self.random, self.somebody()
        for ring in (driver.rx, driver.tx):
            driver.set(ring + 0x28, r.choice((0, ENABLE, ENABLE, ENABLE | 1 << 30)))
        if driver.vf is not None:
            for register in (0x108, 0x110):
                driver.set(register, r.choice((0, 7, 7)))
            driver.set(0x120, r.choice((0x8080, 0x8180, 0x8383)))
        else:
            for offset, value in (
                (0x3000, 1), (0x4A80, 0x8100_0001), (0x5080, 7 << 8), (0x51E0, 3), (0x8110, 3), (0x11050, 3),
                (0x8220, 1), (0x51B0, r.choice((0, 1, 1, 1 << 30 | 1, 1 << 29 | 1))), (0x5818, 8),
                (0x4240, r.choice((0xC03, 0xC07, 0x8C03))), (0x900, 0x8180), (0xA00, 0x8281), (0x898, 0x4000_0030),
                (0x880, 0xFFFF_FFFF), (0x3C00, r.choice((1 << 19, 2048))),
            ):  # fmt: skip
                driver.set(offset, value)

    def starve(self) -> None:
        """No descriptors, and a lot of frames."""
        driver = self.somebody()
        for register, value in ((0, driver.base + RX), (4, 0), (8, 16 * RING), (0x10, 0), (0x18, 0), (0x28, ENABLE)):
            driver.set(driver.rx + register, value)
        driver.set(driver.rx + 0x14, 2 | 1 << 25)
        if driver.vf is None or self.owned:
            queue = 0 if driver.vf is None else 2 * driver.vf
            self.host.set(0x2F04, 1 << 16 | queue << 8 | self.random.getrandbits(1))
        frame = frame_to(mac(driver.vf) if driver.vf is not None else MAC, payload=bytes(1500))
        for _ in range(self.random.choice((1, 40, 400))):
            self.host.receive(frame)
        self.host.pass_time(self.host.now + US)

    def moderate(self) -> None:
        """Interrupts that keep their distance, or are masked in the table."""
        r, driver = self.random, self.somebody()
        if driver.vf is not None:
            driver.set(0x820, r.choice((0, 8, 0xFF8)) | r.getrandbits(1) << 31)
        bar = 4 if driver.vf is None else 3
        driver.function.write(bar, 12, 4, r.getrandbits(1))
        for _ in range(3):
            driver.set(0x104 if driver.vf is not None else 0x808, r.choice((1, 7)))

    def any_frame(self, source: bytes = OUTSIDE) -> bytes:
        r = self.random
        destination = r.choice((mac(0), mac(0), mac(1), BROADCAST, b"\1" + MAC[1:], MAC, OUTSIDE))
        size = r.choice((0, 10, 46, 46, 100, 1000, 1500, 1504, 9000, 17000))
        kind = r.choice((0x0800, 0x0806, 0x8100, 0x8808, 0x86DD))
        payload = r.randbytes(min(size, 64)).ljust(size, b"\0")
        if kind == 0x0800:
            payload = struct.pack(">BBH", r.choice((0x45, 0x4F, 0x40, 0x60)), 0, r.choice((size, 20, 0))) + payload[4:]
        elif kind == 0x8100:
            payload = struct.pack(">HH", r.choice((0, 5, 7, 0xFFFF)), 0x0800) + payload[4:]
        return frame_to(destination, source, payload, kind)

    def frames(self) -> None:
        """Something from the line."""
        frame = self.any_frame()
        if frame[:6] == mac(1):
            frame += SECRET
        for _ in range(self.random.choice((1, 1, 1, 40))):
            self.host.receive(frame)
        self.host.pass_time(self.host.now + self.random.choice((0, US)))

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
        """By whoever owns it all."""
        if self.owned:
            self.host.set(0, self.random.choice((1 << 26, 1 << 3)))
            self.reached["card reset"] += 1

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

    def settle(self) -> None:
        """Until what the line has to carry is gone."""
        self.host.pass_time(max(self.host.now, self.card.chip.state.line_free) + 10 * US)

    def seen(self, frame: bytes) -> list[bytes]:
        return [sent for sent in self.wire if sent == frame]

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

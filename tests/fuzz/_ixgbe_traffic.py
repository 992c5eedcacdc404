"""Descriptors, rings and frames of any kind, from a hostile driver and from the line."""

from __future__ import annotations

import struct

from tests.fuzz._ixgbe_card import SECRET, WatchedCard
from tests.fuzz._ixgbe_reach import RINGS, TX_KINDS
from tests.ixgbe_host import (
    BROADCAST,
    ENABLE,
    MAC,
    OUTSIDE,
    RAM,
    RING,
    RX,
    RX_BUFFERS,
    SHARE,
    TX,
    TX_BUFFERS,
    US,
    Driver,
    frame_to,
    mac,
)


class Traffic(WatchedCard):
    """Acts that make a card move data."""

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

    def somebody(self) -> Driver:
        return self.random.choice(self.mine)

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

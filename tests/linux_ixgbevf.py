"""Linux's ixgbevf, the driver of a virtual function of an 82599, played by a test (vf.c, mbx.c, ixgbevf_main.c).

The numbers are written out here once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.ixgbe_host import ENABLE, RX, TX, US, Driver, Host

CTRL, STATUS, LINKS, EICR, EICS, EIMS, EIMC, EIAC, EIAM = 0x0, 0x8, 0x10, 0x100, 0x104, 0x108, 0x10C, 0x110, 0x114
IVAR, IVAR_MISC, MEMORY, MAILBOX, PSRTYPE, EITR = 0x120, 0x140, 0x200, 0x2FC, 0x300, 0x820
REQUEST, TAKEN, OURS, MESSAGE, READ, RESETTING, HAS_RESET = 1, 2, 4, 16, 32, 64, 128
CLEARED_BY_READING = MESSAGE | READ | HAS_RESET
RESET, SET_MAC, SET_MULTICAST, SET_VLAN, SET_LPE, SET_MACVLAN, NEGOTIATE, GET_QUEUES = 1, 2, 3, 4, 5, 6, 8, 9
ACK, NACK, CTS = 1 << 31, 1 << 30, 1 << 29
VERSIONS = {"1.5": 6, "1.4": 5, "1.3": 4, "1.2": 3, "1.1": 2, "1.0": 0}
QUEUE, OTHER = 0, 1  # vectors


class Ixgbevf:
    """The driver's small steps. `serve` lets the card's owner answer what waits; `rings` are in the function's RAM."""

    def __init__(self, host: Host, rings: Driver, serve: Callable[[], object]) -> None:
        self.host, self.rings, self.serve = host, rings, serve
        self.get, self.set = self.rings.get, self.rings.set
        self.seen = 0  # bits of the mailbox that a read has cleared

    # --- the mailbox ------------------------------------------------------------------------------------------

    def mailbox(self) -> int:
        value = self.get(MAILBOX) | self.seen
        self.seen |= value & CLEARED_BY_READING
        return value

    def happened(self, bits: int) -> bool:
        found = self.mailbox() & bits
        self.seen &= ~bits
        return bool(found)

    def lock(self) -> None:
        self.set(MAILBOX, OURS)
        assert self.mailbox() & OURS

    def ask(self, *words: int) -> Sequence[int]:
        """A message; the owner is interrupted and answers."""
        self.lock()
        self.happened(MESSAGE)
        self.happened(READ)
        for at, word in enumerate(words):
            self.set(MEMORY + 4 * at, word)
        self.set(MAILBOX, REQUEST)
        self.serve()
        assert self.happened(READ)
        assert self.happened(MESSAGE)
        return self.message(len(words))

    def message(self, length: int) -> Sequence[int]:
        self.lock()
        words = [self.get(MEMORY + 4 * at) for at in range(length)]
        self.set(MAILBOX, TAKEN)
        self.serve()
        return words

    def granted(self, *words: int) -> bool:
        answer = self.ask(*words)[0]
        assert answer & 0xFFFF == words[0] & 0xFFFF
        assert answer & CTS
        return answer & (ACK | NACK) == ACK

    # --- up and down ------------------------------------------------------------------------------------------

    def stop(self) -> None:
        self.set(EIMC, 7)
        self.get(EICR)
        for queue in range(8):
            self.set(0x2028 + 0x40 * queue, 1 << 26)
            self.set(0x1028 + 0x40 * queue, 0)
            self.set(0x1014 + 0x40 * queue, 0)
        self.set(PSRTYPE, 0)

    def reset(self) -> bytes:
        """The answer is the address."""
        self.stop()
        self.set(CTRL, self.get(CTRL) | 1 << 26)
        self.get(STATUS)
        for _ in range(200):
            if self.happened(RESETTING | HAS_RESET):
                break
            self.host.pass_time(self.host.now + 5 * US)
        else:
            raise AssertionError("the physical function never resets")
        answer = self.ask(RESET, 0, 0, 0)
        assert answer[0] == RESET | ACK
        assert answer[3] == 0  # which bits of an address are its hash
        return b"".join(word.to_bytes(4, "little") for word in answer[1:3])[:6]

    def negotiate(self) -> str:
        """The newest version that both know."""
        return next(name for name, number in VERSIONS.items() if self.granted(NEGOTIATE, number))

    def open(self) -> Driver:
        """One pair of queues with vector 0; vector 1 for everything else."""
        rings = self.rings
        rings.rx_next = rings.tx_next = 0
        self.set(0x2028, 1 << 26)
        for register, value in ((0, rings.base + TX), (4, 0), (8, 256), (0x3C, 0), (0x38, 0), (0xC, 0x2200)):
            self.set(0x2000 + register, value)
        for register in (0x10, 0x18):
            self.set(0x2000 + register, 0)
        self.set(0x2028, ENABLE | 8 << 16 | 1 << 8 | 32)
        self.set(PSRTYPE, 0x1330)
        self.set(0x1028, self.get(0x1028) & ~ENABLE)
        for register, value in ((0, rings.base + RX), (4, 0), (8, 256), (0xC, 0x2020), (0x10, 0), (0x18, 0)):
            self.set(0x1000 + register, value)
        self.set(0x1014, 1 << 28 | 1 << 25 | 4 << 8 | 2)
        self.set(0x1028, ENABLE | 1 << 30)
        assert self.get(0x1028) & self.get(0x2028) & ENABLE
        for index in range(16):
            rings.give(index)
        self.set(0x1018, 15)
        for vector in (QUEUE, OTHER):
            for word, entry in enumerate((0xFEE0_0000, 0, 0x40 + vector, 0)):
                rings.function.write(3, 16 * vector + 4 * word, 4, entry)
        self.host.configure(rings.place, 0x72, 0x8000, 2)
        self.set(IVAR, 0x8080)
        self.set(EITR, 25 << 3 | 1 << 31)
        self.set(IVAR_MISC, 0x80 | OTHER)
        for register in (EIAC, EIAM, EIMS):
            self.set(register, 1 << QUEUE | 1 << OTHER)
        return rings

    def up(self) -> Driver:
        self.reset()
        self.negotiate()
        return self.open()

    # --- the watchdog -----------------------------------------------------------------------------------------

    def messages(self) -> list[int]:
        """Its vectors that have interrupted since this was last asked."""
        host = self.host
        host.pass_time()
        told = [message - 0x40 for function, message, _ in host.interrupts if function == self.rings.place]
        host.interrupts = [told for told in host.interrupts if told[0] != self.rings.place]
        return told

    def link(self) -> bool:
        """Up, and nothing has happened for which the driver would reset its function."""
        reset = self.happened(RESETTING | HAS_RESET)
        up = self.get(LINKS) & (1 << 30 | 3 << 28) == 1 << 30 | 3 << 28
        return up and not reset and bool(self.message(1)[0] & CTS)

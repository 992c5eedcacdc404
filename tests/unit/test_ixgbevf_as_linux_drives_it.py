"""A virtual function of the 82599, driven step by step as Linux's ixgbevf drives it (vf.c, mbx.c, ixgbevf_main.c).

Its partner is the hypervisor as the card's owner. The numbers are written out here once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.ixgbe_host import BROADCAST, ENABLE, OUTSIDE, RX, TX, US, Driver, frame_to, mac
from tests.owned_nic import Owned

CTRL, STATUS, LINKS, EICS, EIMS, EIMC, EIAC, EIAM = 0x0, 0x8, 0x10, 0x104, 0x108, 0x10C, 0x110, 0x114
IVAR, IVAR_MISC, MEMORY, MAILBOX, PSRTYPE, EITR = 0x120, 0x140, 0x200, 0x2FC, 0x300, 0x820
REQUEST, TAKEN, OURS, _, MESSAGE, READ, RESETTING, HAS_RESET = (1 << bit for bit in range(8))
CLEARED_BY_READING = MESSAGE | READ | HAS_RESET
RESET, SET_MAC, SET_MULTICAST, SET_VLAN, SET_LPE, SET_MACVLAN, NEGOTIATE, GET_QUEUES = 1, 2, 3, 4, 5, 6, 8, 9
ACK, NACK, CTS = 1 << 31, 1 << 30, 1 << 29
VERSIONS = {"1.5": 6, "1.4": 5, "1.3": 4, "1.2": 3, "1.1": 2, "1.0": 0}
QUEUE, OTHER = 0, 1  # vectors


class Ixgbevf:
    """The driver's small steps, on virtual function `vf`."""

    def __init__(self, owned: Owned, vf: int = 0) -> None:
        self.owned, self.vf = owned, vf
        self.rings: Driver = owned.drivers[vf]
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
        self.owned.serve()
        assert self.happened(READ)
        assert self.happened(MESSAGE)
        return self.message(len(words))

    def message(self, length: int) -> Sequence[int]:
        self.lock()
        words = [self.get(MEMORY + 4 * at) for at in range(length)]
        self.set(MAILBOX, TAKEN)
        self.owned.serve()
        return words

    def granted(self, *words: int) -> bool:
        answer = self.ask(*words)[0]
        assert answer & 0xFFFF == words[0] & 0xFFFF
        assert answer & CTS
        return answer & (ACK | NACK) == ACK

    # --- up and down ------------------------------------------------------------------------------------------

    def stop(self) -> None:
        self.set(EIMC, 7)
        self.get(0x100)
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
            self.owned.host.pass_time(self.owned.host.now + 5 * US)
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
        self.owned.host.configure(rings.place, 0x72, 0x8000, 2)
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
        host = self.owned.host
        host.pass_time()
        told = [message - 0x40 for function, message, _ in host.interrupts if function == self.rings.place]
        host.interrupts = [told for told in host.interrupts if told[0] != self.rings.place]
        return told

    def link(self) -> bool:
        """Up, and nothing has happened for which the driver would reset its function."""
        reset = self.happened(RESETTING | HAS_RESET)
        up = self.get(LINKS) & (1 << 30 | 3 << 28) == 1 << 30 | 3 << 28
        return up and not reset and bool(self.message(1)[0] & CTS)


@pytest.fixture
def vf() -> Ixgbevf:
    return Ixgbevf(Owned())


def test_probe_finds_an_address_and_a_version(vf: Ixgbevf) -> None:
    assert vf.reset() == mac(0)
    assert vf.negotiate() == "1.1"
    queues = vf.ask(GET_QUEUES, 0, 0, 0, 0)
    assert queues[0] == GET_QUEUES | ACK | CTS
    assert list(queues[1:]) == [2, 1, 0, 0]  # to send, to receive; no VLAN of the owner's; the first queue
    assert vf.link()


def test_after_its_reset_it_asks_for_what_it_had(vf: Ixgbevf) -> None:
    vf.up()
    own, other = (
        (int.from_bytes(address[:4], "little"), int.from_bytes(address[4:], "little")) for address in (mac(0), mac(1))
    )
    assert vf.granted(SET_MAC, *own)
    assert not vf.granted(SET_MAC, *other)
    assert vf.granted(SET_LPE, 1518)
    assert not vf.granted(SET_MACVLAN | 1 << 16, *other)
    assert vf.granted(SET_VLAN | 1 << 16, 7)
    assert vf.granted(SET_VLAN, 7)
    assert vf.granted(SET_MULTICAST | 1 << 16, 0x345)
    assert vf.granted(SET_MULTICAST, 0)


def test_traffic_interrupts_until_it_is_polled(vf: Ixgbevf) -> None:
    rings = vf.up()
    host = vf.owned.host
    rings.send(frame_to(OUTSIDE, mac(0)))
    assert vf.messages() == [QUEUE]
    assert host.frames == [frame_to(OUTSIDE, mac(0))]
    host.receive(frame_to(mac(0)))
    host.receive(frame_to(BROADCAST))
    assert vf.messages() == []
    assert rings.taken() == [frame_to(mac(0)), frame_to(BROADCAST)]
    vf.set(EIMS, 1 << QUEUE)
    assert vf.messages() == [QUEUE]
    vf.set(EIMS, 1 << QUEUE)
    assert vf.messages() == []
    vf.set(EICS, 1 << QUEUE)  # the watchdog looks for what hangs
    assert vf.messages() == [QUEUE]


def test_vlan_tags_are_taken_out(vf: Ixgbevf) -> None:
    rings = vf.up()
    assert vf.granted(SET_VLAN | 1 << 16, 7)
    plain = frame_to(mac(0))
    vf.owned.host.receive(plain[:12] + b"\x81\x00\x00\x07" + plain[12:])
    vf.owned.host.pass_time()
    got = rings.take()
    assert got is not None
    assert (got[0], got[1] & 8, got[3]) == (plain, 8, 7)


def test_it_hears_that_the_card_is_reset_and_starts_again(vf: Ixgbevf) -> None:
    """The owner's reset interrupts with the vector for everything else, and stays in the mailbox until it is read."""
    vf.up()
    assert vf.link()
    vf.messages()
    vf.set(EIMS, 1 << OTHER)
    vf.owned.owner.reset()
    assert set(vf.messages()) == {OTHER}  # when it begins and when it is over
    assert not vf.link()
    rings = vf.up()
    vf.owned.host.receive(frame_to(mac(0)))
    assert QUEUE in vf.messages()
    assert rings.taken() == [frame_to(mac(0))]


def test_nothing_but_a_reset_is_granted_after_the_owners(vf: Ixgbevf) -> None:
    vf.up()
    vf.owned.owner.reset()
    assert vf.ask(SET_LPE, 1518)[0] == SET_LPE | NACK
    assert vf.reset() == mac(0)
    assert vf.granted(SET_LPE, 1518)


def test_closed_it_is_silent(vf: Ixgbevf) -> None:
    rings = vf.up()
    vf.stop()
    vf.owned.host.receive(frame_to(mac(0)))
    rings.send(frame_to(OUTSIDE, mac(0)))
    assert vf.messages() == []
    assert rings.taken() == []
    assert not vf.owned.host.sent

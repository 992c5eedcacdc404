"""A virtual function of the 82599, its owner the hypervisor, as Linux's ixgbevf finds it (tests/linux_ixgbevf.py)."""

from __future__ import annotations

import struct

import pytest

from tests.ixgbe_host import BROADCAST, OUTSIDE, RX, frame_to, mac
from tests.linux_ixgbevf import (
    ACK,
    CTS,
    EIAC,
    EICR,
    EICS,
    EIMS,
    EITR,
    GET_QUEUES,
    IVAR,
    NACK,
    OTHER,
    QUEUE,
    SET_LPE,
    SET_MAC,
    SET_MACVLAN,
    SET_MULTICAST,
    SET_VLAN,
    Ixgbevf,
)
from tests.owned_nic import Owned


@pytest.fixture
def owned() -> Owned:
    return Owned()


@pytest.fixture
def vf(owned: Owned) -> Ixgbevf:
    return Ixgbevf(owned.host, owned.drivers[0], owned.serve)


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
    host = vf.host
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


def test_a_driver_without_interrupts_polls_the_causes(vf: Ixgbevf) -> None:
    """As iPXE's intelxvf: vectors are bits to be read and cleared, and what is received has descriptors of old."""
    rings = vf.up()
    host = vf.host
    host.configure(rings.place, 0x72, 0, 2)
    vf.set(EIAC, 0)
    vf.set(EITR, 0)
    vf.set(IVAR, 0x8180)  # received: bit 0, sent: bit 1
    vf.set(0x1014, 1 << 28 | 2)
    host.receive(frame_to(mac(0)))
    rings.send(frame_to(OUTSIDE, mac(0)))
    assert vf.messages() == []
    assert (vf.get(EICR), vf.get(EICR)) == (3, 0)
    length, _, status, errors = struct.unpack_from("<HHBB", host.ram, rings.base + RX + 8)
    assert (length, status & 3, errors) == (60, 3, 0)


def test_vlan_tags_are_taken_out(vf: Ixgbevf) -> None:
    rings = vf.up()
    assert vf.granted(SET_VLAN | 1 << 16, 7)
    plain = frame_to(mac(0))
    vf.host.receive(plain[:12] + b"\x81\x00\x00\x07" + plain[12:])
    vf.host.pass_time()
    got = rings.take()
    assert got is not None
    assert (got[0], got[1] & 8, got[3]) == (plain, 8, 7)


def test_it_hears_that_the_card_is_reset_and_starts_again(owned: Owned, vf: Ixgbevf) -> None:
    """The owner's reset interrupts with the vector for everything else, and stays in the mailbox until it is read."""
    vf.up()
    assert vf.link()
    vf.messages()
    vf.set(EIMS, 1 << OTHER)
    owned.owner.reset()
    assert set(vf.messages()) == {OTHER}  # when it begins and when it is over
    assert not vf.link()
    rings = vf.up()
    vf.host.receive(frame_to(mac(0)))
    assert QUEUE in vf.messages()
    assert rings.taken() == [frame_to(mac(0))]


def test_nothing_but_a_reset_is_granted_after_the_owners(owned: Owned, vf: Ixgbevf) -> None:
    vf.up()
    owned.owner.reset()
    assert vf.ask(SET_LPE, 1518)[0] == SET_LPE | NACK
    assert vf.reset() == mac(0)
    assert vf.granted(SET_LPE, 1518)


def test_closed_it_is_silent(vf: Ixgbevf) -> None:
    rings = vf.up()
    vf.stop()
    vf.host.receive(frame_to(mac(0)))
    rings.send(frame_to(OUTSIDE, mac(0)))
    assert vf.messages() == []
    assert rings.taken() == []
    assert not vf.host.sent

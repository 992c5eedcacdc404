"""The hypervisor as the owner of an 82599, asked through the mailbox as Linux's ixgbevf asks (its message numbers)."""

from __future__ import annotations

import pytest

from modes.sriov.nic_owner import INTERVAL_US
from tests.ixgbe_host import BROADCAST, OUTSIDE, PF, US, frame_to, mac, place
from tests.owned_nic import Owned

RESET, SET_MAC, SET_MULTICAST, SET_VLAN, SET_LPE, SET_MACVLAN, NEGOTIATE, GET_QUEUES = 1, 2, 3, 4, 5, 6, 8, 9
ACK, NACK, CTS = 1 << 31, 1 << 30, 1 << 29


@pytest.fixture
def owned() -> Owned:
    return Owned()


def test_a_reset_is_answered_with_the_address(owned: Owned) -> None:
    answer = owned.ask(0, RESET)
    assert answer[0] == RESET | ACK
    assert b"".join(word.to_bytes(4, "little") for word in answer[1:3])[:6] == mac(0)
    assert answer[3] == 0  # hash of multicast addresses: bits 47:36


def test_nothing_is_granted_before_a_reset(owned: Owned) -> None:
    assert owned.ask(0, NEGOTIATE, 0)[0] == NEGOTIATE | NACK
    owned.ask(0, RESET)
    assert owned.ask(0, NEGOTIATE, 0)[0] == NEGOTIATE | ACK | CTS


def test_nothing_is_sent_or_received_before_a_reset(owned: Owned) -> None:
    driver = owned.drivers[0]
    driver.start()
    driver.send(frame_to(OUTSIDE, mac(0)))
    owned.host.receive(frame_to(mac(0)))
    owned.host.pass_time()
    assert not owned.host.sent
    assert driver.take() is None
    owned.start(0)
    owned.host.receive(frame_to(mac(0)))
    owned.host.receive(frame_to(BROADCAST))
    owned.host.pass_time()
    assert len(driver.taken()) == 2


def test_versions(owned: Owned) -> None:
    owned.ask(0, RESET)
    assert owned.ask(0, GET_QUEUES)[0] & NACK
    for version, granted in ((2, True), (0, True), (1, False), (3, False), (2, True)):
        assert bool(owned.ask(0, NEGOTIATE, version)[0] & ACK) == granted
    answer = owned.ask(0, GET_QUEUES)
    assert answer[0] & ACK
    assert answer[1:5] == [2, 1, 0, 0]


def test_a_foreign_address_is_refused(owned: Owned) -> None:
    owned.ask(0, RESET)
    for vf, granted in ((1, False), (0, True)):
        low, high = int.from_bytes(mac(vf)[:4], "little"), int.from_bytes(mac(vf)[4:], "little")
        assert bool(owned.ask(0, SET_MAC, low, high)[0] & ACK) == granted
    assert owned.ask(0, SET_MACVLAN | 1 << 16, 0, 0)[0] & NACK
    assert owned.ask(0, 0x7777)[0] & NACK


def test_multicast_by_hash(owned: Owned) -> None:
    driver = owned.start(0)
    group = bytes.fromhex("01005e00abcd")
    owned.host.receive(frame_to(group))
    owned.host.pass_time()
    assert driver.take() is None
    owned.ask(0, SET_MULTICAST | 1 << 16, group[4] >> 4 | group[5] << 4)
    owned.host.receive(frame_to(group))
    owned.host.pass_time()
    assert len(driver.taken()) == 1


def test_vlans_come_and_go(owned: Owned) -> None:
    one, other = owned.start(0), owned.start(1)
    frame = frame_to(BROADCAST, mac(0))
    tagged = frame[:12] + b"\x81\x00\x00\x09" + frame[12:]
    one.send(tagged)
    owned.host.pass_time()
    assert not owned.host.sent  # he is not in it
    for vf in (0, 1):
        assert owned.ask(vf, SET_VLAN | 1 << 16, 9)[0] & ACK
    one.send(tagged)
    owned.host.pass_time()
    assert owned.host.frames == other.taken() == [tagged]
    assert owned.ask(1, SET_VLAN, 9)[0] & ACK
    one.send(tagged)
    owned.host.pass_time()
    assert other.taken() == []
    granted = [owned.ask(1, SET_VLAN | 1 << 16, vlan)[0] & ACK for vlan in range(100, 164)]
    assert granted == [ACK] * 63 + [0]  # the table has 64 places
    owned.ask(1, RESET)
    assert owned.ask(0, SET_VLAN | 1 << 16, 100)[0] & ACK


def test_long_frames(owned: Owned) -> None:
    owned.ask(0, RESET)
    assert owned.ask(0, SET_LPE, 9000)[0] & ACK
    assert owned.host.get(0x4268) >> 16 == 9000
    assert owned.host.get(0x4240) & 4
    assert owned.ask(0, SET_LPE, 1500)[0] & ACK
    assert owned.host.get(0x4268) >> 16 == 9000
    assert owned.ask(0, SET_LPE, 1 << 20)[0] & NACK


def test_a_flood_of_messages_interrupts_at_a_bounded_rate(owned: Owned) -> None:
    host, driver = owned.host, owned.drivers[0]
    interrupts = 0
    end = host.now + (10 * INTERVAL_US - 1) * US
    while host.now < end:
        driver.set(0x200, RESET)
        driver.set(0x2FC, 1)
        host.pass_time(host.now + US)
        if any(function == PF for function, _, _ in host.interrupts):
            interrupts += 1
            owned.owner.service()
        host.interrupts.clear()
    assert interrupts == 10
    assert owned.owner.state[0].messages == 10


def test_a_guest_that_holds_the_mailbox_gets_no_more_than_the_others(owned: Owned) -> None:
    driver = owned.drivers[0]
    owned.start(1)
    driver.set(0x2FC, 4)
    driver.set(0x200, RESET)
    driver.set(0x2FC, 5)  # a message, and it keeps the lock
    assert owned.serve() == 1
    assert driver.get(0x200) == RESET | ACK
    assert owned.ask(1, NEGOTIATE, 2)[0] & ACK


def test_a_function_level_reset_stops_the_function(owned: Owned) -> None:
    driver = owned.start(0)
    owned.ask(0, SET_VLAN | 1 << 16, 9)
    driver.send(frame_to(OUTSIDE, mac(0)))
    owned.host.configure(place(0), 0xA8, 0x8000, 2)
    owned.serve()
    assert not owned.host.sent
    assert not owned.owner.state[0].ready
    assert owned.host.get(0xF100) == 0  # and out of its VLANs
    owned.host.configure(place(0), 4, 4, 2)
    driver.tx_next = driver.rx_next = 0
    owned.start(0)
    driver.send(frame_to(OUTSIDE, mac(0)))
    owned.host.pass_time()
    assert owned.host.frames == [frame_to(OUTSIDE, mac(0))]


def test_a_function_that_is_taken_away_is_silent_and_deaf(owned: Owned) -> None:
    driver = owned.start(0)
    driver.send(frame_to(OUTSIDE, mac(0)))
    owned.owner.take_away(0)
    owned.host.receive(frame_to(mac(0)))
    owned.post(0, RESET)
    owned.serve()
    assert not owned.host.sent
    assert driver.take() is None
    assert owned.host.get(0x51E0) == owned.host.get(0x8110) == 0
    assert owned.drivers[0].get(0x200) == RESET  # not answered

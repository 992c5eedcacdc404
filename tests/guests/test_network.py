"""The guest's network stack with others than the embedded peer at the wire, polite ones and rude ones."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest

from hv.costs import CostModel
from hv.host.peer import internet_checksum
from hv.loader import Guest
from hv.mode import find_modes
from hv.neighbours import ethernet_address
from hv.silicon.x86_64.machine import Idle
from hv.table import machine_modes
from hv.vm import Vm
from tests.ec2_table.measuring import row_named

GUEST_IP, OUR_IP = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 99))
NIC = ethernet_address(0)
OURS = bytes.fromhex("026876000063")
ARP_HEADER = bytes.fromhex("000108000604")


class Stranger:
    """A host at another port of the switch, while the guest sleeps at its prompt."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.got: list[bytes] = []
        assert isinstance(vm.run(), Idle)
        assert vm.outside.wire is not None
        self.send = vm.outside.wire.plug_card(lambda frame, at: self.got.append(frame))

    def ask(self, frame: bytes) -> list[bytes]:
        """Send, and let the guest run until it sleeps again."""
        self.send(frame.ljust(60, b"\0"), self.vm.now)
        self.vm.machine.cpus[0].host_interrupt = True  # it comes from outside: a physical interrupt
        assert isinstance(self.vm.run(), Idle)
        answers, self.got[:] = list(self.got), []
        return answers

    def arp(self) -> list[bytes]:
        return self.ask(b"\xff" * 6 + OURS + b"\x08\x06" + ARP_HEADER + b"\0\1" + OURS + OUR_IP + bytes(6) + GUEST_IP)

    def ip(self, protocol: int, payload: bytes) -> list[bytes]:
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + OUR_IP + GUEST_IP
        header = header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:]
        return self.ask(NIC + OURS + b"\x08\x00" + header + payload)


@pytest.fixture(params=["nitro+net=VS", "emulated"])
def stranger(request: pytest.FixtureRequest, guest: Guest, costs: CostModel) -> Iterator[Stranger]:
    vm = Vm(machine_modes(row_named(request.param), find_modes()), guest, costs)
    yield Stranger(vm)
    vm.close()


def echo_request(size: int) -> bytes:
    message = b"\x08\x00\x00\x00\x12\x34\x00\x01" + random.Random(size).randbytes(size)
    return message[:2] + internet_checksum(message).to_bytes(2, "big") + message[4:]


def test_the_sleeping_guest_answers_arp_and_ping(stranger: Stranger) -> None:
    (answer,) = stranger.arp()
    assert answer[:42] == OURS + NIC + b"\x08\x06" + ARP_HEADER + b"\0\2" + NIC + GUEST_IP + OURS + OUR_IP
    for size in (0, 1, 56, 1471, 1472):
        request = echo_request(size)
        (answer,) = stranger.ip(1, request)
        packet = answer[14:]
        assert internet_checksum(packet[:20]) == 0
        assert packet[12:20] == GUEST_IP + OUR_IP
        reply = packet[20 : 28 + size]
        assert (reply[0], reply[4:], internet_checksum(reply)) == (0, request[4:], 0)


def test_the_guest_survives_what_is_no_packet(stranger: Stranger) -> None:
    """Random bytes behind headers that are right as far as they go, and headers cut short."""
    chance = random.Random(1)
    stranger.arp()
    for _ in range(60):
        junk = chance.randbytes(chance.choice((0, 3, 8, 20, 28, 200, 1480)))
        kind = chance.choice((b"\x08\x00", b"\x08\x06", b"\x86\xdd"))
        stranger.ask(NIC + OURS + kind + junk)
        stranger.ip(chance.choice((1, 17, 6)), junk[:1480])
    stranger.arp()
    assert len(stranger.ip(1, echo_request(56))) == 1


def test_more_frames_than_buffers_come_in_and_the_guest_goes_on(stranger: Stranger) -> None:
    stranger.arp()
    frame = NIC + OURS + b"\x88\xb5" + bytes(46)
    for _ in range(400):
        stranger.send(frame, stranger.vm.now)
    assert len(stranger.ip(1, echo_request(56))) == 1

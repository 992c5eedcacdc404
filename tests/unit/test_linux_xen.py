"""Linux's front ends (xen_guest.py) against domain 0: what they read, write and check, from the probe to the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hv.host.store import SECTOR
from hv.silicon.ethernet.frames import checksum
from tests.split_rig import MAC
from tests.store_rig import RESET_WATCHES, RM, WATCH
from tests.xen_guest import CLOSED, CLOSING, CONNECTED, INIT_WAIT, INITIALISING, PAGE, BlockFront, Guest, NetFront

PEER = bytes.fromhex("0268760000fe")
READ, WRITE, BARRIER, FLUSH, DISCARD = 0, 1, 2, 3, 5


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.zero.destroy()
    assert not guest.domain.grants.s.uses
    guest.check()


def ping(size: int) -> bytes:
    return PEER + MAC + b"\x08\x00" + bytes(i % 251 for i in range(size - 14))


def udp_without_checksum() -> bytes:
    """A datagram whose checksum field has the pseudo header's sum, as a stack leaves it to the card."""
    data = b"checksum me"
    length = 8 + len(data)
    address = bytes([10, 0, 2, 15, 10, 0, 2, 2])
    pseudo = ~checksum(address + bytes([0, 17]) + length.to_bytes(2, "big")) & 0xFFFF
    header = bytes([0x45, 0]) + (20 + length).to_bytes(2, "big") + bytes([0, 0, 0, 0, 64, 17, 0, 0]) + address
    datagram = bytes([0, 7, 0, 7]) + length.to_bytes(2, "big") + pseudo.to_bytes(2, "big") + data
    return PEER + MAC + b"\x08\x00" + header + datagram


# --- xenbus -----------------------------------------------------------------------------------------------------------


def test_what_the_kernel_looks_for_before_any_device(guest: Guest) -> None:
    if guest.number("control/platform-feature-xs_reset_watches"):
        assert guest.ask(RESET_WATCHES, b"\0") == b"OK\0"
    for path in ("device", "control/shutdown", "control/sysrq", "memory/target", "cpu"):
        guest.events.clear()
        assert guest.ask(WATCH, f"{path}\0w\0".encode()) == b"OK\0"
        assert guest.events == [(path.encode(), b"w")]
    for name in ("poweroff", "reboot", "suspend"):
        assert guest.write(f"control/feature-{name}".encode(), b"1") == b"OK\0"
    assert guest.number("memory/static-max") >= guest.number("memory/target") > 0
    assert guest.text("cpu/0/availability") == "online"
    assert guest.number("domid") == 1
    assert guest.text((guest.text("vm") or "") + "/uuid")
    for mine in (b"data/report", b"attr/os/name", b"feature/x", b"error/device/vif/0/error"):
        assert guest.write(mine, b"2 text") == b"OK\0"
    for theirs in (b"memory/target", b"name", b"control/platform-feature-xs_reset_watches", b"cpu/0/availability"):
        assert guest.write(theirs, b"1") == b"!EACCES"


def test_a_request_to_power_off(guest: Guest) -> None:
    guest.ask(WATCH, b"control/shutdown\0w\0")
    guest.events.clear()
    guest.zero.store.write("/local/domain/1/control/shutdown", "poweroff")
    guest.take_bytes()
    assert guest.replies() == []
    assert guest.events == [(b"control/shutdown", b"w")]
    assert guest.text("control/shutdown") == "poweroff"
    guest.change("control", {"shutdown": ""})  # heard
    assert guest.zero.store.read("/local/domain/1/control/shutdown") == ""


@pytest.mark.parametrize("front", [NetFront, BlockFront])
def test_a_kernel_that_finds_a_device_in_use_closes_it_first(guest: Guest, front: type[NetFront | BlockFront]) -> None:
    """A crash kernel's way: the front end before it could not say goodbye."""
    old = front(guest)
    old.connect()
    for say, wanted in ((CLOSING, CLOSING), (CLOSED, CLOSED), (INITIALISING, INIT_WAIT)):
        old.switch_and_hear(say, wanted)
    guest.ask(RESET_WATCHES, b"\0")
    new = front(guest)
    new.connect()
    assert new.other_state == CONNECTED
    new.remove()


def test_a_front_end_that_says_connected_at_once(guest: Guest) -> None:
    """Mini-OS's way (blkfront.c): it goes through no Initialised, and leaves by Initialising."""
    front = BlockFront(guest)
    ring, ref = guest.new_ring(112, 32)
    assert ring.requests == 0
    guest.change(front.node, {"ring-ref": ref, "event-channel": front.new_port(), "protocol": "x86_64-abi", "state": 4})
    assert front.other_state == CONNECTED
    assert guest.text(f"{front.other}/mode") == "w"
    for say, wanted in ((CLOSING, CLOSING), (CLOSED, CLOSED), (INITIALISING, INIT_WAIT)):
        front.switch_and_hear(say, wanted)
    guest.end_grant(ref)
    for name in ("ring-ref", "event-channel"):
        assert guest.ask(RM, f"{front.node}/{name}\0".encode()) == b"OK\0"


def test_a_directory_that_the_front_end_removes(guest: Guest) -> None:
    front = NetFront(guest)
    front.connect()
    guest.ask(RM, front.node.encode() + b"\0")
    assert front.other_state == CLOSED


# --- netfront ---------------------------------------------------------------------------------------------------------


def test_packets_both_ways(guest: Guest) -> None:
    front = NetFront(guest)
    front.connect()
    assert front.mac == MAC
    assert (front.scatter, front.checksums, front.large) == (1, True, [0, 0])
    front.fill(32)
    front.transmit([ping(100)], 40)
    whole = ping(1000)
    front.transmit([whole[:300], whole[300:302], whole[302:]])
    front.transmit([udp_without_checksum()], blank=True)
    guest.advance()
    assert front.told()
    assert front.collect() == [0] * 5
    assert not front.pending
    assert guest.sent[:2] == [ping(100), whole]
    datagram = guest.sent[2][34:53]
    pseudo = guest.sent[2][26:34] + bytes([0, 17, 0, 19])
    assert checksum(pseudo + datagram) == 0
    for size in (60, 1514):
        guest.send_frame(MAC + PEER + b"\x08\x00" + bytes(size - 14), guest.vm.now)
    guest.advance()
    assert front.told()
    assert list(map(len, front.receive())) == [60, 1514]
    front.fill(2)
    front.remove()


def test_a_network_card_goes_and_comes_again(guest: Guest) -> None:
    for _ in range(3):
        guest.next_frame, guest.next_ref = 50, 16
        guest.ask(RESET_WATCHES, b"\0")
        front = NetFront(guest)
        front.connect()
        front.fill(4)
        front.transmit([ping(64)])
        guest.advance()
        assert front.collect() == [0]
        front.remove()
        front.switch(INITIALISING)  # the device is there for the next driver


def test_more_queues_than_there_are_is_an_error(guest: Guest) -> None:
    front = NetFront(guest)
    front.switch(INITIALISING)
    _, tx = guest.new_ring(12, 256)
    _, rx = guest.new_ring(8, 256)
    port = front.new_port()
    guest.change(front.node, {
        "multi-queue-num-queues": 2, "request-rx-copy": 1, "tx-ring-ref": tx, "rx-ring-ref": rx, "event-channel": port,
    })  # fmt: skip
    front.switch_and_hear(CONNECTED, CLOSING)
    guest.end_grant(tx)
    assert (guest.zero.store.read("/local/domain/0/error/backend/vif/1/0/error") or "").startswith("22 ")


# --- blkfront ---------------------------------------------------------------------------------------------------------


def test_a_disk(guest: Guest) -> None:
    front = BlockFront(guest)
    front.connect()
    assert (front.sectors, front.info, front.sector_size, front.physical_size) == (4096, 0, 512, 512)
    assert front.features == {"flush-cache"}
    frames = [guest.new_frame() for _ in range(11)]
    for frame in frames:
        guest.page_write(frame, 0, bytes([frame]) * PAGE)
    write = front.ask(WRITE, 64, frames)
    assert front.go() == {write: 0}
    assert front.told()
    assert guest.disk.read(64, 88) == b"".join(bytes([frame]) * PAGE for frame in frames)
    flush = front.ask(FLUSH, 0, [])
    short = front.ask(READ, 65, frames[:1], last=2)
    assert front.go() == {flush: 0, short: 0}
    assert guest.page_read(frames[0], 0, 3 * SECTOR) == guest.disk.read(65, 3)
    refused = {front.ask(operation, 0, []): -2 for operation in (BARRIER, DISCARD)}
    behind = front.ask(READ, 4095, frames[:1])
    assert front.go() == {**refused, behind: -1}
    front.remove()


def test_a_disk_works_until_its_front_end_is_closed(guest: Guest) -> None:
    """A system that goes down says Closing for all its devices, while the last blocks may still be on their way."""
    front = BlockFront(guest)
    front.connect()
    front.switch_and_hear(CLOSING, CLOSING)
    frame = guest.new_frame()
    guest.page_write(frame, 0, b"last" * 1024)
    assert front.go() == {}
    write, flush = front.ask(WRITE, 8, [frame]), front.ask(FLUSH, 0, [])
    assert front.go() == {write: 0, flush: 0}
    assert guest.disk.read(8, 1)[:4] == b"last"
    front.switch_and_hear(CLOSED, CLOSED)
    guest.end_grant(front.ring_ref)


def test_both_devices_at_once(guest: Guest) -> None:
    disk, net = BlockFront(guest), NetFront(guest)
    disk.connect()
    net.connect()
    frame = guest.new_frame()
    read = disk.ask(READ, 0, [frame])
    net.transmit([ping(64)])
    assert disk.go() == {read: 0}
    assert net.collect() == [0]
    net.remove()
    assert disk.other_state == CONNECTED
    disk.remove()

"""The 82599 as its data sheet describes it: frames between the wire and the functions' queues, and interrupts."""

from __future__ import annotations

import copy

import pytest

from tests.ixgbe_host import BROADCAST, ENABLE, MAC, OUTSIDE, PF, READ, US, Driver, Host, frame_to, mac, place


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def two(host: Host) -> tuple[Host, Driver, Driver]:
    """A card with two virtual functions whose drivers are up."""
    host.virtualize(2)
    drivers = Driver(host, 0), Driver(host, 1)
    for driver in drivers:
        driver.start()
    return host, *drivers


def test_the_physical_function_sends_and_receives(host: Host) -> None:
    driver = Driver(host)
    driver.start_card()
    frame = frame_to(OUTSIDE, MAC)
    index = driver.send(frame)
    host.pass_time()
    assert host.frames == [frame]
    assert driver.done(index)
    host.receive(frame_to(MAC))
    host.pass_time()
    got = driver.take()
    assert got is not None
    assert (got[0], got[1] & 3) == (frame_to(MAC), 3)
    assert [(function, message) for function, message, _ in host.interrupts] == [(PF, 0x40)] * 2


def test_a_frame_leaves_when_descriptor_and_data_are_fetched_and_the_line_has_carried_it(host: Host) -> None:
    driver = Driver(host)
    driver.start_card()
    driver.send(frame_to(OUTSIDE, MAC, b"y" * 1486))
    host.pass_time()
    line = (1500 + 24) * US * 8 // 10_000
    assert host.sent[0][1] == 2 * READ + line


def test_frames_for_others_do_not_come_in(host: Host) -> None:
    driver = Driver(host)
    driver.start_card()
    host.receive(frame_to(mac(7)))
    host.pass_time()
    assert driver.take() is None
    host.set(0x5080, 1 << 9)  # unicast promiscuous
    host.receive(frame_to(mac(7)))
    host.pass_time()
    got = driver.take()
    assert got is not None
    assert got[1] & 0x80  # passed no exact filter


def test_virtual_functions_reach_the_wire_and_each_other(two: tuple[Host, Driver, Driver]) -> None:
    host, one, other = two
    one.send(frame_to(OUTSIDE, mac(0)))
    one.send(frame_to(mac(1), mac(0)))
    host.pass_time()
    assert host.frames == [frame_to(OUTSIDE, mac(0))]
    got = other.take()
    assert got is not None
    assert got[0] == frame_to(mac(1), mac(0))
    assert got[1] >> 18 & 1  # it came from inside
    assert other.take() is None
    assert one.take() is None


def test_a_broadcast_goes_to_the_wire_and_to_everybody_but_its_sender(two: tuple[Host, Driver, Driver]) -> None:
    host, one, other = two
    frame = frame_to(BROADCAST, mac(0))
    one.send(frame)
    host.pass_time()
    assert host.frames == [frame]
    assert other.taken() == [frame]
    assert one.taken() == []
    host.receive(frame_to(BROADCAST))
    host.pass_time()
    assert one.taken() == other.taken() == [frame_to(BROADCAST)]


def test_a_forged_source_address_is_dropped_and_counted(two: tuple[Host, Driver, Driver]) -> None:
    host, one, other = two
    index = one.send(frame_to(mac(1), mac(1)))
    one.send(frame_to(OUTSIDE, mac(1)))
    host.pass_time()
    assert one.done(index)
    assert host.frames == []
    assert other.taken() == []
    assert (host.get(0x8780), host.get(0x8780)) == (2, 0)


def test_each_function_interrupts_with_its_own_vectors(two: tuple[Host, Driver, Driver]) -> None:
    host, one, _ = two
    one.send(frame_to(mac(1), mac(0)))
    host.pass_time()
    assert [(function, message) for function, message, _ in host.interrupts] == [(place(0), 0x40), (place(1), 0x40)]


def test_throttled_interrupts_keep_their_distance(two: tuple[Host, Driver, Driver]) -> None:
    host, one, _ = two
    one.set(0x820, 50 << 3 | 1 << 31)  # 100 us
    for _ in range(3):
        host.receive(frame_to(mac(0)))
        host.pass_time(host.now + 30 * US)
    host.pass_time()
    times = [when for function, _, when in host.interrupts if function == place(0)]
    assert len(times) == 2
    assert times[1] - times[0] == 100 * US


def test_a_masked_cause_waits_for_being_unmasked(two: tuple[Host, Driver, Driver]) -> None:
    host, one, _ = two
    one.set(0x10C, 1)
    host.receive(frame_to(mac(0)))
    host.pass_time()
    assert not host.interrupts
    assert one.get(0x104) & 1
    one.set(0x108, 1)
    assert [message for _, message, _ in host.interrupts] == [0x40]


def test_dma_stays_in_the_memory_of_the_function_that_asked(two: tuple[Host, Driver, Driver]) -> None:
    host, one, other = two
    one.put(other.base, 64 | 3 << 20 | 0x2B << 24, 64 << 14)
    one.ring()
    host.pass_time()
    assert host.blocked == [(place(0), other.base)]
    assert all(function == place(0) for function, _, _ in host.written)


def test_the_mailbox_carries_messages_both_ways(two: tuple[Host, Driver, Driver]) -> None:
    host, one, _ = two
    one.set(0x2FC, 4)  # ours
    assert one.get(0x2FC) & 4
    one.set(0x200, 0x1234)
    one.set(0x2FC, 1)  # there is a message; this frees it, too
    assert host.get(0x710) == 1
    host.set(0x4B00, 8)
    assert host.get(0x4B00) == 8
    one.set(0x2FC, 4)
    assert one.get(0x2FC) & 0xC == 8  # not ours
    assert host.get(0x13000) == 0x1234
    host.set(0x13000, 0x5678)
    host.set(0x4B00, 3)
    assert one.get(0x2FC) & 0x3C == 0x30
    assert one.get(0x2FC) & 0x3C == 0
    assert one.get(0x200) == 0x5678
    assert [(function, message) for function, message, _ in host.interrupts] == [(place(0), 0x41)]


def test_a_reset_virtual_function_is_silent_until_its_owner_lets_it_go_on(two: tuple[Host, Driver, Driver]) -> None:
    host, one, _ = two
    host.configure(place(0), 0xA8, 0x8000, 2)
    assert host.get(0x600) == 1
    host.set(0x700, 1)
    assert host.get(0x600) == 0
    host.configure(place(0), 4, 4, 2)
    one.start()
    one.tx_next = 0
    one.send(frame_to(OUTSIDE, mac(0)))
    host.pass_time()
    assert host.frames == []
    host.set(0x51E0, 3)
    host.set(0x8110, 3)
    host.pass_time()
    assert host.frames == [frame_to(OUTSIDE, mac(0))]


def test_the_eeprom_is_as_its_checksum_says(host: Host) -> None:
    def word(at: int) -> int:
        host.set(0x10014, at << 2 | 1)
        value = host.get(0x10014)
        assert value & 2
        return value >> 16

    total = sum(word(at) for at in range(0x40))
    for pointer in map(word, range(3, 0xF)):
        if pointer not in (0, 0xFFFF):
            total += sum(word(pointer + 1 + i) for i in range(word(pointer)))
    assert total & 0xFFFF == 0xBABA


def test_what_a_driver_looks_for_when_it_starts(host: Host) -> None:
    host.set(0, 1 << 2)  # no requests as bus master any more
    assert not host.get(8) >> 19 & 1
    host.set(0, 1 << 26 | 1 << 3)
    assert not host.get(0) & (1 << 26 | 1 << 3)
    assert host.get(8) >> 19 & 1
    assert host.get(0x42A4) & 0x7000_0000 == 0x7000_0000  # link up, 10 Gb/s
    assert host.get(0x10010) & 0x300 == 0x300  # an EEPROM, read
    assert (host.get(0x10140) & 1, host.get(0x10140) & 1) == (0, 1)  # a semaphore
    host.set(0x10140, 2)
    assert host.get(0x10140) & 3 == 2
    assert host.get(0x2F00) & 8  # receive memory is initialized
    assert host.get(0x5400).to_bytes(4, "little") + host.get(0x5404).to_bytes(4, "little")[:2] == MAC
    host.set(0x1028, ENABLE)
    assert host.get(0x1028) & ENABLE
    host.now += 5 * US
    assert host.get(0x48) == 5


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0x0, 0), (0x18, 0), (0x200, 0x0504_8100), (0x880, 0), (0x898, 0), (0x2100, 0x402), (0x113C, 0), (0x1154, 0x402),
     (0x2200, 0x3200), (0x2F00, 0x0010_8808), (0x3000, 0), (0x3C00, 0x8_0000), (0x3C1C, 0x8_0000),
     (0x4240, 0x0801_2C0B), (0x4268, 0x05EE_0000), (0x4900, 0x00C0_0000), (0x4950, 0x96), (0x4954, 0), (0x5080, 0),
     (0x5088, 0x8100), (0x6028, 0), (0x8100, 0x10), (0xCC00, 0x2_8000), (0xCC1C, 0x2_8000), (0xCD00, 0x8900_0000)],
)  # fmt: skip
def test_registers_after_a_reset(host: Host, offset: int, value: int) -> None:
    """As the data sheet prints them; DMAIDONE, bit 3 of 0x2F00, when the chip has initialized itself."""
    host.set(0, 1 << 26)
    assert host.get(offset) == value


@pytest.mark.parametrize(("offset", "other"), [(0x5400, 0xA200), (0x5818, 0xEC80), (0x5C7C, 0xEB7C), (0x5480, 0xEA00)])
def test_some_registers_have_two_places(host: Host, offset: int, other: int) -> None:
    host.set(other, 0x1234_5678)
    assert host.get(offset) == host.get(other) == 0x1234_5678


def test_virtual_functions_say_how_many_they_are(host: Host) -> None:
    host.enable_vfs(3)
    assert host.get(8) >> 10 & 0xFF == 3
    assert host.get(8) >> 18 & 1
    assert [host.bus.find(place(vf)) is not None for vf in range(4)] == [True, True, True, False]


def test_without_msi_x_the_pin_stays_until_the_cause_is_read(host: Host) -> None:
    host.set(0x900, 0x8180)  # receive: bit 0, transmit: bit 1
    host.set(0x880, 1 << 20 | 3)
    assert not host.pin()
    host.set(0x808, 1 << 20)
    assert host.pin()
    assert host.get(0x800) == 1 << 20
    assert not host.pin()
    host.set(0x42A0, 1 << 12)  # the link begins anew
    assert host.pin()
    host.set(0x888, 1 << 20)
    assert not host.pin()


def test_a_physical_function_that_resets_tells_the_others(two: tuple[Host, Driver, Driver]) -> None:
    host, one, _ = two
    assert one.get(0x2FC) & 0xC0 == 0x80
    assert one.get(0x2FC) & 0xC0 == 0
    host.set(0, 1 << 26)
    assert one.get(0x2FC) & 0xC0 == 0x40
    host.set(0x18, 1 << 14)
    assert one.get(0x2FC) & 0xC0 == 0x80
    assert (place(0), 0x41) in [(function, message) for function, message, _ in host.interrupts]


def test_a_cause_that_is_neither_cleared_nor_masked_by_its_message_stays(two: tuple[Host, Driver, Driver]) -> None:
    host, one, _ = two
    for clear, mask, cause, enabled in ((0, 0, 1, 1), (1, 0, 0, 1), (1, 1, 0, 0)):
        one.set(0x100, 7)
        one.set(0x110, clear)
        one.set(0x114, mask)
        one.set(0x108, 1)
        host.receive(frame_to(mac(0)))
        host.pass_time()
        assert (one.get(0x104) & 1, one.get(0x108) & 1) == (cause, enabled)


def test_a_full_set_of_functions_is_a_snapshot(two: tuple[Host, Driver, Driver]) -> None:
    """What is under way goes on from it as if nothing had been."""
    host, one, other = two
    one.send(frame_to(mac(1), mac(0)))
    one.send(frame_to(OUTSIDE, mac(0)))
    host.receive(frame_to(mac(1)))
    saved = [copy.deepcopy(function.state) for function in host.card.chip.functions]
    now, ram = host.now, bytes(host.ram)
    host.pass_time()
    frames, sent = other.taken(), list(host.sent)
    host.now, host.ram[:] = now, ram
    host.sent.clear()
    other.rx_next = 0
    for function, state in zip(host.card.chip.functions, saved, strict=True):
        function.state = state
    host.pass_time()
    assert (other.taken(), host.sent) == (frames, sent)
    assert len(frames) == 2

"""The switch inside the 82599 against a simple model of who gets a frame (data sheet, 7.10.3)."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ixgbe_host import BROADCAST, OUTSIDE, Driver, Host, frame_to, mac

GUESTS = 3
MULTICAST = bytes.fromhex("01005e000001")
OTHER_MULTICAST = bytes.fromhex("01005e7f1234")
DESTINATIONS = (*(mac(vf) for vf in range(GUESTS)), OUTSIDE, BROADCAST, MULTICAST, OTHER_MULTICAST)


class Setting(msgspec.Struct, frozen=True):
    """How the owner has set the card up. Lists are by guest."""

    receives: list[bool]
    sends: list[bool]
    broadcast: list[bool]
    untagged: list[bool]
    multicast: list[bool]  # those that the table has
    all_multicast: list[bool]
    in_vlan: list[bool]
    watched: list[bool]
    vlan_watched: list[bool]
    replicate: bool
    inside: bool  # frames between guests stay inside
    default: int | None


def flags() -> st.SearchStrategy[list[bool]]:
    return st.lists(st.booleans(), min_size=GUESTS, max_size=GUESTS)


SETTINGS = st.builds(
    Setting, flags(), flags(), flags(), flags(), flags(), flags(), flags(), flags(), flags(), st.booleans(),
    st.booleans(), st.none() | st.integers(0, GUESTS - 1),
)  # fmt: skip


def apply(host: Host, setting: Setting) -> None:
    def mask(values: list[bool]) -> int:
        return sum(value << vf for vf, value in enumerate(values))

    host.virtualize(GUESTS)
    host.set(0x51E0, mask(setting.receives))
    host.set(0x8110, mask(setting.sends))
    for vf in range(GUESTS):
        options = setting.untagged[vf] << 24 | setting.multicast[vf] << 25 | setting.broadcast[vf] << 27
        host.set(0xF000 + 4 * vf, options | setting.all_multicast[vf] << 28)
    host.set(0x8200, mask(setting.watched) | mask(setting.vlan_watched) << 8)
    pool = 1 << 29 if setting.default is None else setting.default << 7
    host.set(0x51B0, 1 | setting.replicate << 30 | pool)
    host.set(0x8220, int(setting.inside))
    host.set(0x5080, 1 << 8 | 1 << 9 | 1 << 10)  # all that the wire brings
    host.set(0x5088, 1 << 30 | 0x8100)
    host.set(0xA000, 1 << 5)
    host.set(0xF100, 1 << 31 | 5)
    host.set(0xF200, mask(setting.in_vlan))
    bits = MULTICAST[4] >> 4 | MULTICAST[5] << 4
    host.set(0x5200 + 4 * (bits >> 5), 1 << (bits & 31))


def wanting(setting: Setting, destination: bytes, tagged: bool) -> set[int]:
    """Who wants a frame, whether or not he may have it."""
    found = set()
    for vf in range(GUESTS):
        group = (
            (destination == BROADCAST and setting.broadcast[vf])
            or (destination == MULTICAST and (setting.multicast[vf] or setting.all_multicast[vf]))
            or (destination == OTHER_MULTICAST and setting.all_multicast[vf])
        )
        if destination == mac(vf) or (group and setting.replicate):
            found.add(vf)
    allowed = setting.in_vlan if tagged else setting.untagged
    return {vf for vf in found if allowed[vf]}


@settings(max_examples=100, deadline=None)
@given(SETTINGS, st.sampled_from(DESTINATIONS), st.sampled_from((None, *range(GUESTS))), st.booleans(), st.booleans())
def test_everybody_gets_what_the_model_says(
    setting: Setting, destination: bytes, sender: int | None, tagged: bool, forged: bool
) -> None:
    host = Host()
    apply(host, setting)
    drivers = [Driver(host, vf) for vf in range(GUESTS)]
    for driver in drivers:
        driver.start()
    source = OUTSIDE if sender is None or forged else mac(sender)
    frame = frame_to(destination, source)
    if tagged:
        frame = frame[:12] + b"\x81\x00\x00\x05" + frame[12:]
    group = bool(destination[0] & 1)
    known = destination in DESTINATIONS[:GUESTS]
    expected = wanting(setting, destination, tagged)
    wire = False
    if sender is None:
        host.receive(frame)
        if not expected and setting.default is not None:
            expected = {setting.default}
    else:
        drivers[sender].send(frame)
        stopped = (
            not setting.sends[sender]
            or (forged and setting.watched[sender])
            or (tagged and setting.vlan_watched[sender] and not setting.in_vlan[sender])
        )
        wire = not stopped and (group or not known or not setting.inside)
        expected = set() if stopped or not setting.inside else expected - {sender}
    host.pass_time()
    got = {vf for vf in range(GUESTS) if drivers[vf].taken() == [frame]}
    assert got == {vf for vf in expected if setting.receives[vf]}
    assert host.frames == [frame] * wire


def test_a_function_may_be_allowed_to_hear_itself() -> None:
    host = Host()
    host.virtualize(1)
    driver = Driver(host, 0)
    driver.start()
    host.set(0x5180, 1)
    driver.send(frame_to(BROADCAST, mac(0)))
    host.pass_time()
    assert driver.taken() == host.frames == [frame_to(BROADCAST, mac(0))]


def test_in_loopback_nothing_goes_out() -> None:
    host = Host()
    driver = Driver(host)
    driver.start_card()
    host.set(0x4240, host.get(0x4240) | 1 << 15)
    driver.send(frame_to(BROADCAST))
    host.pass_time()
    assert driver.taken() == [frame_to(BROADCAST)]
    assert not host.sent


def test_pause_frames_are_not_for_software() -> None:
    host = Host()
    driver = Driver(host)
    driver.start_card()
    host.set(0x5080, 1 << 8)
    host.receive(frame_to(bytes.fromhex("0180c2000001"), kind=0x8808))
    host.pass_time()
    assert driver.take() is None

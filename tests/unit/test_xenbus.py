"""The bus of split devices: directories, states, what a front end may do wrong, and what happens when it dies."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from tests.store_rig import DIRECTORY, GET_PERMS, RM, WATCH, StoreRig

BACK = b"/local/domain/0/backend/test/1/0"
FRONT = b"device/test/0"
INIT_WAIT, CONNECTED, CLOSING, CLOSED = b"2", b"4", b"5", b"6"
REF, FRAME = 8, 30


@pytest.fixture
def rig() -> Iterator[StoreRig]:
    rig = StoreRig()
    yield rig
    rig.zero.destroy()
    assert rig.backend.view is None
    assert rig.backend.connects == rig.backend.disconnects
    assert not rig.domain.grants.s.uses
    rig.check()


def test_both_directories_as_a_toolstack_makes_them(rig: StoreRig) -> None:
    assert rig.ask(DIRECTORY, b"device\0") == b"test\0"
    assert rig.ask(DIRECTORY, FRONT + b"\0") == b"backend\0backend-id\0state\0handle\0mac\0"
    assert rig.read(FRONT + b"/backend") == BACK
    assert rig.ask(GET_PERMS, FRONT + b"\0") == b"n1\0r0\0"
    assert rig.ask(GET_PERMS, FRONT + b"/backend\0") == b"n0\0r1\0"  # which back end it is, is not the guest's to say
    assert rig.write(FRONT + b"/backend", b"/x") == rig.write(BACK + b"/state", b"1") == b"!EACCES"
    assert rig.read(BACK + b"/frontend") == b"/local/domain/1/" + FRONT
    assert rig.read(BACK + b"/feature-x") == b"1"
    assert rig.backend_state() == INIT_WAIT


def test_a_life(rig: StoreRig) -> None:
    rig.ask(WATCH, BACK + b"/state\0t\0")
    rig.memory.write(rig.mfn(FRAME) << 12, b"abcd")
    port = rig.connect(REF, FRAME)
    assert rig.events == [(BACK + b"/state", b"t")] * 2
    assert rig.backend_state() == CONNECTED
    assert rig.read(BACK + b"/sectors") == b"8"
    rig.domain.events.send(port)
    assert rig.memory.read(rig.mfn(FRAME) << 12, 4) == b"dcba"
    assert rig.domain.events.is_pending(port)
    rig.write(FRONT + b"/state", CLOSING)
    assert rig.backend_state() == CLOSING
    rig.domain.events.send(port)  # it is still there
    assert rig.memory.read(rig.mfn(FRAME) << 12, 4) == b"abcd"
    rig.write(FRONT + b"/state", CLOSED)
    assert rig.backend_state() == CLOSED
    assert rig.flags(REF) == 1
    rig.domain.events.send(port)  # to nobody
    rig.write(FRONT + b"/state", b"1")
    assert rig.backend_state() == INIT_WAIT
    rig.connect(REF, FRAME)
    assert rig.backend_state() == CONNECTED


def test_a_driver_that_starts_again_without_closing(rig: StoreRig) -> None:
    rig.connect(REF, FRAME)
    rig.write(FRONT + b"/state", b"1")
    assert rig.backend_state() == INIT_WAIT
    assert rig.flags(REF) == 1
    rig.connect(REF, FRAME)
    assert rig.backend.connects == 2


@pytest.mark.parametrize("text", [b"", b"0", b"7", b"99", b"4 ", b"-1", b"\0", b"x" * 1000, b"\xff\xfe", b"04", b"2"])
def test_states_that_are_none_change_nothing(rig: StoreRig, text: bytes) -> None:
    rig.write(FRONT + b"/state", text)
    assert rig.backend_state() == INIT_WAIT


@pytest.mark.parametrize(
    ("ref", "port"),
    [(b"", b"P"), (b"9", b"P"), (b"4294967296", b"P"), (b"\xb2", b"P"), (b"-1", b"P"), (b"9" * 3000, b"P"),
     (b"8", b""), (b"8", b"0"), (b"8", b"1"), (b"8", b"4096"), (b"8", b"99999999999")],
)  # fmt: skip
def test_a_front_end_that_cannot_be_connected_is_closed(rig: StoreRig, ref: bytes, port: bytes) -> None:
    rig.grant(REF, FRAME)
    unbound = rig.domain.events.alloc_unbound(0)
    rig.write(FRONT + b"/ring-ref", ref)
    rig.write(FRONT + b"/event-channel", port.replace(b"P", b"%d" % unbound))
    rig.write(FRONT + b"/state", b"3")
    assert rig.backend_state() == CLOSING
    assert rig.device.refused == 1
    assert (rig.zero.store.read("/local/domain/0/error/backend/test/1/0/error") or "").startswith("22 ")
    assert rig.domain.events.channels[unbound].remote_port == 0
    assert rig.flags(REF) == 1
    rig.write(FRONT + b"/state", b"1")  # it may try again
    rig.connect(REF, FRAME)
    assert rig.backend_state() == CONNECTED


def test_a_channel_that_is_somebody_elses(rig: StoreRig) -> None:
    for port in (rig.domain.store_port, rig.domain.events.bind_ipi(0), rig.domain.events.alloc_unbound(1)):
        rig.write(FRONT + b"/state", b"1")
        rig.grant(REF, FRAME)
        rig.write(FRONT + b"/ring-ref", b"8")
        rig.write(FRONT + b"/event-channel", b"%d" % port)
        rig.write(FRONT + b"/state", b"4")
        assert rig.backend_state() == CLOSING


def test_a_directory_that_is_gone(rig: StoreRig) -> None:
    port = rig.connect(REF, FRAME)
    rig.ask(RM, FRONT + b"\0")
    assert rig.backend_state() == CLOSED
    assert rig.flags(REF) == 1
    rig.domain.events.send(port)


def test_a_channel_that_is_closed_under_the_back_end(rig: StoreRig) -> None:
    port = rig.connect(REF, FRAME)
    rig.domain.events.close(port)
    assert rig.domain.events.alloc_unbound(0) == port  # the same number, for something else
    rig.backend.kicked()
    assert not rig.domain.events.is_pending(port)
    rig.write(FRONT + b"/state", CLOSED)
    assert rig.domain.events.channels[port].kind == 1


def test_a_domain_that_dies(rig: StoreRig) -> None:
    rig.connect(REF, FRAME)
    rig.ask(WATCH, b"data\0t\0")
    rig.zero.destroy()
    assert rig.backend.disconnects == 1
    assert rig.flags(REF) == 1
    assert rig.zero.ring.connection.s.watches == []
    rig.zero.destroy()


def test_a_snapshot_while_it_is_connected(rig: StoreRig) -> None:
    port = rig.connect(REF, FRAME)
    d = rig.domain
    saved, channels = copy.deepcopy((rig.zero.state(), d.grants.s, d.frames.state())), dict(d.events.channels)
    rig.zero.destroy()
    state, d.grants.s, frames = saved
    d.frames.set_state(frames)
    d.events.channels = channels
    rig.zero.set_state(state)
    rig.memory.write(rig.mfn(FRAME) << 12, b"abcd")
    d.events.send(port)
    assert rig.memory.read(rig.mfn(FRAME) << 12, 4) == b"dcba"
    rig.backend.connects += 1  # it was counted as dead once

"""A whole domain with a back end beside it: what the store tells the guest, and what is left when the guest dies."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from hv.silicon.x86_64.machine import Ended
from tests.pv_support import DATA, PvGuest
from tests.store_rig import TurningBackend

FRONT = "/local/domain/1/device/test/0"
REF = 8
# Asks the store for "domid" by the first bytes of its ring, which start_info names at 56 (frame) and 64 (port), and
# is sent the answer while it waits.
ASK = """
    mov 64(%rsi), %eax
    mov %eax, DATA + 0x10           # evtchn_send
    mov 56(%rsi), %rbx              # a machine frame: its place in the guest's memory
    mov $0xffff800000000000, %rax
    mov (%rax,%rbx,8), %rbx
    shl $12, %rbx
    mov $BASE, %rax
    add %rax, %rbx
    movl $2, (%rbx)                 # READ, request 0x2a
    movl $0x2a, 4(%rbx)
    movl $0, 8(%rbx)
    movl $6, 12(%rbx)
    movl $0x696d6f64, 16(%rbx)      # "domid"
    movl $0x64, 20(%rbx)
    movl $22, 2052(%rbx)
    mov $4, %edi
    mov $DATA + 0x10, %rsi
    hypercall event_channel_op
    mov 2060(%rbx), %eax
    mov %rax, DATA
    mov 1024(%rbx), %rax
    mov %rax, DATA + 0x20
    mov 1040(%rbx), %al
    mov %al, DATA + 8
"""


@pytest.fixture
def backend() -> TurningBackend:
    return TurningBackend()


def connected(code: str, backend: TurningBackend) -> PvGuest:
    """A guest whose front end is connected when it begins. What its driver would write, domain 0 writes for it."""
    guest = PvGuest(code)
    bus, domain = guest.mode.zero.bus, guest.domain
    device = bus.add(backend)
    (table,) = domain.grants.grow(1)
    frame = guest.v.memory.machine_address(DATA, write=True) >> 12
    domain.memory.write((table << 12) + 8 * REF, struct.pack("<HHI", 1, 0, frame))
    port = domain.events.alloc_unbound(0)
    for name, value in (("ring-ref", REF), ("event-channel", port), ("state", 3)):
        bus.store.write(f"{FRONT}/{name}", str(value))
    assert device.connected
    return guest


@pytest.fixture
def asked() -> Iterator[PvGuest]:
    guest = PvGuest(ASK + "finish")
    yield guest.finish()
    guest.close()


def test_a_guest_asks_the_store(asked: PvGuest) -> None:
    assert asked.words(2) == [17, ord("1")]  # 16 bytes and one
    assert asked.words(1, DATA + 0x20) == [2 | 0x2A << 32]
    assert asked.exits == {"hypercall.event_channel_op": 1, "hypercall.sched_op": 1}


def test_a_domain_that_ends_lets_its_back_ends_go(backend: TurningBackend) -> None:
    guest = connected("finish 3", backend)
    outcome = guest.run()
    assert isinstance(outcome, Ended)
    assert backend.disconnects == 1
    assert not guest.domain.grants.s.uses
    guest.close()
    assert backend.disconnects == 1


def test_a_domain_that_is_killed_lets_its_back_ends_go(backend: TurningBackend) -> None:
    guest = connected("0: jmp 0b", backend)
    guest.run(1000)
    guest.close()
    assert backend.disconnects == 1


def test_a_domain_that_crashes_lets_its_back_ends_go(backend: TurningBackend) -> None:
    guest = connected("ud2", backend)
    guest.crash()
    guest.close()
    assert backend.disconnects == 1


def test_a_snapshot_of_a_connected_device(backend: TurningBackend) -> None:
    guest = connected("movl $0x64636261, DATA + 0x100\nfinish", backend)
    saved = guest.vm.snapshot()
    guest.finish()
    assert backend.disconnects == 1
    guest.vm.restore(saved)
    assert backend.view is not None
    backend.view.write(0, b"abcd")
    guest.domain.events.send(guest.mode.zero.bus.devices[0].port)
    assert guest.words(1)[0] & 0xFFFF_FFFF == 0x61626364
    backend.connects += 1
    guest.finish()
    guest.close()
    assert backend.disconnects == 2

"""Changed code is seen at once, and a snapshot continues as if nothing had happened."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hv.silicon.x86_64.machine import Ended, Idle, Paused
from tests.guests.test_time import busy, facts, uninterrupted
from tests.support import CODE, DATA, EVERYWHERE, NATIVE, PD, UNDER_TRAP, RawGuest, Where

everywhere = pytest.mark.parametrize("where", EVERYWHERE + UNDER_TRAP)


@everywhere
def test_code_written_from_outside_is_seen(where: Where) -> None:
    guest = RawGuest("1: inc %rax; jmp 1b", where)
    guest.run(20_000)
    guest.machine.memory.write(guest.machine.ram_base + CODE, b"\xf4")  # hlt
    guest.vm.mode.memory_written(CODE, 1)  # as after a device's DMA
    assert isinstance(guest.run(200_000), Idle)


@everywhere
@pytest.mark.parametrize("write", ["movl $0x22222222, patch+1", "movl $0x22222222, 0x600000+patch+1"])
def test_code_that_the_guest_writes_is_seen_also_through_another_mapping(where: Where, write: str) -> None:
    alias = {PD + 8 * 3: (0x83).to_bytes(8, "little")}  # 0x600000 is physical 0 once more
    code = f"mov $2, %ecx; patch: mov $0x11111111, %eax; mov %eax, DATA(,%rcx,8); {write}; dec %ecx; jnz patch; hlt"
    guest = RawGuest(code, where, memory=alias).finish()
    assert guest.words(2, DATA + 8) == [0x2222_2222, 0x1111_1111]


def restored(where: Where, at: int, *, other: bool) -> dict[str, Any]:
    """The busy guest, snapshot after `at` millicycles, run on, put back (perhaps elsewhere), run to the end."""
    guest = busy(where)
    if not isinstance(guest.vm.run(guest.vm.now + at), Paused):
        at = 0
    saved, first = guest.vm.snapshot(), guest._retired_before
    target = busy(where) if other else guest
    if not other:
        guest.run(30_000)
    target.vm.restore(saved)
    target._retired_before = first
    assert not isinstance(target.run(), Ended)
    found = facts(target)
    del found["chips"]
    for one in {id(guest): guest, id(target): target}.values():
        one.close()
    return found


@pytest.mark.parametrize("where", NATIVE, ids=[where.mode.id for where in NATIVE])
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, 120_000_000), other=st.booleans())
def test_a_restored_machine_ends_as_one_that_never_stopped(where: Where, at: int, other: bool) -> None:
    assert restored(where, at, other=other) == uninterrupted(where)

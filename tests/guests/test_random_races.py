"""Random programs on two CPUs that write to the same words and interrupt each other: one result, however it is run."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hv.silicon.x86_64.machine import Idle
from tests.support import DATA, NATIVE_HW, NATIVE_METAL, NATIVE_POSTED, NATIVE_TRAP, RawGuest, Where, two_cpus

PROGRAMS = (0x2_0000, 0x2_1000)  # of CPU 0 and CPU 1
FRAME = """
    start_other; mov $0x20000, %eax; call *%rax; cli; incq DATA+0x200; hlt
    other: movl $0, 0x310(%rbp); mov $0x21000, %eax; call *%rax; cli; incq DATA+0x208; hlt
    count: incq DATA+0x210(,%r12,8); movl $0, 0xB0(%rbp); iretq
"""
WORDS = 4

word = st.integers(0, WORDS - 1).map(lambda i: struct.pack("<I", DATA + 8 * i))
instruction = st.one_of(
    word.map(lambda at: b"\x48\xff\x04\x25" + at),  # inc
    word.map(lambda at: b"\xf0\x48\xff\x04\x25" + at),  # lock inc
    word.map(lambda at: b"\x48\x03\x04\x25" + at),  # add to rax
    word.map(lambda at: b"\x48\x89\x04\x25" + at),  # mov from rax
    word.map(lambda at: b"\xf0\x48\x0f\xc1\x04\x25" + at),  # lock xadd
    st.sampled_from((b"\xfb\x90", b"\xfa", b"\xf3\x90")),  # sti; nop, cli, pause
    st.integers(1, 400).map(lambda n: b"\xb9" + struct.pack("<I", n) + b"\xff\xc9\x75\xfc"),  # a loop
    st.sampled_from((0x4040, 0x4051, 0x4_4040, 0xC_4040)).map(  # an interrupt, to the other one or to itself
        lambda icr: b"\xc7\x85" + struct.pack("<II", 0x300, icr)
    ),
)
program = st.lists(instruction, max_size=25).map(lambda parts: b"".join(parts) + b"\xc3")


def outcome(where: Where, programs: tuple[bytes, bytes], cuts: list[int], *, snapshots: bool) -> tuple[object, ...]:
    memory = dict(zip(PROGRAMS, programs, strict=True))
    guest = RawGuest(
        two_cpus(FRAME), where, cpus=2, memory=memory, gates={0x40: ("count", {}), 0x51: ("count", {})}
    )  # fmt: skip
    for cycles in cuts:
        if isinstance(guest.run(cycles), Idle):
            break
        if snapshots:
            guest.vm.restore(guest.vm.snapshot())
    guest.finish()
    saved = guest.machine.snapshot()
    clocks = [struct.unpack_from("<5Q", record.counters) for record in saved.cpus]
    result = guest.words(80), [(retired, extra) for retired, _, extra, *_ in clocks], guest.exits
    guest.close()
    return result


@pytest.mark.parametrize(
    "where", [NATIVE_METAL, NATIVE_HW, NATIVE_POSTED, NATIVE_TRAP], ids=["metal", "hw", "posted", "trap"]
)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs=st.tuples(program, program), cuts=st.lists(st.integers(1, 9_000), max_size=12), snapshots=st.booleans())
def test_one_result(where: Where, programs: tuple[bytes, bytes], cuts: list[int], snapshots: bool) -> None:
    straight = outcome(where, programs, [], snapshots=False)
    assert outcome(where, programs, cuts, snapshots=snapshots) == straight
    assert outcome(where._replace(portable=True), programs, cuts, snapshots=False) == straight

"""Two CPUs in one engine: interleaved by virtual time, with one memory, and the same every time."""

from __future__ import annotations

import pytest

from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Idle, Machine
from tests.support import CODE, DATA, PRELUDE, assemble, costs, raw_memory, start_state

ONE = "1: incq DATA; cmpq $0, DATA+8; je 1b; movb $0xF4, other; mov DATA, %rax; mov %rax, DATA+16; 2: cmpq $0, DATA+24; je 2b; hlt\n"  # noqa: E501
TWO = """
    .balign 4096
two: mov $1000, %ecx
3:  dec %ecx
    jnz 3b
    incq DATA+8
4:  nop
other:
    jmp 4b
"""


def run(*, portable: bool, slices: int) -> tuple[bytes, list[int]]:
    machine = Machine(costs().timing, 16 << 20, cpus=2, portable=portable)
    machine.build_board(lambda byte: None)
    code = assemble(PRELUDE + ONE + TWO, CODE)
    for at, data in raw_memory():
        machine.memory.write(at, data)
    machine.memory.write(CODE, code.data)
    for cpu, entry in zip(machine.cpus, (CODE, code.labels["two"]), strict=True):
        machine._load(cpu)
        machine.start_on_metal(cpu, lambda vmcb, entry=entry: start_state(vmcb, entry))  # type: ignore[misc]
    for number in range(slices):
        machine.run((number + 1) * 7_000 * MILLI // slices)
    machine.memory.write(DATA + 24, b"\1")
    assert isinstance(machine.run(1_000_000 * MILLI), Idle)
    found = machine.memory.read(DATA, 64)
    saved = machine.snapshot()
    counts = [int.from_bytes(record.counters[:8], "little") for record in saved.cpus]
    machine.close()
    return found, counts


@pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
def test_both_make_progress_and_see_each_others_data_and_code(portable: bool) -> None:
    memory, counts = run(portable=portable, slices=50)
    assert int.from_bytes(memory[:8], "little") > 100  # the first one counted while the second one worked
    assert memory[8] == 1
    assert min(counts) > 1_000


def test_the_counts_are_the_same_every_time_and_on_both_paths() -> None:
    first = run(portable=False, slices=50)
    assert run(portable=False, slices=50) == first
    assert run(portable=True, slices=50) == first

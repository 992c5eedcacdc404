"""Interrupts between processors: start-up, delivery modes and destinations, and what must not go wrong."""

from __future__ import annotations

from typing import Any

import pytest

from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Idle
from modes.full_emulation.mode import TrapAndEmulate
from tests.support import DATA, START_OTHER, WITH_TWO_CPUS, RawGuest, Where, two_cpus

pytestmark = pytest.mark.parametrize("where", WITH_TWO_CPUS)

# CPU 1 says in DATA+8 that it is there, and what it did in DATA. CPU 0 waits for it with `until`.
HELP = """
.macro until address, value     /* busy-wait until a word of memory has a value */
77: pause
    cmpq $\\value, \\address
    jne 77b
.endm
.macro send command
    movl $\\command, 0x300(%rbp)
.endm
.macro rest count
    mov $\\count, %ecx
78: dec %ecx
    jnz 78b
.endm
"""
THERE = "incq DATA+8;"
COUNT = "count: incq DATA; movl $0, 0xB0(%rbp); iretq\n"
COUNTING: dict[int, tuple[str, dict[str, int]]] = {0x40: ("count", {}), 0x51: ("count", {}), 2: ("count", {})}


def two(code: str, where: Where, **options: Any) -> RawGuest:
    return RawGuest(two_cpus(HELP + code), where, cpus=2, **options)


def test_a_start_up_message_starts_a_cpu_in_real_mode(where: Where) -> None:
    code = "start_other; until DATA, 1; finish\n"
    code += "other: mov 0x20(%rbp), %eax; mov %rax, DATA+8; movq $1, DATA; finish\n"
    assert two(code, where).finish().words(2) == [1, 1 << 24]


REAL_MODE = f"""
.org 0x1000
.code16
    mov ${DATA >> 4}, %ax
    mov %ax, %es
    mov $4, %bp
    mov $0x12345678, %eax
    smsw %ax                    /* 16 bits of it */
    mov %eax, %es:(%bp)
    smsww %es:8(%bp)
    mov $0x1, %ax
    lmsw %ax
    mov %cr0, %eax
    mov %eax, %es:12(%bp)
    movb $1, %es:20(%bp)
    hlt
"""


def test_control_registers_in_real_mode(where: Where) -> None:
    """A CPU that has just started: SMSW, LMSW and MOV in 16-bit code, a memory operand in a segment of its own."""
    if issubclass(where.mode, TrapAndEmulate):
        pytest.skip("its interpreter of real mode knows start-up code only, which ends in another mode")
    code = START_OTHER + HELP + "start_other; until DATA+24, 1; finish\n" + REAL_MODE
    guest = RawGuest(code, where, cpus=2).finish()
    eax, word, cr0 = (int.from_bytes(guest.read(DATA + at, 4), "little") for at in (4, 12, 16))
    assert (eax, word, cr0 & 0xFFFF_FFEF) == (0x1234_0010, 0x10, 0x6000_0001)


def test_a_cpu_knows_its_number_and_how_many_there_are(where: Where) -> None:
    code = "start_other; finish\n other: mov $1, %eax; cpuid; mov %ebx, DATA; mov %edx, DATA+4;"
    code += "mov $0x80000008, %eax; cpuid; mov %ecx, DATA+8; mov $0xB, %eax; mov $1, %ecx; cpuid; mov %ebx, DATA+12;"
    code += "mov %edx, DATA+16; finish\n"
    guest = two(code, where).finish()
    ebx, edx, cores, threads, x2apic = (int.from_bytes(guest.read(DATA + at, 4), "little") for at in range(0, 20, 4))
    assert (ebx >> 24, ebx >> 16 & 0xFF, edx >> 28 & 1) == (1, 2, 1)
    assert (cores & 0xFF, threads, x2apic) == (1, 2, 1)


def test_an_interrupt_comes_to_a_cpu_that_runs_and_to_one_that_sleeps(where: Where) -> None:
    code = "start_other; until DATA+8, 1; send 0x4040; until DATA, 1; until DATA+8, 2; rest 100;"
    code += "send 0x4051; until DATA, 2; finish\n"
    code += "other: sti;" + THERE + "until DATA, 1;" + THERE + "1: hlt; jmp 1b\n" + COUNT
    assert two(code, where, gates=COUNTING).finish().words(2) == [2, 2]


@pytest.mark.parametrize(
    ("command", "destination", "expected"),
    [
        (0x4_4040, 0, [1, 0]),  # shorthand: to oneself
        (0x8_4040, 0, [1, 1]),  # to all
        (0xC_4040, 0, [0, 1]),  # to all but oneself
        (0x4040, 0xFF, [1, 1]),  # physical broadcast
        (0x4040, 1, [0, 1]),
        (0x4040, 7, [0, 0]),
        (0x4840, 2, [0, 1]),  # logical, flat: bit 1 is CPU 1
        (0x4840, 3, [1, 1]),
        (0x4940, 3, [0, 1]),  # to the one with the lowest priority: CPU 0 has raised its own
        (0x4940, 1, [1, 0]),
        (0x4_4940, 0, [0, 0]),  # not valid with this shorthand
    ],
)
def test_destinations(where: Where, command: int, destination: int, expected: list[int]) -> None:
    code = f"""start_other; movl $0x01000000, 0xD0(%rbp); movl $0x20, 0x80(%rbp); sti; until DATA+8, 1
        movl ${destination << 24}, 0x310(%rbp); send {command}; rest 100000; movq $1, DATA+24; finish
        other: movl $0x02000000, 0xD0(%rbp); sti; {THERE} until DATA+24, 1; finish
        count: mov 0x20(%rbp), %eax; shr $24, %eax; incq DATA+32(,%rax,8); movl $0, 0xB0(%rbp); iretq
    """
    guest = two(code, where, gates=COUNTING).finish()
    assert guest.words(2, DATA + 32) == expected


def test_the_cluster_model(where: Where) -> None:
    """Destination 0x12 is member 1 of cluster 1; 0xF3 are the first two of all clusters (APM vol. 2, 16.6.1)."""
    code = f"""start_other; until DATA+8, 1; movl $0x12000000, 0x310(%rbp); send 0x4840; movl $0xF3000000, 0x310(%rbp)
        send 0x4851; movl $0x22000000, 0x310(%rbp); send 0x4840; rest 100000; movq $1, DATA+24; finish
        other: movl $0x0FFFFFFF, 0xE0(%rbp); movl $0x12000000, 0xD0(%rbp); sti; {THERE} until DATA+24, 1; finish
    """
    assert two(code + COUNT, where, gates=COUNTING).finish().words(1) == [2]


def test_init_stops_a_cpu_and_a_start_up_message_starts_it_again(where: Where) -> None:
    code = """start_other; until DATA+8, 1; send 0x4500; rest 50000; mov DATA, %rax; rest 50000; sub DATA, %rax
        mov %rax, DATA+16; send 0x4615; until DATA+8, 2; finish
        other: incq DATA+8; 1: incq DATA; cmpq $2, DATA+8; jne 1b; finish\n"""
    guest = two(code, where).finish()
    assert guest.words(3)[1:] == [2, 0]
    assert guest.words(1)[0] > 10


def test_a_start_up_message_is_lost_on_a_cpu_that_runs_and_on_oneself(where: Where) -> None:
    code = "start_other; until DATA+8, 1; send 0x4615; movl $0, 0x310(%rbp); send 0x4615; rest 100000; movq $1, DATA;"
    code += "finish\n other:" + THERE + "until DATA, 1; finish\n"
    assert two(code, where).finish().words(2) == [1, 1]


def test_a_start_up_message_without_init_starts_a_cpu_that_still_waits(where: Where) -> None:
    code = "lapic 0xF0, 0x1FF; movl $0x1000000, 0x310(%rbp); send 0x4615; until DATA+8, 1; finish\n"
    assert two(code + "other:" + THERE + "finish\n", where).finish().words(2)[1] == 1


def test_an_nmi_wakes_a_cpu_that_takes_no_interrupts(where: Where) -> None:
    code = "start_other; until DATA+8, 1; rest 1000; send 0x4040; rest 1000; send 0x4400; until DATA+8, 2; finish\n"
    code += "other:" + THERE + "cli; hlt;" + THERE + "finish\n" + COUNT
    assert two(code, where, gates=COUNTING).finish().words(2) == [1, 2]


def test_an_nmi_waits_for_the_end_of_the_one_before(where: Where) -> None:
    """CPU 1's handler sends two more NMIs to itself: they are one, and it comes when the handler is over."""
    code = """start_other; until DATA+8, 1; send 0x4400; until DATA+8, 2; finish
        other: incq DATA+8; movl $0x1000000, 0x310(%rbp); until DATA, 2; incq DATA+8; finish
        nmi: cmpq $0, DATA; jne 1f; send 0x4400; send 0x4400; nop; nop; mov DATA, %rax; mov %rax, DATA+16
        1: incq DATA; iretq\n"""
    assert two(code, where, gates={2: ("nmi", {})}).finish().words(3) == [2, 2, 0]


def test_errors_are_in_the_error_status_register(where: Where) -> None:
    """Vector 15 is illegal to send, and there is no CPU 9 (APM vol. 2, 16.4.6); a write latches what has come."""
    code = """lapic 0xF0, 0x1FF; send 0x400F; movl $0, 0x280(%rbp); mov 0x280(%rbp), %eax; mov %rax, DATA
        movl $0x9000000, 0x310(%rbp); send 0x4040; movl $0, 0x280(%rbp); mov 0x280(%rbp), %eax; mov %rax, DATA+8
        movl $0, 0x280(%rbp); mov 0x280(%rbp), %eax; mov %rax, DATA+16; finish\n"""
    assert RawGuest(HELP + code, where).finish().words(3) == [0x20, 4, 0]


def test_increments_with_a_lock_prefix_are_exact(where: Where) -> None:
    add = "mov $3000, %ecx; 1: lock incq DATA; xaddq_loop: dec %ecx; jnz 1b;"
    code = "start_other; until DATA+8, 1;" + add + "until DATA, 6000; finish\n"
    code += "other:" + THERE + add.replace("xaddq_loop:", "") + "finish\n"
    assert two(code, where).finish().words(1) == [6000]


def test_a_cpu_sees_code_that_another_one_has_written(where: Where) -> None:
    """CPU 1 runs a loop whose jump CPU 0 turns into a HLT."""
    code = "start_other; until DATA+8, 1; rest 1000; movb $0xF4, patch; finish\n"
    code += "other:" + THERE + "2: incq DATA; jmp patch; .balign 64; patch: jmp 2b\n"
    guest = two(code, where).finish()
    assert guest.words(1)[0] > 10


def test_a_machine_that_was_just_built_goes_on_from_a_snapshot_with_both_cpus_running(where: Where) -> None:
    code = "start_other; until DATA+8, 1; 1: call count; cmpq $9000, DATA; jb 1b; movq $1, DATA+16; finish\n"
    code += "other: incq DATA+8; 2: incq DATA+24; cli; sti; cli; call count; cmpq $0, DATA+16; je 2b; finish\n"
    code += "count: lock incq DATA; ret\n"
    first, second = two(code, where), two(code, where)
    while not first.words(4)[3]:
        first.run(1000)
    second.vm.restore(first.vm.snapshot())
    for guest in (first, second):
        guest.finish()
    assert first.words(1)[0] >= 9000
    assert (first.words(4), first.exits, first.vm.now) == (second.words(4), second.exits, second.vm.now)


# --- hostile guests ---------------------------------------------------------------------------------------------------


def test_a_triple_fault_of_the_second_cpu_ends_the_machine(where: Where) -> None:
    code = "start_other; 1: jmp 1b\n other: push $0; push $0; lidt (%rsp); ud2\n"
    assert "triple fault" in two(code, where).crash()


def test_init_on_cpu_0_is_a_reset_and_ends_the_machine(where: Where) -> None:
    assert "INIT reached CPU 0" in two("lapic 0xF0, 0x1FF; send 0x4500; 1: jmp 1b\n other: finish\n", where).crash()
    code = "start_other; sti; 1: hlt; jmp 1b\n other: movl $0, 0x310(%rbp); send 0x4500; 1: jmp 1b\n"
    assert "INIT reached CPU 0" in two(code, where).crash()


def test_storms_of_init_and_floods_of_interrupts_do_no_harm(where: Where) -> None:
    code = """start_other; mov $300, %esi; 1: movl $0x1000000, 0x310(%rbp); send 0x4500; send 0x4615
        send 0x4040; movl $0x55000000, 0x310(%rbp); send 0x4615; send 0x4500; movl $0xFFFFFFFF, 0x310(%rbp); send 0x4F40
        send 0x4240; send 0x4340; send 0x4740; send 0xC4F7F; dec %esi; jnz 1b; movl $0x1000000, 0x310(%rbp); send 0x4500
        finish
        other: sti; 1: movl $0, 0x310(%rbp); send 0x4040; send 0x4840; send 0x4400; jmp 1b
    """
    guest = two(code + COUNT, where, gates=COUNTING)
    guest.run(cycles=30_000_000)
    assert guest.machine.ended is None


def test_a_start_up_page_full_of_nonsense(where: Where) -> None:
    """The page holds zeros: ADD [BX+SI], AL up to the end of the segment, and round it for ever."""
    code = "lapic 0xF0, 0x1FF; movl $0x1000000, 0x310(%rbp); send 0x4670; rest 100; finish\n"
    guest = two(code + "other: finish\n", where)
    guest.run(cycles=300_000)
    ended = guest.machine.ended
    if issubclass(where.mode, TrapAndEmulate):
        assert ended is not None
        assert "16-bit" in ended.report
    else:
        assert ended is None


# --- the same every time --------------------------------------------------------------------------------------------

RACE = """start_other; until DATA+8, 1; mov $50, %esi
    1: incq DATA+16; mov DATA+24, %rax; add %rax, DATA+32; send 0x4040; dec %esi; jnz 1b; movq $1, DATA+40
    until DATA+8, 2; finish
    other: sti; incq DATA+8; 2: incq DATA+24; mov DATA+16, %rax; add %rax, DATA+48; cmpq $0, DATA+40; je 2b
    cli; incq DATA+8; finish
    count: incq DATA; movl $0, 0xB0(%rbp); iretq
"""


def race(where: Where, pieces: int, *, snapshots: bool = False) -> tuple[list[int], list[int], dict[str, int]]:
    guest = two(RACE, where, gates=COUNTING)
    for _ in range(pieces):
        if isinstance(guest.run(cycles=317), Idle):
            break
        if snapshots:
            saved = guest.vm.snapshot()
            guest.run(cycles=5_000)
            guest.vm.restore(saved)
    guest.finish()
    machine = guest.machine.snapshot()
    retired = [int.from_bytes(record.counters[:8], "little") for record in machine.cpus]
    return guest.words(8), retired, guest.exits


def test_a_race_has_the_same_winner_on_both_paths_and_wherever_it_is_paused(where: Where) -> None:
    straight = race(where._replace(portable=False), 0)
    assert straight[0][0] > 1
    assert race(where, 0) == straight
    assert race(where, 300) == straight
    assert race(where, 100, snapshots=True) == straight


def test_an_interrupt_is_not_there_before_it_was_sent(where: Where) -> None:
    """Each CPU's own clock: the handler of CPU 1 finds a later time than CPU 0 had before it sent."""
    code = """start_other; until DATA+8, 1; rest 5000; rdtsc; shl $32, %rdx; or %rax, %rdx
        mov %rdx, DATA+16; send 0x4040
        until DATA, 1; finish
        other: sti; incq DATA+8; until DATA, 1; finish
        late: rdtsc; shl $32, %rdx; or %rax, %rdx; mov %rdx, DATA+24; incq DATA; movl $0, 0xB0(%rbp); iretq\n"""
    sent, heard = two(code, where, gates={0x40: ("late", {})}).finish().words(4)[2:]
    assert sent < heard < sent + 25_000


def test_cpus_that_run_have_clocks_that_agree_up_to_a_quantum(where: Where) -> None:
    guest = two("start_other; 1: jmp 1b\n other: 1: jmp 1b\n", where)
    guest.run(cycles=100_000)
    clocks = [guest.machine._time(cpu) for cpu in guest.machine.cpus]
    assert abs(clocks[0] - clocks[1]) <= 25_000 * MILLI

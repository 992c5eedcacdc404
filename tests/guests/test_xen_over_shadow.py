"""Xen beside a PC without nested paging: what its pages and hypercalls change is seen through shadow page tables.

Each guest runs under nested tables too, which the hardware walks anew: they say what is right.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from hv.silicon.timing import MILLI
from modes.hw_assist.mode import HwAssist
from modes.hw_assist.shadow import HwShadow
from modes.paravirt.mode import Paravirt
from tests.hvm_rig import ARGUMENTS, HELP, SELF, SHARED, TAKE, TAKING, VECTOR, run
from tests.support import DATA, PD, RawGuest, Where, two_cpus

NESTED, SHADOW, PORTABLE = (Where(mode, portable, Paravirt) for mode, portable in (
    (HwAssist, False), (HwShadow, False), (HwShadow, True)))  # fmt: skip
everywhere = pytest.mark.parametrize("where", [NESTED, SHADOW, PORTABLE], ids=["nested", "shadow", "shadow-portable"])
ONES = (1 << 64) - 1
TABLE, PAGE, OTHER = 0x9_0000, 0x9_1000, 0x9_2000  # free frames: a page table, and what it maps
HIGH = 0x80_0000  # linear: what the table maps
COPY, OKAY = 5, 0  # GNTTABOP_copy
LIST, ENTRY, GRANT = ARGUMENTS + 0x100, ARGUMENTS + 0x180, ARGUMENTS + 0x200

# The page table TABLE maps HIGH to PAGE; both have been used, so they are in the shadow.
MAPPED = {
    PD + 8 * (HIGH >> 21): struct.pack("<Q", TABLE | 7), TABLE: struct.pack("<2Q", PAGE | 7, OTHER | 7),
    PAGE: struct.pack("<Q", 11), OTHER: struct.pack("<Q", 22),
}  # fmt: skip
USED = f"find_xen; mov {HIGH}, %rax; movq $11, {HIGH}; mov {HIGH + 0x1000}, %rax;"


def frames(frame: int) -> dict[int, bytes]:
    """struct xen_memory_reservation at LIST, of one frame."""
    return {LIST: struct.pack("<2QIIH6x", ENTRY, 1, 0, 0, SELF), ENTRY: struct.pack("<Q", frame >> 12)}


GIVE_BACK, TAKE_AGAIN = f"hypercall memory_op, 1, ${LIST};", f"hypercall memory_op, 6, ${LIST};"


def store(what: str, word: int) -> str:
    return f"mov {what}, %rax; mov %rax, DATA+{8 * word};"


@everywhere
def test_a_frame_that_is_given_back_is_gone_through_every_mapping(where: Where) -> None:
    """Mapped twice: where it is, and at HIGH."""
    code = USED + f"movq $5, {PAGE};" + GIVE_BACK + store(f"{HIGH}", 0) + store(f"{PAGE}", 1)
    code += TAKE_AGAIN + store(f"{HIGH}", 2) + f"movq $7, {HIGH};" + store(f"{PAGE}", 3) + "finish"
    assert run(code, where, memory={**MAPPED, **frames(PAGE)}).words(4) == [ONES, ONES, 0, 7]


@everywhere
def test_a_page_of_xen_s_is_seen_where_it_is_placed_and_no_longer_where_it_was(where: Where) -> None:
    code = USED + "movq $9, SHARED; place;" + store("SHARED+0xC00", 0) + "movq $5, SHARED;"
    code += f"movq ${PAGE >> 12}, ARGUMENTS+16; hypercall memory_op, 7, $ARGUMENTS;" + store(f"{HIGH}", 1)
    code += store("SHARED", 2) + "finish"
    wallclock, placed, left = run(code, where, memory=MAPPED).words(3)
    assert (wallclock >> 32, placed, left) == (1_511_913_600, 5, ONES)


@pytest.mark.parametrize("where", [SHADOW, PORTABLE], ids=["shadow", "shadow-portable"])
def test_a_page_table_that_is_given_back_maps_nothing(where: Where) -> None:
    """Where there is no memory the bus gives ones, whose reserved bits fault; RAM that comes back is empty."""
    code = USED + GIVE_BACK + f"lea 1f, %r15; mov {HIGH}, %rax; 1:" + TAKE_AGAIN
    code += f"lea 1f, %r15; mov {HIGH}, %rax; 1: finish"
    log = run(code, where, memory={**MAPPED, **frames(TABLE)}).log
    assert [(record.vector, record.error, record.cr2) for record in log] == [(14, 9, HIGH), (14, 0, HIGH)]


@everywhere
def test_what_xen_copies_into_a_page_table_counts_after_a_flush(where: Where) -> None:
    """GNTTABOP_copy from a frame of the guest's into its page table, of one entry."""
    copy = struct.pack("<QHH4xQHH4xHHh2x", OTHER >> 12, SELF, 8, TABLE >> 12, SELF, 0, 8, 0, 1)
    memory = {**MAPPED, OTHER: struct.pack("<2Q", 22, OTHER | 7), GRANT: copy}
    code = USED + f"mov $1, %edx; hypercall grant_table_op, {COPY}, ${GRANT}; mov %rax, DATA+16; invlpg {HIGH};"
    code += store(f"{HIGH}", 0) + f"mov {GRANT + 36}, %ax; movzwl %ax, %eax; mov %rax, DATA+8; finish"
    assert run(code, where, memory=memory).words(3) == [22, OKAY, 0]


@everywhere
def test_what_a_hypercall_writes_into_a_page_table_counts_after_a_flush(where: Where) -> None:
    """XENVER_extraversion writes text over the entries, which begins with a point: no present entry."""
    code = USED + f"hypercall xen_version, 1, ${TABLE}; invlpg {HIGH}; lea 1f, %r15; mov {HIGH}, %rax; 1: finish"
    guest = run(code, where, memory=MAPPED)
    assert guest.read(TABLE, 1) == b"."
    assert [(record.vector, record.error, record.cr2) for record in guest.log] == [(14, 0, HIGH)]


@everywhere
def test_a_page_of_xen_s_may_hold_a_page_table(where: Where) -> None:
    """A page of the grant table, whose entries map PAGE, and then OTHER."""
    place = struct.pack("<HHIQQ", SELF, 0, 1, 3, SHARED >> 12)
    code = f"find_xen; hypercall memory_op, 7, $ARGUMENTS; movq ${PAGE | 7}, SHARED;"
    code += f"movq ${SHARED | 7}, {PD + 8 * (HIGH >> 21)}; invlpg {HIGH};" + store(f"{HIGH}", 0)
    code += f"movq ${OTHER | 7}, SHARED; invlpg {HIGH};" + store(f"{HIGH}", 1) + store("SHARED", 2) + "finish"
    first, second, entry = run(code, where, memory={**MAPPED, ARGUMENTS: place}).words(3)
    assert (first, second, entry & ~0x60) == (11, 22, OTHER | 7)


def both(code: str, where: Where, **options: Any) -> RawGuest:
    """Two CPUs. The second one begins at `other`."""
    return RawGuest(two_cpus(HELP + code), where, cpus=2, **options).finish()


UNTIL = ".macro until address, value\n77: pause; cmpq $\\value, \\address; jne 77b\n.endm\n"


@everywhere
def test_another_cpu_loses_a_frame_too(where: Where) -> None:
    code = UNTIL + USED + "start_other; until DATA+8, 1;" + GIVE_BACK + "movq $1, DATA+16; until DATA+8, 2; finish\n"
    code += f"other: mov {HIGH}, %rax; mov %rax, DATA+24; movq $1, DATA+8; until DATA+16, 1; mov {HIGH}, %rax;"
    code += "mov %rax, DATA+32; movq $2, DATA+8; finish\n"
    assert both(code, where, memory={**MAPPED, **frames(PAGE)}).words(2, DATA + 24) == [11, ONES]


@everywhere
def test_a_snapshot_is_taken_up_in_the_middle(where: Where) -> None:
    """Cut again and again: frames come and go, Xen's page moves, events are sent."""
    code = "set_up; bind_ipi 0, DATA+8; sti; find_xen; mov $6, %r8d; 3:" + GIVE_BACK + f"mov {HIGH}, %rax;"
    code += f"add %rax, DATA+16; {TAKE_AGAIN} movq $3, {HIGH}; mov {PAGE}, %rax; add %rax, DATA+24; send DATA+8;"
    code += "dec %r8d; jnz 3b; finish\n" + TAKE
    memory = {**MAPPED, **frames(PAGE)}
    guest = run(code, where, memory=memory, gates=TAKING)
    assert guest.words(4)[::2] == [6, ONES - 5]
    assert guest.words(4)[3] == 18
    wanted = guest.read(0, 16 << 20), guest.exits, guest.vm.now
    cut, other = (RawGuest(HELP + code, where, memory=memory, gates=TAKING) for _ in range(2))
    for _ in range(20):
        cut.vm.run(cut.vm.now + 3_000 * MILLI)
        other.vm.restore(cut.vm.snapshot())
        cut, other = other, cut
    cut.finish()
    assert (cut.read(0, 16 << 20), cut.exits, cut.vm.now) == wanted
    assert VECTOR not in [record.vector for record in cut.log]

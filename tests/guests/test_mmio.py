"""Instructions on a device's registers do what they do on memory: results, flags, registers, pages.

The reference is the CPU itself: the same code runs once on a card whose registers keep what is written to them, where
the hypervisor emulates each instruction, and once on RAM.
"""

from __future__ import annotations

import random
import struct

import pytest

from hv.silicon.pci import BAR0, COMMAND, Bar, Function, Header
from tests.support import DATA, NATIVE_HW, NATIVE_METAL, NATIVE_TRAP, RawGuest, Where

WINDOW, RAM, RESULTS, PATTERNS = 0xFED0_0000, 0x8_0000, 0x9_0000, 0xA_0000
ALL, LOGIC, CARRY, NONE = 0x8D5, 0x8C5, 0x001, 0  # which flags are defined
SIZES = (("b", "%al", "%cl"), ("w", "%ax", "%cx"), ("l", "%eax", "%ecx"), ("q", "%rax", "%rcx"))


class Scratch(Function):
    """Registers that keep what is written to them."""

    state: bytearray

    def __init__(self) -> None:
        super().__init__(Header(0x1234, 0x5678, 0xFF_0000, bars={0: Bar(0x2000)}))
        self.state = bytearray(0x2000)

    def read(self, bar: int, offset: int, size: int) -> int:
        return int.from_bytes(self.state[offset : offset + size], "little")

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        self.state[offset : offset + size] = value.to_bytes(size, "little")


def _forms() -> list[tuple[str, int]]:
    """Instructions on (%rbx), and the flags that they define."""
    forms = []
    for suffix, a, c in SIZES:
        for op, flags in (("add", ALL), ("adc", ALL), ("sub", ALL), ("sbb", ALL), ("cmp", ALL), ("and", LOGIC),
                          ("or", LOGIC), ("xor", LOGIC)):  # fmt: skip
            forms += [(f"{op}{suffix} {c}, (%rbx)", flags), (f"{op}{suffix} (%rbx), {a}", flags)]
            forms.append((f"{op}{suffix} $0x55, (%rbx)", flags))
        forms += [(f"test{suffix} {c}, (%rbx)", LOGIC), (f"test{suffix} $0x12, (%rbx)", LOGIC)]
        forms += [(f"{op}{suffix} (%rbx)", flags) for op, flags in
                  (("inc", ALL), ("dec", ALL), ("not", NONE), ("neg", ALL))]  # fmt: skip
        forms += [(f"mov{suffix} {c}, (%rbx)", NONE), (f"mov{suffix} (%rbx), {a}", NONE)]
        forms += [(f"mov{suffix} $0x17, (%rbx)", NONE), (f"xchg{suffix} {c}, (%rbx)", NONE)]
        if suffix != "b":
            for op in ("bt", "bts", "btr", "btc"):
                forms.append((f"{op}{suffix} $5, (%rbx)", CARRY))
                forms.append((f"mov $-37, %rcx; {op}{suffix} {c}, 16(%rbx)", CARRY))
    forms += [(f"mov{kind}{pair} (%rbx), %{target}", NONE) for kind in "zs" for pair, target in
              (("bw", "ax"), ("bl", "eax"), ("bq", "rax"), ("wl", "eax"), ("wq", "rax"))]  # fmt: skip
    forms += [("movslq (%rbx), %rax", NONE), ("movb %ah, (%rbx)", NONE), ("lock orl %ecx, (%rbx)", LOGIC)]
    forms += [("movl 4(%rbx), %r10d; movl %r10d, (%rbx,%rsi,4)", NONE)]
    return forms


FORMS = _forms()
BLOCK = """
    mov (%r12), %rax; mov 8(%r12), %rcx
    mov 16(%r12), %rdx; mov %rdx, (%rbx); mov %rdx, 8(%rbx); mov %rdx, 16(%rbx)
    xor %esi, %esi
    push 24(%r12); popf
    {form}
    pushf; pop %r9
    mov %rax, (%r8); mov %rcx, 8(%r8); mov %r9, 16(%r8)
    mov (%rbx), %rdx; mov %rdx, 24(%r8); mov 8(%rbx), %rdx; mov %rdx, 32(%r8)
    add $40, %r8
"""
CODE = f"mov $DATA, %edi; mov (%rdi), %rbx; mov ${RESULTS}, %r8; mov ${PATTERNS}, %r12;" + "".join(
    BLOCK.format(form=form) for form, _ in FORMS
)


def with_scratch(code: str, where: Where, memory: dict[int, bytes]) -> RawGuest:
    guest = RawGuest(code, where, memory=memory)
    pci = guest.vm.board.pci
    card = Scratch()
    guest.vm.board.plug(card, 5)
    pci.config_write(card, BAR0, 4, WINDOW)
    pci.config_write(card, COMMAND, 2, 2)
    return guest


def results(place: int, where: Where, pattern: bytes) -> list[tuple[int, ...]]:
    guest = with_scratch(CODE + "finish\n", where, {DATA: struct.pack("<Q", place), PATTERNS: pattern})
    guest.run(50_000_000)
    assert len(guest.log) == 0
    data = guest.read(RESULTS, 40 * len(FORMS))
    return list(struct.iter_unpack("<5Q", data))


@pytest.mark.parametrize("where", [NATIVE_HW, NATIVE_TRAP, NATIVE_METAL], ids=["hw", "trap", "metal"])
@pytest.mark.parametrize("seed", range(3))
def test_every_form_does_on_a_register_what_it_does_on_memory(where: Where, seed: int) -> None:
    numbers = random.Random(seed)
    choices = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF_FFFF, 0x8000_0000, (1 << 64) - 1, 1 << 63)
    words = [numbers.choice((numbers.getrandbits(64), numbers.choice(choices))) for _ in range(3)]
    pattern = struct.pack("<4Q", *words, numbers.getrandbits(12) & ALL | 2)
    expected, got = results(RAM, NATIVE_METAL, pattern), results(WINDOW, where, pattern)
    for (form, flags), there, here in zip(FORMS, expected, got, strict=True):
        masked = [(*row[:2], row[2] & flags, *row[3:]) for row in (there, here)]
        assert masked[0] == masked[1], form


STRINGS = {
    "stosl": "mov $WINDOW, %edi; mov $0x11223344, %eax; mov $7, %ecx; rep stosl",
    "movsq to it": "mov $SOURCE, %esi; mov $WINDOW, %edi; mov $5, %ecx; rep movsq",
    "movsw from it": "mov $WINDOW, %esi; mov $TARGET, %edi; mov $9, %ecx; rep movsw",
    "movsb within it": "mov $WINDOW, %esi; mov $WINDOW + 64, %edi; mov $20, %ecx; rep movsb",
    "lodsl": "mov $WINDOW + 4, %esi; lodsl",
    "down": "mov $WINDOW + 32, %edi; mov $0xAB, %al; mov $6, %ecx; std; rep stosb; cld",
    "nothing to do": "mov $WINDOW, %edi; xor %ecx, %ecx; rep stosb",
    "32-bit addresses": "movabs $0xFFFFFFFF00000003, %rcx; mov $WINDOW, %edi; addr32 rep stosb",
}


@pytest.mark.parametrize("where", [NATIVE_HW, NATIVE_TRAP], ids=["hw", "trap"])
@pytest.mark.parametrize("code", STRINGS.values(), ids=STRINGS)
def test_string_moves_reach_registers_as_they_reach_memory(where: Where, code: str) -> None:
    tail = "; mov $DATA, %r9; mov %rax, (%r9); mov %rcx, 8(%r9); mov %rsi, 16(%r9); mov %rdi, 24(%r9); finish\n"
    source = bytes(range(1, 65))
    made = []
    for window in (WINDOW, RAM):
        memory = {PATTERNS: source, RAM: bytes(range(100, 164))}
        names = f".set WINDOW, {window}; .set SOURCE, {PATTERNS}; .set TARGET, {PATTERNS + 256}\n"
        guest = with_scratch(names + code + tail, where, memory)
        card = guest.vm.board.pci.functions[5 << 3]
        card.state[:64] = memory[RAM]
        guest.finish()
        rax, rcx, rsi, rdi = guest.words(4)
        if window == WINDOW:
            there = bytes(card.state[:512])
            exits = guest.exits.get("mmio", 0)
        else:
            there = guest.read(RAM, 512)
        places = [value - window if value - window in range(-64, 0x1000) else value for value in (rsi, rdi)]
        made.append((rax, rcx, *places, there[:256], guest.read(PATTERNS, 512)))
    assert made[0] == made[1]
    assert exits == (0 if "xor %ecx, %ecx" in code else 1)


def test_a_rep_over_two_pages_is_two_exits() -> None:
    code = "mov $0xFED00FF0, %edi; mov $8, %ecx; mov $0x77, %eax; rep stosl; finish\n"
    guest = with_scratch(code, NATIVE_HW, {}).finish()
    assert guest.exits["mmio"] == 2
    assert guest.vm.board.pci.functions[5 << 3].state[0xFF0:0x1010] == bytes((0x77, 0, 0, 0)) * 8

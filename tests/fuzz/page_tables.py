"""A guest that edits its own page tables sees on hw-assist, hw-shadow and deprivileged what it sees on metal.

The guest is one small interpreter; a case is its script: edits of entries (plain, locked, in bursts; through identity,
an alias and the tables' own map of themselves), INVLPG, loads of CR3, CR0.WP on and off, and reads, writes and calls
by kernel and user. A model of the page walk, written for this test, knows for each step whether it is architecturally
defined: what a TLB may still hold is flushed before it is used (APM vol. 2, 5.5), except where the old entry was not
present, which no TLB holds. The model predicts each fault; the modes must agree in everything: faults, error codes,
CR2, memory, accessed and dirty bits.
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.support import (
    NATIVE_HW,
    NATIVE_METAL,
    NATIVE_SHADOW,
    NATIVE_TRAP,
    PD,
    PML4,
    PORTABLE_METAL,
    PORTABLE_SHADOW,
    PORTABLE_TRAP,
    PT,
    RAM_MIB,
    RawGuest,
    Where,
    raw_memory,
)

PRESENT, WRITABLE, USER, LARGE, NX = 1, 2, 4, 1 << 7, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
OTHER_ROOT, P_PDPT, P_PD, P_PT, Q_PT, R_PT = (0x9_0000 + 0x1000 * i for i in range(6))
FRAMES = [0x9_8000 + 0x1000 * i for i in range(4)]  # data; a RET lies at their ends
RET_AT = 0xFF8
NOWHERE = (0x400_0000, 0x7F_0000_0000)  # physical addresses without memory
ALIAS = 0x60_0000  # physical 0 once more
SELF = 3  # PML4 slot that maps the tables
SCRIPT, RESULTS = 0x7_0000, 0x8_0000
COMMAND = struct.Struct("<4Q")
CR0, WP = 0x8001_0033, 1 << 16
MOST_FAULTS, LENGTH = 36, 60

OPS = ("end kread kwrite kor kand kxchg kstos kcall uread uwrite uor ucall invlpg cr3 cr0").split()
PROGRAM = f"""
    mov ${SCRIPT}, %r14d
    mov ${RESULTS}, %r13d
next:
    mov $STACK, %esp
    mov (%r14), %rbx
    mov 8(%r14), %rdi
    mov 16(%r14), %rsi
    mov 24(%r14), %rcx
    add $32, %r14
    xor %eax, %eax
    lea done(%rip), %r15
    jmp *table(,%rbx,8)
done:
    mov %rax, (%r13)
    add $8, %r13
    jmp next
end:     finish
kread:   mov (%rdi), %rax; jmp done
kwrite:  mov %rsi, (%rdi); jmp done
kor:     lock or %rsi, (%rdi); jmp done
kand:    lock and %rsi, (%rdi); jmp done
kxchg:   xchg %rsi, (%rdi); jmp done
kstos:   mov %rsi, %rax; rep stosq; xor %eax, %eax; jmp done
kcall:   call *%rdi; jmp done
uread:   lea udone(%rip), %r15; to_user uread_there; uread_there: mov (%rdi), %rax; jmp udone
uwrite:  lea udone(%rip), %r15; to_user uwrite_there; uwrite_there: mov %rsi, (%rdi); jmp udone
uor:     lea udone(%rip), %r15; to_user uor_there; uor_there: lock or %rsi, (%rdi); jmp udone
ucall:   lea udone(%rip), %r15; to_user ucall_there; ucall_there: call *%rdi
udone:   int $0x80
from_user: jmp done
invlpg:  invlpg (%rdi); jmp done
cr3:     mov %rdi, %cr3; jmp done
cr0:     mov %rdi, %cr0; jmp done
    .balign 8
table: .quad {", ".join(OPS)}
"""


class Translation(NamedTuple):
    """What a walk finds: a physical address, or the error code of a #PF."""

    gpa: int | None
    error: int
    path: tuple[int, ...]  # physical addresses of the entries that it used
    is_gib: bool = False


class Model:
    """The guest's memory, as far as it is tables, and its paging registers."""

    def __init__(self, memory: dict[int, bytes], *, nxe: bool) -> None:
        self.words: dict[int, int] = {}
        for at, data in memory.items():
            for i in range(0, len(data) // 8 * 8, 8):
                self.words[at + i] = int.from_bytes(data[i : i + 8], "little")
        self.cr3, self.wp, self.nxe = PML4, True, nxe
        self.now = self.flushed = 0
        self.edited: dict[int, int] = {}  # entry -> when
        self.invalidated: dict[int, int] = {}  # page -> when

    def word(self, gpa: int) -> int:
        return self.words.get(gpa, 0) if gpa < RAM_MIB << 20 else (1 << 64) - 1

    def walk(self, linear: int, *, write: bool = False, user: bool = False, fetch: bool = False) -> Translation:
        """4-level paging (APM vol. 2, 5.3 and 5.6)."""
        error = write << 1 | user << 2 | (fetch and self.nxe) << 4
        writable = by_user = True
        no_execute = False
        table, path = self.cr3, []
        for shift in (39, 30, 21, 12):
            at = table + (linear >> shift & 511) * 8
            path.append(at)
            entry = self.word(at)
            if not entry & PRESENT:
                return Translation(None, error, tuple(path))
            large = shift in (21, 30) and bool(entry & LARGE)
            reserved = 0xFFF << 40 | (0 if self.nxe else NX) | (LARGE if shift == 39 else 0)
            if large:
                reserved |= (1 << shift) - 1 & ~0x1FFF
            if entry & reserved:
                return Translation(None, error | 9, tuple(path), large and shift == 30)
            writable, by_user = writable and bool(entry & WRITABLE), by_user and bool(entry & USER)
            no_execute = no_execute or bool(entry & NX)
            if large or shift == 12:
                break
            table = entry & ADDRESS
        refused = (user and not by_user) or (fetch and no_execute) or (write and not writable and (user or self.wp))
        if refused:
            return Translation(None, error | 1, tuple(path), large and shift == 30)
        offset = (1 << shift) - 1
        return Translation(entry & ADDRESS & ~offset | linear & offset, 0, tuple(path), large and shift == 30)

    def is_stale(self, linear: int, path: Iterable[int]) -> bool:
        """A TLB may hold something else for this page."""
        since = max(self.flushed, self.invalidated.get(linear >> 12, 0))
        return any(self.edited.get(at, 0) > since for at in path)

    def store(self, gpa: int, value: int) -> None:
        self.now += 1
        if self.word(gpa) & PRESENT or gpa in self.edited:
            self.edited[gpa] = self.now
        if gpa < RAM_MIB << 20:
            self.words[gpa] = value


def start() -> dict[int, bytes]:
    """The tables and frames that a script plays with, besides those of every raw guest."""
    word = struct.Struct("<Q").pack
    frame = bytes(RET_AT) + b"\xc3" + bytes(7)
    root = dict(raw_memory())[PML4] + word(P_PDPT | 7) + word(0) + word(PML4 | 3)
    return {
        PML4: root,
        OTHER_ROOT: root,
        PD + 8 * 3: word(0x83),
        PD + 8 * 4: word(P_PT | 7),
        P_PDPT: word(P_PD | 7),
        P_PD: word(P_PT | 7) + word(Q_PT | 7),
        **{table: b"".join(word(at | 7) for at in FRAMES) for table in (P_PT, Q_PT, R_PT)},
        **dict.fromkeys(FRAMES, frame),
    }


# Entries that may be edited, and pages that go through them.
ENTRIES = [
    *(PT + 8 * (0xA0 + i) for i in range(6)), PD + 8 * 4, PD + 8 * 5, PML4 + 8, PML4 + 16, OTHER_ROOT + 8,
    *(P_PDPT + 8 * i for i in (0, 1, 2, 511)), *(P_PD + 8 * i for i in range(4)),
    *(table + 8 * i for table in (P_PT, Q_PT, R_PT) for i in range(8)),
]  # fmt: skip
PAGES = [
    *(0xA_0000 + 0x1000 * i for i in range(6)), *(0x80_0000 + 0x1000 * i for i in range(8)), 0xA0_0000, 0xA0_1000,
    *(slot << 39 | pdpt << 30 | pd << 21 | pt << 12
      for slot in (1, 2) for pdpt in (0, 1, 511) for pd in (0, 1, 2) for pt in (0, 1, 2, 5)),
]  # fmt: skip


class Script:
    """Commands that are all defined, and the faults that must come."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.nxe = self.random.random() < 0.9
        self.model = Model(dict(raw_memory()) | start(), nxe=self.nxe)
        self.commands: list[bytes] = []
        self.faults: list[tuple[int, int]] = []  # error code, CR2
        self.reached: list[str] = []
        self.table_outside_memory = False
        while len(self.commands) < LENGTH and len(self.faults) < MOST_FAULTS:
            self.random.choices(
                (self.edit, self.burst, self.touch, self.invalidate, self.reload, self.write_protect),
                (6, 2, 10, 1, 1, 1),
            )[0]()

    def emit(self, op: str, address: int = 0, value: int = 0, count: int = 0) -> None:
        self.commands.append(COMMAND.pack(OPS.index(op), address, value, count))
        self.reached.append(op)

    def entry(self) -> int:
        """A value for an entry: mostly something sensible, now and then nonsense."""
        choose = self.random.choice
        tables = (P_PDPT, P_PD, P_PT, Q_PT, R_PT, PT)
        target = choose((*FRAMES, *FRAMES, *tables, choose(NOWHERE), 0x20_0000))
        flags = choose((7, 7, 7, 3, 5, 1, 0, self.random.getrandbits(7))) | choose((0, 0, 0x20, 0x60, 0x100))
        if self.random.random() < 0.1:
            flags |= LARGE
            target = choose((0, 0x20_0000, target))
        return target | flags | choose((0, 0, 0, 0, 0, NX, 1 << 45))

    def routes(self, gpa: int) -> Iterator[int]:
        """Linear addresses at which the kernel reaches a table."""
        yield gpa
        yield ALIAS + gpa
        window = SELF << 39
        here = {PML4: window | SELF << 30 | SELF << 21 | SELF << 12, PT: window, PD: window | SELF << 30}
        if gpa & ADDRESS in here and gpa & ADDRESS != PD:
            yield here[gpa & ADDRESS] | gpa & 0xFFF
        if gpa & ADDRESS == P_PD:
            yield SELF << 39 | SELF << 30 | 1 << 21 | 0 << 12 | gpa & 0xFFF  # by PML4[1] and P_PDPT[0]

    def access(self, op: str, linear: int, value: int = 0) -> bool:
        """One read, write or call, flushed before where that is needed. False: it would reach what no script may."""
        model = self.model
        write, user, fetch = op[1:] not in ("read", "call"), op[0] == "u", op[1:] == "call"
        found = model.walk(linear, write=write, user=user, fetch=fetch)
        if op[1:] in ("or", "and", "xchg"):  # Unicorn reads first; on hardware such a fault is a write's at once
            reading = model.walk(linear, user=user)
            if reading.gpa is None or not self.allowed(op, reading.gpa):
                found = reading
        gpa = found.gpa
        if found.is_gib or (gpa is not None and not self.allowed(op, gpa)):
            return False
        if model.is_stale(linear, found.path):
            if self.random.random() < 0.7:
                self.invalidate(linear)
            else:
                self.reload(model.cr3)
        self.emit(op, linear, value)
        self.table_outside_memory |= found.path[-1] >= RAM_MIB << 20
        if gpa is None:
            self.faults.append((found.error, linear))
            self.reached.append(f"error {found.error}")
        elif write:
            old = model.word(gpa)
            model.store(gpa, {"or": old | value, "and": old & value}.get(op[1:], value))
        return True

    def allowed(self, op: str, gpa: int) -> bool:
        """Scripts leave alone what makes the interpreter run."""
        frame, offset = gpa & ADDRESS, gpa & 0xFFF
        if op[1:] == "call":
            return frame in FRAMES and offset == RET_AT
        if frame in FRAMES:
            return offset < RET_AT
        if op[1:] == "read":
            return gpa % 8 == 0 and (gpa in ENTRIES or (gpa >= RAM_MIB << 20 and gpa >> 32 != 0))
        return gpa in ENTRIES or (op[1:] == "write" and gpa >> 32 != 0)

    def edit(self) -> None:
        at = self.random.choice(ENTRIES)
        linear = self.random.choice(list(self.routes(at)))
        op, value = self.random.choice(("kwrite", "kwrite", "kxchg", "kor", "kand", "uwrite", "uor")), self.entry()
        if op[1:] == "or":
            value = self.random.choice((1, 2, 4, 0x20, 0x40, NX))
        elif op[1:] == "and":
            value = ~self.random.choice((1, 2, 4, 0x20, 0x40, 0x60)) & (1 << 64) - 1
        self.access(op, linear, value)

    def burst(self) -> None:
        """Many entries of one table, one after the other or at once."""
        table, model = self.random.choice((P_PT, Q_PT, R_PT)), self.model
        first, count = self.random.randrange(3), self.random.randrange(4, 6)
        base = self.random.choice((0, ALIAS)) + table
        if self.random.random() < 0.5:
            for slot in range(first, first + count):
                self.access("kwrite", base + 8 * slot, self.entry())
            return
        value = self.entry()
        linear = base + 8 * first
        found = model.walk(linear, write=True)
        if found.gpa == table + 8 * first and not model.is_stale(linear, found.path):
            self.emit("kstos", linear, value, count)
            for slot in range(first, first + count):
                model.store(table + 8 * slot, value)

    def touch(self) -> None:
        op = self.random.choice(("kread", "kwrite", "uread", "uwrite", "kcall", "ucall", "kor"))
        offset = RET_AT if op[1:] == "call" else self.random.randrange(0, 64, 8)
        self.access(op, self.random.choice(PAGES) + offset, self.random.getrandbits(60) << 1)

    def invalidate(self, linear: int | None = None) -> None:
        linear = self.random.choice(PAGES) if linear is None else linear
        self.emit("invlpg", linear)
        self.model.now += 1
        self.model.invalidated[linear >> 12] = self.model.now

    def reload(self, root: int | None = None) -> None:
        model = self.model
        model.cr3 = self.random.choice((PML4, PML4, OTHER_ROOT)) if root is None else root
        self.emit("cr3", model.cr3)
        model.now += 1
        model.flushed = model.now

    def write_protect(self) -> None:
        self.model.wp = not self.model.wp
        self.emit("cr0", CR0 if self.model.wp else CR0 & ~WP)


@functools.cache
def program() -> bytes:
    return RawGuest(PROGRAM, NATIVE_METAL).code.data


def run(script: Script, where: Where) -> dict[str, object]:
    """What the guest leaves behind."""
    commands = b"".join(script.commands) + COMMAND.pack(0, 0, 0, 0)
    guest = RawGuest(
        PROGRAM, where, memory=start() | {SCRIPT: commands}, gates={0x80: ("from_user", {"dpl": 3})},
        prepare=lambda vmcb: setattr(vmcb, "efer", 0xD01 if script.nxe else 0x501),
    ).finish()  # fmt: skip
    names = ("rax", "rdi", "rsi", "r13", "r14", "cr0", "cr2", "cr3")
    registers = guest.registers()
    left: dict[str, object] = {
        "registers": {name: registers[name] for name in names}, "log": guest.log,
        "memory": guest.read(0, 0xB_0000), "retired": guest.retired,
    }  # fmt: skip
    guest.close()
    return left


def case(seed: int) -> Iterable[str]:
    script = Script(seed)
    metal = run(script, NATIVE_METAL)
    log = metal["log"]
    assert isinstance(log, list)
    assert [(record.error, record.cr2) for record in log] == script.faults, "metal is not what the model says"
    assert all(record.vector == 14 for record in log)
    portable = (PORTABLE_METAL, PORTABLE_SHADOW, PORTABLE_TRAP) if seed % 8 == 0 else ()
    for where in (NATIVE_HW, NATIVE_SHADOW, NATIVE_TRAP, *portable):
        if where is NATIVE_HW and script.table_outside_memory:
            continue  # nested paging ends a guest whose tables lie where there is no memory
        left = run(script, where)
        for name, value in left.items():
            assert value == metal[name], f"{where.mode.id}: {name} {differing(value, metal[name])}"
    return script.reached


def differing(one: object, other: object) -> list[str]:
    """Where two memories differ."""
    if not isinstance(one, bytes) or not isinstance(other, bytes):
        return []
    return [f"{at:#x}" for at in range(0, len(one), 8) if one[at : at + 8] != other[at : at + 8]][:8]

"""Helpers for the tests: an assembler, and raw guests of a few instructions that run under any cpu mode.

A raw guest starts at ring 0 in 64-bit mode at CODE, with the memory map below. Each of its 256 gates leads to one
handler that writes a Record to LOG and goes on at the address in R15 (exceptions) or behind the instruction (others).
Vector 0x80 can be called from ring 3 and ends the guest, as HLT with interrupts off does at ring 0.
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from hv.costs import CostModel, load
from hv.host.console import Console
from hv.host.outside import Outside
from hv.loader import Guest, Segment
from hv.mode import Mode
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Ended, Idle, Paused
from hv.silicon.x86_64.state import REGISTERS
from hv.silicon.x86_64.svm import Vmcb
from hv.vm import Vm
from modes.bare_metal import BareMetal
from modes.full_emulation.mode import TrapAndEmulate
from modes.full_emulation.translator.mode import FullEmulation
from modes.hw_assist.mode import HwAssist
from modes.hw_assist.shadow import HwShadow
from modes.posted_interrupts.mode import Avic, PostedInterrupts

# --- the assembler --------------------------------------------------------------------------------------------------

CACHE = Path(tempfile.gettempdir()) / f"hv-test-assembler-{os.getuid()}"


class Code(NamedTuple):
    """Machine code and the addresses of its labels."""

    data: bytes
    labels: Mapping[str, int]


@functools.cache
def assemble(source: str, origin: int = 0) -> Code:
    """Assemble GNU syntax for x86-64 at `origin`, with zig. The result is kept on disk, so a run does it only once."""
    name = hashlib.sha256(f"{origin}\n{source}".encode()).hexdigest()[:32]
    kept = CACHE / f"{name}.elf"
    if not kept.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            here = Path(folder)
            (here / "code.S").write_text(f".code64\n{source}\n", encoding="utf-8")
            (here / "code.ld").write_text(f"SECTIONS {{ . = {origin}; .text : {{ *(.text) }} }}\n", encoding="utf-8")
            command = [
                *(sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-freestanding-none", "-nostdlib", "-static"),
                *("-Wl,-T,code.ld", f"-Wl,-e,{origin}", "code.S", "-o", "code.elf"),
            ]
            done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            (here / "code.elf").replace(kept)
    elf = ELFFile(BytesIO(kept.read_bytes()))
    symbols, text = elf.get_section_by_name(".symtab"), elf.get_section_by_name(".text")
    assert isinstance(symbols, SymbolTableSection)
    assert text is not None
    labels = {symbol.name: symbol["st_value"] for symbol in symbols.iter_symbols() if symbol.name}
    return Code(text.data(), labels)


# --- raw guests -----------------------------------------------------------------------------------------------------

RAM_MIB = 16
PML4, PDPT, PD, PT, CHIPS, GDT, IDT, TSS = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000, 0x8000
HANDLERS, CODE = 0x1_0000, 0x1_4000
STACK, STACK_OF_RING_0, STACK_OF_IST_1, USER_STACK = 0x3_0000, 0x3_2000, 0x3_4000, 0x3_6000  # their tops
OTHER_STACK = 0x3_8000  # of a second CPU
DATA, LOG, LOG_NEXT = 0x4_0000, 0x5_0000, 0x4_F000
NOT_MAPPED = 0x40_0000  # a linear address without a page
LAPIC, IOAPIC = 0xFEE0_0000, 0xFEC0_0000  # mapped where they are
KERNEL_CS, KERNEL_SS, USER_SS, USER_CS, TR = 0x08, 0x10, 0x23, 0x2B, 0x30
WITH_ERROR_CODE = (8, 10, 11, 12, 13, 14, 17)
MOST_RECORDS = 40  # then the guest ends
RECORD = struct.Struct("<10Q")
LIMIT = 500_000 * MILLI  # virtual time that no raw guest needs

PRELUDE = f"""
.set DATA, {DATA}
.set LOG_NEXT, {LOG_NEXT}
.set NOT_MAPPED, {NOT_MAPPED}
.set LAPIC, {LAPIC}
.set IOAPIC, {IOAPIC}
.set STACK, {STACK}
.set USER_STACK, {USER_STACK}
.macro to_user target            /* go on at ring 3, with interrupts off */
    push ${USER_SS}
    push $USER_STACK
    push $2
    push ${USER_CS}
    push $\\target
    iretq
.endm
.macro lapic offset, value
    mov $LAPIC, %ebp
    movl $\\value, \\offset(%rbp)
.endm
.macro finish
    cli
    hlt
.endm
"""

# For guests with two CPUs: `start_other` wakes the second, which begins at the label `other`, at ring 0 in 64-bit mode.
START_OTHER = """
.macro start_other
    lapic 0xF0, 0x1FF
    movl $0x1000000, 0x310(%rbp)
    movl $0x4500, 0x300(%rbp)
    movl $0x4615, 0x300(%rbp)
.endm
"""
TRAMPOLINE = f"""
.org 0x1000 /* the page that start_other names */
.code16
trampoline:
    cli
    mov %cs, %ax
    mov %ax, %ds
    lgdtl trampoline_table - trampoline
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $0x08, $protected
.balign 8
trampoline_gdt: .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
trampoline_table: .word 23
    .long trampoline_gdt
kernel_table: .word 0x3F
    .long {GDT}
.code32
protected:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x620, %eax
    mov %eax, %cr4
    mov ${PML4}, %eax
    mov %eax, %cr3
    mov $0xC0000080, %ecx
    xor %edx, %edx
    mov $0xD01, %eax
    wrmsr
    mov $0x80010033, %eax
    mov %eax, %cr0
    lgdt kernel_table
    ljmp $0x08, $long_mode
kernel_interrupts: .word 0xFFF
    .quad {IDT}
.code64
long_mode:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov ${OTHER_STACK}, %esp
    lidt kernel_interrupts
    lapic 0xF0, 0x1FF
    jmp other
"""


def _handlers() -> str:
    stubs = "\n".join(
        f".balign 16\n{'' if vector in WITH_ERROR_CODE else 'push $0'}\npush ${vector}\njmp common"
        for vector in range(256)
    )
    return f"""{stubs}
    .balign 16
common:
    push %rax
    push %rbx
    mov {LOG_NEXT}, %rax
    {"".join(f"mov {16 + 8 * i}(%rsp), %rbx; mov %rbx, {8 * i}(%rax);" for i in range(7))}
    mov %cr2, %rbx
    mov %rbx, 56(%rax)
    lea 24(%rsp), %rbx
    mov %rbx, 64(%rax)
    pushf
    pop %rbx
    mov %rbx, 72(%rax)
    add $80, %rax
    mov %rax, {LOG_NEXT}
    cmp ${LOG + 80 * MOST_RECORDS}, %rax
    jae end
    cmpl $0x80, 16(%rsp)
    je end
    cmpl $32, 16(%rsp)
    jae back
    cmpl $3, 16(%rsp)
    je back
    mov %r15, 32(%rsp)
back:
    pop %rbx
    pop %rax
    add $16, %rsp
    iretq
end:
    cli
    hlt
    jmp end
"""


class Record(NamedTuple):
    """What the handler found: the frame on its stack, CR2, and RSP and RFLAGS as they were in the handler."""

    vector: int
    error: int
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int
    cr2: int
    frame: int  # address of the error code's place, or of the one that the handler gave it
    flags_in_handler: int


class Where(NamedTuple):
    """A mode and a path of the silicon; and who delivers interrupts, if that is another mode."""

    mode: type[Mode]
    portable: bool = False
    interrupts: type[Mode] | None = None

    @property
    def modes(self) -> dict[str, type[Mode]]:
        return {"cpu": self.mode} | ({} if self.interrupts is None else {"interrupts": self.interrupts})


NATIVE_METAL, PORTABLE_METAL = Where(BareMetal), Where(BareMetal, True)
NATIVE_HW, PORTABLE_HW = Where(HwAssist), Where(HwAssist, True)
NATIVE_POSTED = Where(HwAssist, interrupts=PostedInterrupts)
PORTABLE_POSTED = NATIVE_POSTED._replace(portable=True)
NATIVE_AVIC = Where(HwAssist, interrupts=Avic)
PORTABLE_AVIC = NATIVE_AVIC._replace(portable=True)
NATIVE_SHADOW, PORTABLE_SHADOW = Where(HwShadow), Where(HwShadow, True)
NATIVE_TRAP, PORTABLE_TRAP = Where(TrapAndEmulate), Where(TrapAndEmulate, True)
NATIVE_TRANSLATED, PORTABLE_TRANSLATED = Where(FullEmulation), Where(FullEmulation, True)
NATIVE = (NATIVE_METAL, NATIVE_HW, NATIVE_SHADOW, NATIVE_TRAP, NATIVE_TRANSLATED)
EVERYWHERE = [
    pytest.param(NATIVE_METAL, id="metal-native"),
    pytest.param(PORTABLE_METAL, id="metal-portable"),
    pytest.param(NATIVE_HW, id="hw-native"),
    pytest.param(PORTABLE_HW, id="hw-portable"),
    pytest.param(NATIVE_SHADOW, id="shadow-native"),
    pytest.param(PORTABLE_SHADOW, id="shadow-portable"),
]
UNDER_HW = EVERYWHERE[2:4]
UNDER_POSTED = [
    pytest.param(NATIVE_POSTED, id="posted-native"),
    pytest.param(PORTABLE_POSTED, id="posted-portable"),
]
UNDER_AVIC = [
    pytest.param(NATIVE_AVIC, id="avic-native"),
    pytest.param(PORTABLE_AVIC, id="avic-portable"),
]
UNDER_SHADOW = EVERYWHERE[4:]
TRAPPED = [  # deprivileged, but nothing is executed that is not the guest's
    pytest.param(NATIVE_TRAP, id="trap-native"),
    pytest.param(PORTABLE_TRAP, id="trap-portable"),
]
UNDER_TRAP = [
    *TRAPPED,
    pytest.param(NATIVE_TRANSLATED, id="translated-native"),
    pytest.param(PORTABLE_TRANSLATED, id="translated-portable"),
]
WITH_TWO_CPUS = EVERYWHERE + UNDER_POSTED + UNDER_AVIC + UNDER_TRAP


def gate(handler: int, *, dpl: int = 0, kind: int = 0xE, ist: int = 0, present: bool = True) -> bytes:
    """A 64-bit gate (APM vol. 2, 4.8.4): kind 0xE clears IF, 0xF does not."""
    rights = present << 7 | dpl << 5 | kind
    return struct.pack("<HHBBHII", handler & 0xFFFF, KERNEL_CS, ist, rights, handler >> 16 & 0xFFFF, handler >> 32, 0)


@functools.cache
def raw_memory() -> tuple[tuple[int, bytes], ...]:
    """The memory of every raw guest: page tables, descriptor tables, handlers. Ring 3 may use the first 2 MiB."""
    word = struct.Struct("<Q").pack
    pages = b"".join(word(page << 12 | 7) for page in range(512))
    handlers = assemble(_handlers(), HANDLERS).data
    gates = b"".join(gate(HANDLERS + _stub(vector), dpl=3 if vector == 0x80 else 0) for vector in range(256))
    tss_descriptor = struct.pack("<HHBBBBII", 0x67, TSS & 0xFFFF, TSS >> 16, 0x8B, 0, 0, 0, 0)
    segments = (0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF,
                0x00AF_FB00_0000_FFFF)  # fmt: skip
    tss = bytearray(0x68)
    struct.pack_into("<Q", tss, 4, STACK_OF_RING_0)
    struct.pack_into("<Q", tss, 0x24, STACK_OF_IST_1)
    struct.pack_into("<H", tss, 0x66, 0x68)  # no I/O permission bitmap
    return (
        (PML4, word(PDPT | 7)),
        (PDPT, word(PD | 7) + bytes(16) + word(CHIPS | 7)),
        (PD, word(PT | 7) + word(0x20_0000 | 0x83)),
        (PT, pages),
        (CHIPS + 8 * (IOAPIC >> 21 & 511), word(IOAPIC | 0x93)),
        (CHIPS + 8 * (LAPIC >> 21 & 511), word(LAPIC | 0x93)),
        (GDT, struct.pack("<6Q", *segments) + tss_descriptor),
        (IDT, gates),
        (TSS, bytes(tss)),
        (HANDLERS, handlers),
        (LOG_NEXT, word(LOG)),
    )


def _stub(vector: int) -> int:
    """Offset of a vector's first instruction in the handlers."""
    return 16 * vector


def start_state(vmcb: Vmcb, entry: int) -> None:
    """Ring 0 in 64-bit mode, interrupts off, with the tables above."""
    vmcb.cs.selector, vmcb.cs.attrib, vmcb.cs.limit = KERNEL_CS, 0xA9B, 0xFFFF_FFFF
    for name in ("ss", "ds", "es"):
        segment = getattr(vmcb, name)
        segment.selector, segment.attrib, segment.limit = KERNEL_SS, 0xC93, 0xFFFF_FFFF
    for name in ("fs", "gs"):
        segment = getattr(vmcb, name)
        segment.selector, segment.attrib, segment.limit, segment.base = 0, 0, 0, 0
    vmcb.tr.selector, vmcb.tr.attrib, vmcb.tr.limit, vmcb.tr.base = TR, 0x8B, 0x67, TSS
    vmcb.gdtr.base, vmcb.gdtr.limit = GDT, 0x3F
    vmcb.idtr.base, vmcb.idtr.limit = IDT, 0xFFF
    vmcb.cr0, vmcb.cr3, vmcb.cr4, vmcb.efer = 0x8001_0033, PML4, 0x620, 0xD01
    vmcb.rflags, vmcb.rip, vmcb.rsp, vmcb.dr6, vmcb.dr7 = 2, entry, STACK, 0xFFFF_0FF0, 0x400


@functools.cache
def costs() -> CostModel:
    return load()


def two_cpus(code: str) -> str:
    """The code of a guest with two CPUs."""
    return START_OTHER + code + TRAMPOLINE


class RawGuest:
    """A guest of a few instructions. `code` is assembly text, or bytes that are put at CODE.

    `gates` replaces gates of the IDT: vector -> (label, keywords of gate()). `prepare` may change the first state.
    """

    def __init__(
        self, code: str | bytes, where: Where, *, gates: Mapping[int, tuple[str, Mapping[str, int]]] | None = None,
        memory: Mapping[int, bytes] | None = None, prepare: Callable[[Vmcb], None] | None = None, cpus: int = 1,
    ) -> None:  # fmt: skip
        self.code = assemble(PRELUDE + code, CODE) if isinstance(code, str) else Code(code, {})
        parts = [*raw_memory(), (CODE, self.code.data)]
        for vector, (label, options) in (gates or {}).items():
            handler = self.code.labels[label] if label else HANDLERS + _stub(vector)
            parts.append((IDT + 16 * vector, gate(handler, **options)))  # type: ignore[arg-type]
        parts += (memory or {}).items()
        segments = [Segment(at, len(data), data) for at, data in parts]
        guest = Guest(Path("raw"), "", CODE, segments, {}, b"")
        self.console = Console()
        self.vm = Vm(
            where.modes, guest, costs(), mib=RAM_MIB, smp=cpus, portable=where.portable, outside=Outside(self.console)
        )
        self.machine = self.vm.machine
        self.cpu = self.machine.cpus[0]
        self.vmcb = self.cpu.vmcb
        self.machine.engine.state.regs[:] = [0] * 16
        self._retired_before = self.cpu.m.retired
        mode = self.vm.mode
        first = Vmcb() if isinstance(mode, TrapAndEmulate) else self.vmcb
        start_state(first, CODE)
        if prepare is not None:
            prepare(first)
        if isinstance(mode, TrapAndEmulate | HwShadow):
            mode.adopt(first)

    def run(self, cycles: int | None = None) -> Ended | Idle | Paused:
        """Run to the end, or for so many virtual cycles."""
        return self.vm.run(LIMIT if cycles is None else self.vm.now + cycles * MILLI)

    def finish(self) -> RawGuest:
        """Run to the guest's last HLT."""
        outcome = self.run()
        assert isinstance(outcome, Idle), outcome
        return self

    def crash(self) -> str:
        """Run until the machine gives up. The report, which must be one line."""
        outcome = self.run()
        assert isinstance(outcome, Ended), outcome
        assert outcome.cause == "crash", outcome
        assert outcome.report
        assert "\n" not in outcome.report
        return outcome.report

    def __getitem__(self, label: str) -> int:
        """Address of a label."""
        return self.code.labels[label]

    def read(self, address: int, size: int) -> bytes:
        """Guest-physical memory."""
        return self.machine.memory.read(self.machine.ram_base + address, size)

    def word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def words(self, count: int, address: int = DATA) -> list[int]:
        return list(struct.unpack(f"<{count}Q", self.read(address, 8 * count)))

    @property
    def retired(self) -> int:
        """Instructions since the start."""
        return self.cpu.m.retired - self._retired_before

    @property
    def exits(self) -> dict[str, int]:
        return self.vm.ledger.totals()

    @property
    def log(self) -> list[Record]:
        """What the handlers have written."""
        end = self.word(LOG_NEXT)
        return [Record(*RECORD.unpack(self.read(at, RECORD.size))) for at in range(LOG, end, RECORD.size)]

    def registers(self) -> dict[str, int]:
        """General registers, RIP, RFLAGS and the like, wherever they are now."""
        self.cpu.leave()
        values = dict(zip(REGISTERS, self.machine.engine.state.regs, strict=True))
        vmcb = self.vmcb
        values.update(rax=vmcb.rax, rsp=vmcb.rsp, rip=vmcb.rip, rflags=vmcb.rflags, cr0=vmcb.cr0, cr2=vmcb.cr2,
                      cr3=vmcb.cr3, cr4=vmcb.cr4, cs=vmcb.cs.selector, ss=vmcb.ss.selector, cpl=vmcb.cpl)  # fmt: skip
        told = self.vm.mode.guest_registers(self.cpu)
        values.update((name, told[name]) for name in values.keys() & told)
        return values

    def close(self) -> None:
        self.vm.close()

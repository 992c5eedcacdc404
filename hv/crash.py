"""The report of a guest that cannot go on: registers and a symbolised backtrace.

The walk follows the chain of frame pointers, which the kernel's entry code carries on through exceptions. Names come
from the ELF file's symbols, files and lines from its DWARF line program.
"""

from __future__ import annotations

import bisect
import io
import struct

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from hv.loader import Guest
from hv.silicon.x86_64.cpu import Cpu
from hv.silicon.x86_64.state import REGISTERS

DEPTH = 32  # frames


class Symbols:
    """Addresses to `function+offset (file:line)`."""

    def __init__(self, guest: Guest) -> None:
        elf = ELFFile(io.BytesIO(guest.image))
        table = elf.get_section_by_name(".symtab")
        functions = []
        if isinstance(table, SymbolTableSection):
            for symbol in table.iter_symbols():
                kind, place = symbol["st_info"]["type"], symbol["st_shndx"]
                if kind in ("STT_FUNC", "STT_NOTYPE") and symbol.name and place != "SHN_ABS":
                    functions.append((symbol["st_value"], symbol["st_size"], symbol.name))
        self.functions = sorted(functions)
        self.lines = sorted(_lines(elf))

    def name(self, address: int) -> str:
        """What lies at an address; the bare number when nothing is known."""
        at = bisect.bisect_right(self.functions, (address, 1 << 64, "")) - 1
        if at < 0:
            return f"{address:#x}"
        start, size, name = self.functions[at]
        if address >= start + (size or 0x1000):  # a label of assembly code has no size
            return f"{address:#x}"
        where = self._line(address)
        return f"{address:#x} {name}+{address - start:#x}" + (f" ({where})" if where else "")

    def _line(self, address: int) -> str:
        at = bisect.bisect_right(self.lines, (address, "\U0010ffff", 0)) - 1
        if at < 0 or not self.lines[at][1]:
            return ""
        return f"{self.lines[at][1]}:{self.lines[at][2]}"


def _lines(elf: ELFFile) -> list[tuple[int, str, int]]:
    """(address, file, line) for every row of the line programs; an end of sequence has no file."""
    if not elf.has_dwarf_info():
        return []
    rows = []
    info = elf.get_dwarf_info()
    for unit in info.iter_CUs():
        program = info.line_program_for_CU(unit)
        if program is None:
            continue
        files = program["file_entry"]
        first = 0 if program["version"] >= 5 else 1
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            index = state.file - first
            name = files[index].name.decode() if 0 <= index < len(files) and not state.end_sequence else ""
            rows.append((state.address, name, state.line))
    return rows


def _registers(cpu: Cpu) -> list[tuple[str, int]]:
    """Name and value, from wherever the guest's state is now."""
    values = dict(zip(REGISTERS, cpu.state.regs, strict=True))
    vmcb = cpu.vmcb
    cpu.leave()
    values["rax"], values["rsp"] = vmcb.rax, vmcb.rsp
    return [
        *values.items(),
        ("rip", vmcb.rip), ("rflags", vmcb.rflags), ("cr0", vmcb.cr0), ("cr2", vmcb.cr2), ("cr3", vmcb.cr3),
        ("cr4", vmcb.cr4), ("efer", vmcb.efer), ("cs", vmcb.cs.selector), ("ss", vmcb.ss.selector),
    ]  # fmt: skip


def backtrace(cpu: Cpu, symbols: Symbols) -> list[str]:
    """One line a frame, innermost first."""
    registers = dict(_registers(cpu))
    frames = [symbols.name(registers["rip"])]
    pointer, seen = registers["rbp"], set()
    while pointer and pointer % 8 == 0 and pointer not in seen and len(frames) < DEPTH:
        seen.add(pointer)
        words = cpu.read_linear(pointer, 16)
        if len(words) < 16:
            break
        pointer, back = struct.unpack("<QQ", words)
        if not back:
            break
        frames.append(symbols.name(back - 1))
    return frames


def report(cpu: Cpu, guest: Guest) -> str:
    """Registers, four a line, and the backtrace."""
    cells = [f"{name:>6} {value:016x}" for name, value in _registers(cpu)]
    lines = ["  " + "  ".join(cells[at : at + 4]) for at in range(0, len(cells), 4)]
    lines.append("  backtrace:")
    lines += [f"    #{number} {frame}" for number, frame in enumerate(backtrace(cpu, Symbols(guest)))]
    return "\n".join(lines)

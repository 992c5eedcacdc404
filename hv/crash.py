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
from hv.silicon.memory import BusError
from hv.silicon.x86_64.paging import walk
from hv.silicon.x86_64.state import REGISTERS
from hv.vm import Vm

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

    def extent(self, function: str) -> tuple[int, int] | None:
        """First address of a function, and the one behind it."""
        for at, (start, size, name) in enumerate(self.functions):
            if name == function:
                following = [other for other, _, _ in self.functions[at:] if other > start]
                return start, start + size if size else (following[0] if following else start + 0x1000)
        return None

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


def _registers(vm: Vm) -> dict[str, int]:
    """Name and value as the guest believes them to be, from wherever they are now."""
    cpu = vm.machine.running
    values = dict(zip(REGISTERS, cpu.state.regs, strict=True))
    told = vm.mode.guest_registers(cpu)
    vmcb = cpu.vmcb
    cpu.leave()
    values |= {
        "rax": vmcb.rax, "rsp": vmcb.rsp, "rip": vmcb.rip, "rflags": vmcb.rflags, "cr0": vmcb.cr0, "cr2": vmcb.cr2,
        "cr3": vmcb.cr3, "cr4": vmcb.cr4, "efer": vmcb.efer, "cs": vmcb.cs.selector, "ss": vmcb.ss.selector,
        "cpl": vmcb.cpl,
    }  # fmt: skip
    return {**values, **told}


def _read(vm: Vm, registers: dict[str, int], address: int, size: int) -> bytes:
    """Bytes at a linear address by the guest's own tables; fewer where a page is not mapped."""
    memory, base = vm.machine.memory, vm.machine.ram_base
    out = b""
    while len(out) < size:
        at = address + len(out)
        chunk = min(size - len(out), 0x1000 - at % 0x1000)
        gpa = walk(lambda entry: memory.read_u64(base + entry), registers["cr3"], at) if registers["cr0"] >> 31 else at
        if gpa is None:
            break
        try:
            out += memory.read(base + gpa, chunk)
        except BusError:
            break
    return out


def backtrace(vm: Vm, registers: dict[str, int]) -> list[str]:
    """One line a frame, innermost first."""
    symbols = Symbols(vm.guest)
    frames = [symbols.name(registers["rip"])]
    pointer, seen = registers["rbp"], set()
    while pointer and pointer % 8 == 0 and pointer not in seen and len(frames) < DEPTH:
        seen.add(pointer)
        words = _read(vm, registers, pointer, 16)
        if len(words) < 16:
            break
        pointer, back = struct.unpack("<QQ", words)
        if not back:
            break
        frames.append(symbols.name(back - 1))
    return frames


def report(vm: Vm) -> str:
    """Registers, four a line, and the backtrace."""
    registers = _registers(vm)
    cells = [f"{name:>6} {value:016x}" for name, value in registers.items()]
    lines = ["  " + "  ".join(cells[at : at + 4]) for at in range(0, len(cells), 4)]
    lines.append("  backtrace:")
    lines += [f"    #{number} {frame}" for number, frame in enumerate(backtrace(vm, registers))]
    return "\n".join(lines)

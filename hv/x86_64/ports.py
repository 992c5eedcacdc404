"""An IOIO exit: the port access of an IN, OUT, INS or OUTS instruction, performed on the emulated board.

EXITINFO1 gives port, size and direction (APM vol. 2, 15.10.2). Unicorn does not say whether it was a string form, so
the instruction is looked at. A REP string transfer is one exit per instruction and page touched.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.silicon.bus import PortBus
from hv.silicon.x86_64.cpu import Cpu, Exit
from hv.silicon.x86_64.state import RAX, RCX, RSI

DF = 1 << 10
RDI = 7
ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF


Load = Callable[[int, int], bytes]  # bytes at a linear address
Store = Callable[[int, bytes], None]


def port_access(cpu: Cpu, exit: Exit, ports: PortBus, load: Load, store: Store) -> None:
    """Perform it. What `load` or `store` raises ends a string form in front of the element that it is about."""
    port, size, is_in = exit.info1 >> 16, exit.info1 >> 4 & 7, bool(exit.info1 & 1)
    code = cpu.instruction_bytes()
    prefixes = 0
    while code[prefixes : prefixes + 1] in _PREFIXES:
        prefixes += 1
    length = exit.info2 - cpu.state.eip
    if code[prefixes : prefixes + 1] in (b"\x6c", b"\x6d", b"\x6e", b"\x6f"):
        repeated = b"\xf2" in code[:prefixes] or b"\xf3" in code[:prefixes]
        _string(cpu, ports, port, size, is_in, repeated, length, load, store)
        return
    regs = cpu.regs
    if is_in:
        value = ports.read(port, size)
        regs[RAX] = value if size == 4 else regs[RAX] & ~((1 << 8 * size) - 1) | value
    else:
        ports.write(port, size, regs[RAX] & (1 << 8 * size) - 1)
    cpu.skip(length)


_PREFIXES = (b"\x66", b"\x67", b"\xf2", b"\xf3", *(bytes((value,)) for value in range(0x40, 0x50)))  # REX last


def _string(
    cpu: Cpu, ports: PortBus, port: int, size: int, is_in: bool, repeated: bool, length: int, load: Load, store: Store
) -> None:
    """INS and OUTS, with REP as far as the page goes."""
    step = -size if cpu.engine.rflags() & DF else size
    string_transfer(cpu, ALL_ONES, ports, port, step, is_in, repeated, load, store)
    if not repeated or not cpu.regs[RCX]:
        cpu.skip(length)


def string_transfer(
    cpu: Cpu, mask: int, ports: PortBus, port: int, step: int, is_in: bool, repeated: bool, load: Load, store: Store
) -> None:  # fmt: skip
    """The elements of an INS or OUTS that begin in one page, in as few pieces as can be.

    `step` is the size of an element, negative with DF; `mask` is the width of addresses. Before a device gives data
    away the place for it is written with what is there, so that a fault comes first and nothing is lost. Of a REP each
    element is retired; the instruction itself is the caller's to count.
    """
    regs, size, index = cpu.regs, abs(step), RDI if is_in else RSI
    page = regs[index] >> 12
    while (not repeated or regs[RCX]) and regs[index] >> 12 == page:
        count = min(_whole(regs[index] & 0xFFF, step), regs[RCX]) if repeated else 1
        low = regs[index] if step > 0 else regs[index] - (count - 1) * size
        if is_in:
            store(low, load(low, count * size))
            store(low, _in_order(ports.read_string(port, size, count), step))
        else:
            ports.write_string(port, size, _in_order(load(low, count * size), step))
        regs[index] = regs[index] + count * step & mask
        if not repeated:
            break
        regs[RCX] = regs[RCX] - count & mask
        cpu.m.retired += count


def _whole(offset: int, step: int) -> int:
    """How many elements from here on lie in this page, or 1 for one that reaches into the next."""
    room = 0x1000 - offset
    if step > 0:
        return max(room // step, 1)
    return offset // -step + 1 if room >= -step else 1


def _in_order(data: bytes, step: int) -> bytes:
    """Elements in the order of their addresses from the order in which they pass the port, and back."""
    if step > 0:
        return data
    return b"".join(data[at + step : at] for at in range(len(data), 0, step))

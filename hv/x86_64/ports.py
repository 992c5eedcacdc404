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
    regs = cpu.regs
    index = RDI if is_in else RSI
    step = -size if cpu.engine.rflags() & DF else size
    page = regs[index] >> 12
    while (not repeated or regs[RCX]) and regs[index] >> 12 == page:
        if is_in:
            store(regs[index], ports.read(port, size).to_bytes(size, "little"))
        else:
            ports.write(port, size, int.from_bytes(load(regs[index], size), "little"))
        regs[index] = (regs[index] + step) & ALL_ONES
        if not repeated:
            break
        regs[RCX] = (regs[RCX] - 1) & ALL_ONES
    if not repeated or not regs[RCX]:
        cpu.skip(length)

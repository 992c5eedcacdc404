"""An IOIO exit: the port access of an IN, OUT, INS or OUTS instruction, performed on the emulated board.

EXITINFO1 gives port, size and direction (APM vol. 2, 15.10.2). Unicorn does not say whether it was a string form, so
the instruction is looked at. A REP string transfer is one exit per instruction and page touched.
"""

from __future__ import annotations

from hv.silicon.bus import PortBus
from hv.silicon.memory import BusError
from hv.silicon.x86_64.cpu import Cpu, Exit
from hv.silicon.x86_64.state import RAX, RCX, RSI

DF = 1 << 10
RDI = 7
ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF


def port_access(cpu: Cpu, exit: Exit, ports: PortBus) -> bool:
    """Perform it. False when a string form touches a page that is not backed: then back it and try again."""
    port, size, is_in = exit.info1 >> 16, exit.info1 >> 4 & 7, bool(exit.info1 & 1)
    code = cpu.instruction_bytes()
    prefixes = 0
    while code[prefixes : prefixes + 1] in _PREFIXES:
        prefixes += 1
    length = exit.info2 - cpu.state.eip
    if code[prefixes : prefixes + 1] in (b"\x6c", b"\x6d", b"\x6e", b"\x6f"):
        repeated = b"\xf2" in code[:prefixes] or b"\xf3" in code[:prefixes]
        return _string(cpu, ports, port, size, is_in, repeated, length)
    regs = cpu.regs
    if is_in:
        value = ports.read(port, size)
        regs[RAX] = value if size == 4 else regs[RAX] & ~((1 << 8 * size) - 1) | value
    else:
        ports.write(port, size, regs[RAX] & (1 << 8 * size) - 1)
    cpu.skip(length)
    return True


_PREFIXES = (b"\x66", b"\x67", b"\xf2", b"\xf3", *(bytes((value,)) for value in range(0x40, 0x50)))  # REX last


def _string(cpu: Cpu, ports: PortBus, port: int, size: int, is_in: bool, repeated: bool, length: int) -> bool:
    """INS and OUTS, with REP as far as the page goes."""
    regs, memory = cpu.regs, cpu.engine.memory
    index = RDI if is_in else RSI
    step = -size if cpu.engine.rflags() & DF else size
    if repeated and not regs[RCX]:
        cpu.skip(length)
        return True
    page = regs[index] >> 12
    while regs[index] >> 12 == page:
        gpa = cpu.linear(regs[index])
        hpa = None if gpa is None else cpu.guest_physical(gpa)
        if hpa is None:
            return False
        try:
            if is_in:
                memory.write(hpa, ports.read(port, size).to_bytes(size, "little"))
            else:
                ports.write(port, size, int.from_bytes(memory.read(hpa, size), "little"))
        except BusError:
            return False
        regs[index] = (regs[index] + step) & ALL_ONES
        if not repeated:
            break
        regs[RCX] = (regs[RCX] - 1) & ALL_ONES
        if not regs[RCX]:
            break
    if not repeated or not regs[RCX]:
        cpu.skip(length)
    return True

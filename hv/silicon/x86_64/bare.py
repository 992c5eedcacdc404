"""Nothing but Unicorn, to measure against: what does a guest or an exit cost without hv?"""

from __future__ import annotations

import time

import unicorn
from unicorn import x86_const as x86


def bare_loop(code: bytes, address: int, entry: int, count: int, slice: int) -> float:
    """Host seconds for `count` instructions of the guest's own loop on nothing but Unicorn, preempted by count=."""
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    uc.mem_map(address & ~0xFFF, (len(code) + 0x2FFF) & ~0xFFF)
    uc.mem_write(address, code)
    uc.mem_map(0x7000_0000, 0x2000)
    uc.reg_write(x86.UC_X86_REG_RSP, 0x7000_1000)
    uc.reg_write(x86.UC_X86_REG_RDI, 0x7000_1800)
    place = entry
    started = time.perf_counter()
    for _ in range(count // slice):
        uc.emu_start(place, 0, count=slice)
        place = uc.reg_read(x86.UC_X86_REG_RIP)
    return time.perf_counter() - started


def empty_hook(count: int) -> float:
    """Host seconds for one Python hook of Unicorn that does nothing."""
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    uc.mem_map(0x1000, 0x1000)
    uc.mem_write(0x1000, bytes.fromhex("0fa2ffce75fa"))  # cpuid; dec esi; jnz
    uc.reg_write(x86.UC_X86_REG_ESI, count)
    uc.hook_add(unicorn.UC_HOOK_INSN, lambda uc, data: 1, None, 1, 0, x86.UC_X86_INS_CPUID)
    started = time.perf_counter()
    uc.emu_start(0x1000, 0x1006)
    return (time.perf_counter() - started) / count

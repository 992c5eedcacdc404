"""What a hypervisor's guest is told when it asks what CPU it has: the silicon's answer, less what it cannot use."""

from __future__ import annotations

from hv.silicon.x86_64.cpu import Cpu
from hv.silicon.x86_64.cpuid import cpuid
from hv.silicon.x86_64.state import RAX, RBX, RCX, RDX
from hv.x86_64.platform import LEAVES, Platform

HYPERVISOR_BIT, SVM_BIT = 1 << 31, 1 << 2


def answer_cpuid(cpu: Cpu, platform: Platform) -> None:
    """Put the answer to the leaf in EAX into the registers."""
    regs = cpu.regs
    leaf, subleaf = regs[RAX] & 0xFFFF_FFFF, regs[RCX] & 0xFFFF_FFFF
    eax, ebx, ecx, edx = cpuid(leaf, cpu.index, cpu.timing, cpu.cpus, subleaf)
    if leaf == 1:
        ecx |= HYPERVISOR_BIT
    elif leaf == 0x8000_0001:
        ecx &= ~SVM_BIT
    elif leaf == 0x8000_000A:
        eax = ebx = ecx = edx = 0
    elif leaf in LEAVES:
        eax, ebx, ecx, edx = platform.cpuid(cpu, leaf, subleaf) or (0, 0, 0, 0)
    regs[RAX], regs[RCX], regs[RDX], regs[RBX] = eax, ecx, edx, ebx

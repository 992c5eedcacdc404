"""Lab 1, first exit: the reference solution."""

from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import GP, Cpu, Exit, Shutdown
from hv.silicon.x86_64.cpuid import cpuid
from hv.silicon.x86_64.state import RAX, RBX, RCX, RDX
from hv.vcpu import Vcpu
from labs.kit import KitMode

CONSOLE_PORT = 0xE9
HYPERVISOR_BIT, HYPERVISOR_LEAF = 1 << 31, 0x4000_0000
NAME = b"MyFirstHyper"


class MyMode(KitMode):
    id = "my-mode"
    summary = "my first mode"
    reasons = frozenset({"hlt", "cpuid", "ioio", "msr"})

    def handle(self, vcpu: Vcpu, exit: Exit) -> str:
        """Answer one exit, and return its reason."""
        cpu = vcpu.cpu
        if exit.code == svm.HLT:
            cpu.skip(1)
            cpu.halted = True
            return "hlt"
        if exit.code == svm.CPUID:
            self.cpuid(cpu)
            return "cpuid"
        if exit.code == svm.IOIO:
            self.port(cpu, exit)
            return "ioio"
        if exit.code == svm.MSR:
            cpu.fault(GP)
            return "msr"
        raise Shutdown(f"exit {exit.code:#x} at RIP {cpu.rip:#x}: nobody handles it")

    def cpuid(self, cpu: Cpu) -> None:
        """What the real CPU says, and that a hypervisor is here."""
        leaf = cpu.regs[RAX] & 0xFFFF_FFFF
        eax, ebx, ecx, edx = cpuid(leaf, cpu.index, cpu.timing)
        if leaf == 1:
            ecx |= HYPERVISOR_BIT
        if leaf == HYPERVISOR_LEAF:
            eax = leaf
            ebx, ecx, edx = (int.from_bytes(NAME[at : at + 4], "little") for at in (0, 4, 8))
        cpu.regs[RAX], cpu.regs[RBX], cpu.regs[RCX], cpu.regs[RDX] = eax, ebx, ecx, edx
        cpu.skip(2)

    def port(self, cpu: Cpu, exit: Exit) -> None:
        """A console that is written to, and nothing else."""
        port, is_in = exit.info1 >> 16, exit.info1 & 1
        if is_in:
            cpu.regs[RAX] |= 0xFF
        elif port == CONSOLE_PORT:
            self.vm.console.sink(cpu.regs[RAX] & 0xFF)
        cpu.skip(exit.info2 - cpu.rip)

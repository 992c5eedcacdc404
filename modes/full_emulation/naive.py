"""Trap and emulate without making the sensitive instructions trap: what becomes of an x86 kernel.

Popek and Goldberg proved in 1974 that emulating traps is not enough where a sensitive instruction does not trap. The
kernel is the same; sooner or later one of its instructions tells it the hypervisor's state instead of its own.

The instructions run as they are. This variant only looks at them over the guest's shoulder (`witness`, which a real
naive hypervisor would not have), and ends the run at the first one that lies. CPUID is let pass: it gives away the
real CPU, and the guest takes itself to be on bare metal, but nothing breaks.
"""

from __future__ import annotations

import capstone
from capstone import x86

from hv.silicon.x86_64.cpu import Cpu, Shutdown
from modes.full_emulation.emulate import FLAG_SIZES, HANDLERS, SEGMENT_REGISTERS
from modes.full_emulation.mode import TrapAndEmulate
from modes.full_emulation.state import FLAG_IF

TABLES = {x86.X86_INS_SGDT: "GDTR", x86.X86_INS_SIDT: "IDTR", x86.X86_INS_SLDT: "LDTR", x86.X86_INS_STR: "TR"}
CHECKS = frozenset((x86.X86_INS_LAR, x86.X86_INS_LSL, x86.X86_INS_VERR, x86.X86_INS_VERW))


class TrapAndEmulateNaive(TrapAndEmulate):
    id = "trap-and-emulate-naive"
    summary = "the same, but sensitive instructions that do not trap are left alone: the guest goes wrong"
    reasons = TrapAndEmulate.reasons - {"popf", "pushf", "false_trap"} | {"witness"}
    ends_at_a_lie = True

    def _breakpoint(self, cpu: Cpu) -> str:
        instruction = self._instruction(cpu)
        lie = None if instruction is None or instruction.id not in HANDLERS else self._lie(cpu, instruction)
        if lie is not None and self.ends_at_a_lie:
            assert instruction is not None
            text = f"{instruction.mnemonic} {instruction.op_str}".strip()
            raise Shutdown(
                f"{text} at RIP {cpu.state.eip:#x} lied to the guest: {lie}. It is sensitive, but does not trap at "
                "ring 3 (Popek and Goldberg, 1974); mode trap-and-emulate makes it trap"
            )
        cpu.step_over()
        return "witness"

    def _lie(self, cpu: Cpu, i: capstone.CsInsn) -> str | None:
        """What the real CPU is about to tell or do that the virtual one would not, or None."""
        v = self.v
        if i.id in FLAG_SIZES:
            real, own = bool(cpu.rflags & FLAG_IF), v.interrupts
            if i.mnemonic.startswith("pushf"):
                return None if real == own else f"IF reads {real:d}, its own is {own:d}"
            wanted = bool(self.core.read_stack(cpu.rsp, FLAG_SIZES[i.id]) & FLAG_IF)
            return None if wanted == own or v.cpl > v.iopl else f"IF stays {own:d}, it wrote {wanted:d}"
        if i.id in TABLES:
            return f"it reads the hypervisor's {TABLES[i.id]}"
        if i.id in CHECKS:
            return "it looks at the hypervisor's descriptors"
        if i.id == x86.X86_INS_SMSW and (cpu.state.cr[0] ^ v.cr0) & 0xFFFF:
            return f"CR0 reads {cpu.state.cr[0] & 0xFFFF:#x}, its own is {v.cr0 & 0xFFFF:#x}"
        source = i.operands[-1] if i.id in (x86.X86_INS_MOV, x86.X86_INS_PUSH) else None
        if source is not None and source.type == x86.X86_OP_REG and source.reg in SEGMENT_REGISTERS:
            index = SEGMENT_REGISTERS[source.reg]
            real_selector, own_selector = cpu.state.segs[index].selector, v.selectors[index]
            if real_selector != own_selector:
                return f"{i.reg_name(source.reg)} reads {real_selector:#x}, its own is {own_selector:#x}"
        return None

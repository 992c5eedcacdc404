"""The hooks of microcode.c once more, in Python, for a platform on which it was not built: same counts, slowly.

Read microcode.c first: the functions here have the same names and do the same steps. What differs is the way out of a
hook. C code may leave by longjmp, so there Unicorn's own functions raise exceptions and deliver them. Python may not.
Here a hook only notes what has to happen (`Pending`), and PortableCpu does it after the slice: an exception is
delivered by the CPU itself as an injected *interrupt* (Unicorn performs that one inside VMRUN), with the error code
pushed afterwards; a port access that must exit or fault is undone register by register.
"""

from __future__ import annotations

import ctypes
import struct
from ctypes import c_int, c_uint32, c_uint64, c_void_p

import msgspec
import unicorn
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import uclib

from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import EVENT_ERROR_VECTORS, GP, PF, UD, Cpu
from hv.silicon.x86_64.engine import Engine
from hv.silicon.x86_64.microcode import EVENTS, NOWHERE
from hv.silicon.x86_64.state import (
    CC_OP_EFLAGS,
    CS,
    HF_ADDSEG,
    HF_CPL,
    HF_CS32,
    HF_CS64,
    HF_SS32,
    RCX,
    RF,
    RSP,
    SS,
)
from hv.silicon.x86_64.virtual_apic import ACCESS_WRITE

(
    PORT_IO, CR_ACCESS, CR8_ACCESS, INVLPG, IRET, SYSCALL, EXCEPTION, TLB_FILL, APIC_ACCESS, VIRTUAL_INTERRUPT, _,
    PAUSE,
) = range(len(EVENTS))  # fmt: skip
R11 = 11
EFER_SCE = 1
NP = 11
DB = 1
DF = 8
LEFT_TO_LOOK = 0x10000
COMBINING = frozenset((0, 10, 11, 12, 13))  # the contributory exceptions


class Pending(msgspec.Struct):
    """An exception that PortableCpu has to deliver after the slice."""

    vector: int
    error: int
    soft: bool  # `int n`


class Undo(msgspec.Struct):
    """The registers before an instruction that turns out not to happen: it exits instead, or faults."""

    regs: list[int]
    eip: int
    rflags: int | None = None  # None: it changes no flags
    fault: Pending | None = None  # what comes instead, whatever else the rest of the slice brought


class PortableHooks:
    """microcode.c in Python. `pending` and `undo` say what the CPU must do when the slice has ended."""

    cpu: Cpu  # the one whose guest is in the engine

    def __init__(self, engine: Engine) -> None:
        self.engine, self.m, self.state = engine, engine.microcode, engine.state
        self.pending: Pending | None = None
        self.undo: Undo | None = None
        self.virtual = False  # the slice has ended for a virtual interrupt
        void, word = None, c_uint32
        for kind, result, arguments, function, *extra in (
            (unicorn.UC_HOOK_CODE, void, (c_void_p, c_uint64, word, c_void_p), self.hook_code),
            (unicorn.UC_HOOK_INTR, void, (c_void_p, word, c_void_p), self.hook_intr),
            (unicorn.UC_HOOK_INSN_INVALID, ctypes.c_bool, (c_void_p, c_void_p), self.hook_invalid),
            (unicorn.UC_HOOK_INSN, void, (c_void_p, c_void_p), self.hook_syscall, x86.UC_X86_INS_SYSCALL),
            (unicorn.UC_HOOK_INSN, void, (c_void_p, c_void_p), self.hook_sysenter, x86.UC_X86_INS_SYSENTER),
            (unicorn.UC_HOOK_INSN, word, (c_void_p, word, c_int, c_void_p), self.hook_in, x86.UC_X86_INS_IN),
            (unicorn.UC_HOOK_INSN, void, (c_void_p, word, c_int, word, c_void_p), self.hook_out, x86.UC_X86_INS_OUT),
        ):
            engine.hook(kind, engine.callback(ctypes.CFUNCTYPE(result, *arguments), function), *extra)
        engine.pass_time = self.pass_time
        engine.apic_page = (
            engine.callback(ctypes.CFUNCTYPE(c_uint64, c_void_p, c_uint64, word, c_void_p), self.apic_read),
            engine.callback(ctypes.CFUNCTYPE(void, c_void_p, c_uint64, word, c_uint64, c_void_p), self.apic_write),
        )
        engine.hook_leave(engine.callback(ctypes.CFUNCTYPE(c_int, c_void_p, c_int), self.hook_leave))

    def set_stop(self) -> None:
        m = self.m
        left = -(-(m.deadline - m.extra) // m.cpi) if m.deadline > m.extra else 0
        m.stop = m.retired if m.recognized or m.trap else max(left, m.retired)

    def pass_time(self, millicycles: int) -> None:
        self.m.extra += millicycles
        if self.m.stepping:
            self.m.stop = self.m.retired
        else:
            self.set_stop()

    def charge(self, event: int) -> None:
        self.m.count[event] += 1
        self.m.extra += self.m.cost[event]
        self.set_stop()

    def undo_attempt(self) -> None:
        if self.m.pc == self.state.eip + self.state.segs[CS].base:
            self.m.retired -= 1
            self.m.pc = NOWHERE
            self.state.cc_op = CC_OP_EFLAGS

    def stop_here(self) -> None:
        self.m.pc = NOWHERE
        self.engine.stop()

    def rearm(self) -> None:
        m, state = self.m, self.state
        state.intercept, state.intercept_cr_read, state.intercept_cr_write = m.armed, m.armed_cr_read, m.armed_cr_write
        m.stepping = 0
        self.set_stop()

    def pause_here(self) -> bool:
        m = self.m
        if m.stepping:
            if m.pc == NOWHERE:
                m.stop = m.retired + 1
                return False
            self.rearm()
        if m.retired < m.stop:
            return False
        if m.trap and not m.entering and not m.injecting:
            code, m.trap, m.pc = m.trap, 0, NOWHERE
            self.note_exit(code, m.trap_info)
            return True
        over = m.entering or m.injecting or not m.recognized or m.retired * m.cpi + m.extra >= m.deadline
        if over or self.cpu.interruptible:
            self.virtual = not over
            if m.injecting:
                m.injecting = 2
            self.stop_here()
            return True
        m.stop = m.retired + 1
        return False

    def hook_code(self, uc: int, address: int, size: int, user: int) -> None:
        m = self.m
        if self.pending is not None or self.undo is not None:
            self.engine.stop()
            return
        if m.retired >= m.stop and self.pause_here():
            return
        if address and address in (m.mark[0], m.mark[1]):
            if not m.mark_pass:
                m.mark_hit = 1 if address == m.mark[0] else 2
                self.stop_here()
                return
            m.mark_pass = 0
        if not m.stepping and self.engine.breakpoints.hit(address):
            m.pc = NOWHERE
            self.note_exit(svm.BREAKPOINT, 0)
            return
        m.retired += 1
        m.pc = address
        m.length = size

    def hook_leave(self, uc: int, number: int) -> int:
        m = self.m
        if number < 0 and m.pc == self.state.eip:
            if m.pc and m.pc in (m.mark[0], m.mark[1]):
                m.mark_pass = 1
            self.undo_attempt()
        if number == LEFT_TO_LOOK and m.pc != NOWHERE and m.pc + m.length == self.state.eip + self.state.segs[CS].base:
            stop = m.stop
            self.charge(PAUSE)
            if m.stepping:
                m.stop = stop
        return number == UD

    def observed(self, code: int) -> int:
        m = self.m
        if code < 0x10 and not m.want_cr_read >> code & 1:
            return CR8_ACCESS if code == 0x08 else CR_ACCESS
        if code in (0x10, 0x14, 0x18):
            return -1
        if 0x10 <= code <= 0x1F and not m.want_cr_write >> (code - 0x10) & 1:
            return CR_ACCESS
        if code == svm.IRET and not m.want & svm.intercepts(svm.IRET):
            return IRET
        if code == svm.INVLPG and not m.want & svm.intercepts(svm.INVLPG):
            return INVLPG
        return -1

    def vmexit(self, code: int) -> None:
        m, state = self.m, self.state
        event = self.observed(code)
        if code not in (svm.EXCEPTION + DB, svm.VINTR):
            self.undo_attempt()
        m.pc = NOWHERE
        if event >= 0:
            self.charge(event)
            if event == INVLPG or code == 0x13:
                self.charge(TLB_FILL)
            if event == IRET and m.watch_iret:
                m.deadline = 0
            m.armed, m.armed_cr_read, m.armed_cr_write = (
                state.intercept, state.intercept_cr_read, state.intercept_cr_write,
            )  # fmt: skip
            state.intercept &= ~svm.intercepts(svm.IRET, svm.INVLPG)
            state.intercept_cr_read, state.intercept_cr_write = m.want_cr_read, m.want_cr_write
            m.stepping = 1
            m.pc = NOWHERE
            m.stop = m.retired
            return
        if m.stepping:
            self.rearm()
        self.note_exit(code, state.error_code)
        if code == svm.VINTR:
            self.engine.world_switch(code, 0)
            m.exit_left = 1

    def keep(self) -> Undo:
        """The registers, before the current instruction changes them."""
        self.undo = Undo(list(self.state.regs), self.state.eip)
        return self.undo

    def note_exit(self, code: int, info1: int, *, stop: bool = True) -> None:
        m = self.m
        m.injecting, m.entering, m.delivering = 0, 0, NOWHERE
        m.exit_valid, m.exit_code, m.exit_info1, m.exit_left = 1, code, info1, 0
        self.state.exception_is_int = 0
        if stop:
            self.engine.stop()

    def deliver(self, vector: int) -> None:
        m, state = self.m, self.state
        soft = bool(state.exception_is_int)
        error = state.error_code
        if soft:
            if m.pc != NOWHERE:
                state.eip = m.pc - state.segs[CS].base
        else:
            if m.delivering != NOWHERE and vector in (GP, NP) and error == (m.delivering & ~1) * 2 - 2:
                error = m.delivering
            if vector == DB:
                m.pc = NOWHERE
            else:
                self.undo_attempt()
        m.delivering = vector * 8 + 2 + (not soft)
        if m.stepping:
            self.rearm()
        self.charge(EXCEPTION)
        if vector == PF and not soft:
            self.charge(TLB_FILL)
        self.pending = Pending(vector, error, soft)
        self.engine.stop()

    def hook_intr(self, uc: int, number: int, user: int) -> None:
        if self.undo is not None:  # of an instruction that has not happened
            self.engine.stop()
            return
        if self.m.injecting == 2:
            self.m.injecting = 0
        elif number >= 0x100:
            self.vmexit(number - 0x100)
        else:
            self.deliver(number)

    def hook_invalid(self, uc: int, user: int) -> bool:
        if self.m.injecting == 2:
            self.m.injecting = 0
        else:
            self.deliver(UD)
        return True

    def hook_syscall(self, uc: int, user: int) -> None:
        m, state = self.m, self.state
        if not state.efer & EFER_SCE:
            self.refuse(UD)
            return
        self.charge(SYSCALL)
        rflags = self.engine.rflags()
        selector = state.star >> 32 & 0xFFFC
        state.regs[RCX] = state.eip + m.length
        state.regs[R11] = rflags & ~RF
        target = state.lstar if state.hflags & HF_CS64 else state.cstar
        for segment, value, flags in ((CS, selector, 0x00A0_9B00), (SS, selector + 8, 0x00C0_9300)):
            state.segs[segment].selector, state.segs[segment].base = value, 0
            state.segs[segment].limit, state.segs[segment].flags = 0xFFFF_FFFF, flags
        state.hflags = state.hflags & ~(HF_CPL | HF_ADDSEG) | HF_CS32 | HF_SS32 | HF_CS64
        flags_now = c_uint32(rflags & ~(state.fmask & 0xFFFF_FFFF | RF))
        uclib.uc_reg_write(self.engine.handle, x86.UC_X86_REG_EFLAGS, ctypes.byref(flags_now))
        state.eip = (target - m.length) & NOWHERE

    def refuse(self, vector: int) -> None:
        """The current instruction faults; whatever it still does in this slice is undone."""
        undo = self.keep()
        self.undo_attempt()
        if self.cpu.physical.intercept_exceptions >> vector & 1:
            self.note_exit(svm.EXCEPTION + vector, 0)
            return
        self.m.delivering = vector * 8 + 3
        self.charge(EXCEPTION)
        undo.fault = Pending(vector, 0, False)
        self.engine.stop()

    def hook_sysenter(self, uc: int, user: int) -> None:
        self.refuse(UD)

    def port_refused(self, port: int, size: int, is_in: int) -> bool:
        """check_port of microcode.c: True when the access does not happen in this slice."""
        m, state = self.m, self.state
        if self.undo is not None:
            return True
        if state.hflags & HF_CPL > self.engine.rflags() >> 12 & 3 and not self.port_allowed(port, size):
            if not m.exit_valid:
                self.refuse(GP)
            return True
        cpu = self.cpu
        if cpu.physical.intercept & svm.intercepts(svm.IOIO):
            bitmap = struct.unpack("<H", self.engine.memory.read(cpu.physical.iopm_base_pa + port // 8, 2))[0]
            if bitmap >> port % 8 & (1 << size) - 1:
                self.keep()
                cpu.physical.exitinfo2 = state.eip + m.length
                self.undo_attempt()
                self.note_exit(svm.IOIO, size << 4 | is_in | port << 16)
                return True
        self.charge(PORT_IO)
        return False

    def port_allowed(self, port: int, size: int) -> bool:
        """The I/O permission bitmap of the TSS (APM vol. 2, 12.2.4). False also when reading it ends in an exit."""
        tr = self.state.tr
        if not tr.flags & 0x8000 or tr.limit < 103:
            return False
        base = self.read_tss(tr.base + 0x66)
        if base is None or base + port // 8 + 1 > tr.limit:
            return False
        bits = self.read_tss(tr.base + base + port // 8)
        return bits is not None and not bits >> port % 8 & (1 << size) - 1

    def read_tss(self, address: int) -> int | None:
        """Two bytes. Where the hypervisor's tables have none, the access exits as the hardware's would."""
        cpu = self.cpu
        word = cpu.read_linear(address, 2)
        if len(word) == 2:
            return word[0] | word[1] << 8
        missing = address + len(word)
        gpa = cpu.linear(missing)
        if gpa is not None or cpu.physical.intercept_exceptions >> PF & 1:
            self.keep()
            cpu.physical.exitinfo2 = missing if gpa is None else gpa
            self.undo_attempt()
            self.note_exit(*((svm.EXCEPTION + PF, 0) if gpa is None else (svm.NPF, svm.NPF_USER)))
        return None

    def hook_in(self, uc: int, port: int, size: int, user: int) -> int:
        if self.port_refused(port, size, 1):
            return 0
        value: int = self.engine.port_in(port, size)
        return value

    def refuse_access(self, info: int) -> None:
        """Stopping here would begin the instruction again; hook_code stops in front of the next one."""
        self.keep().rflags = self.engine.rflags()
        self.undo_attempt()
        self.m.trap = 0
        self.note_exit(svm.APIC_ACCESS, info, stop=False)

    def apic_read(self, uc: int, offset: int, size: int, user: int) -> int:
        apic = self.cpu.apic
        assert apic is not None
        if self.undo is not None:
            return 0
        if not apic.virtualized(offset, size, write=False):
            self.refuse_access(offset)
            return 0
        self.charge(APIC_ACCESS)
        return apic.read(offset)

    def apic_write(self, uc: int, offset: int, size: int, value: int, user: int) -> None:
        apic = self.cpu.apic
        assert apic is not None
        if self.undo is not None:
            return
        if not apic.virtualized(offset, size, write=True):
            self.refuse_access(offset | ACCESS_WRITE)
            return
        self.charge(APIC_ACCESS)
        apic.write(offset, size, value)

    def hook_out(self, uc: int, port: int, size: int, value: int, user: int) -> None:
        if not self.port_refused(port, size, 0):
            self.engine.port_out(port, size, value)


class PortableCpu(Cpu):
    """A CPU whose hooks only take notes."""

    hooks: PortableHooks
    window_later = False  # the interrupt window was kept closed for the VMRUN that delivers an event

    def _enter(self, injection: int | None = None) -> None:
        """A delivery that exits only notes the exit, and the window's would overwrite it: one after the other."""
        super()._enter(injection)
        p = self.physical
        self.window_later = bool(p.eventinj & svm.EVENT_VALID and p.int_ctl & svm.V_IRQ)
        if self.window_later:
            p.int_ctl &= ~(svm.V_IRQ | svm.V_IGN_TPR)
            p.intercept &= ~svm.intercepts(svm.VINTR)

    def _commanded(self) -> bool:
        return self.window_later or super()._commanded()

    def _interrupt_at_once(self) -> bool:
        return False

    def _settle(self) -> None:
        """Do what the hooks could not do while the slice ran."""
        hooks, state = self.hooks, self.state
        if hooks.undo is not None:
            state.regs[0:16] = hooks.undo.regs
            state.eip = hooks.undo.eip
            if hooks.undo.rflags is not None:
                self.engine.set_rflags(hooks.undo.rflags)
            hooks.pending, hooks.undo = hooks.undo.fault, None
        if hooks.virtual:
            self._deliver_virtual()
        while hooks.pending is not None and not self.m.exit_valid:
            event, hooks.pending = hooks.pending, None
            self._deliver(event)
        if self.m.exit_valid:
            self.take_exit()
            self.m.exit_valid = 0
            self.keep_deadline()

    def _deliver_virtual(self) -> None:
        """deliver_virtual of virtual_apic.h, by an injected interrupt."""
        assert self.apic is not None
        self.hooks.virtual = False
        vector = self.apic.take()
        self.hooks.charge(VIRTUAL_INTERRUPT)
        self.leave()
        self._enter(injection=vector | svm.EVENT_VALID)
        self._vmrun(vector * 8 + 3)

    def _deliver(self, event: Pending) -> None:
        """Exception or `int n` through the guest's IDT, by the CPU's own interrupt delivery in VMRUN."""
        m, p, state = self.m, self.physical, self.state
        if event.soft and self._gate_refuses(event.vector):
            self.hooks.undo_attempt()
            self.hooks.charge(EXCEPTION)
            event = Pending(GP, event.vector * 8 + 2, False)
        instruction, delivering = state.eip, event.vector * 8 + 2 + (not event.soft)
        if event.soft:
            state.eip = state.exception_next_eip
        self.leave()
        state.old_exception = -1  # Unicorn's own sum of two faults would go on after a delivery that succeeded
        self._enter(injection=event.vector | svm.EVENT_VALID)
        self._vmrun(delivering)
        if not p.eventinj & svm.EVENT_VALID:
            if not event.soft and event.vector in EVENT_ERROR_VECTORS:
                self._push(event.error)
            state.exception_is_int = 0
            return
        if event.soft:
            state.eip = instruction
            m.retired -= 1
        if self.hooks.pending is not None:
            self._add_faults(event, self.hooks.pending)
        else:
            self._cut_short(event)

    def _add_faults(self, first: Pending, second: Pending) -> None:
        """A fault while another event is delivered: one after the other, a double fault, or the end (APM 8.2.9)."""
        if first.soft or second.soft:
            return
        if first.vector == DF:
            self.hooks.pending = None
            self.hooks.note_exit(svm.SHUTDOWN, 0)
        elif (first.vector in COMBINING and second.vector in COMBINING) or (
            first.vector == PF and second.vector in COMBINING | {PF}
        ):
            self.hooks.pending = Pending(DF, 0, False)

    def _gate_refuses(self, vector: int) -> bool:
        """The privilege check of `int n`, which an interrupt does not have (APM vol. 2, 8.7.3)."""
        idt = self.state.idt
        gate = self.read_linear(idt.base + 16 * vector, 16)
        return 16 * vector + 15 <= idt.limit and len(gate) == 16 and gate[5] >> 5 & 3 < self.cpl

    def _cut_short(self, event: Pending) -> None:
        """The delivery ended in an exit: report the event as what it is, not as an interrupt."""
        p = self.physical
        if event.soft:
            p.eventinj = event.vector | svm.EVENT_SOFT | svm.EVENT_VALID
            return
        p.eventinj = event.vector | svm.EVENT_EXCEPTION | svm.EVENT_VALID
        if event.vector in EVENT_ERROR_VECTORS:
            p.eventinj |= svm.EVENT_HAS_ERROR
            p.eventinj_err = event.error

    def _push(self, error: int) -> None:
        """The error code below the frame; it lies in the same 16 bytes as RIP, so its page is there."""
        state = self.state
        state.regs[RSP] -= 8
        gpa = self.linear(state.regs[RSP])
        hpa = None if gpa is None else self.guest_physical(gpa)
        assert hpa is not None
        self.engine.memory.write_u64(hpa, error)

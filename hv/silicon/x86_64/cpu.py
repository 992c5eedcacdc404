"""One CPU: virtual time, the guest in it, what the silicon does for that guest, and the exits that it does not.

The hypervisor owns a VMCB and leaves it in physical memory. The CPU runs a copy of it, with more intercepts than the
hypervisor asked for: those of RDTSC, CPUID, MSRs and the like are assists (assists.py) and never reach the hypervisor.
A bare-metal guest is the same thing with a VMCB that intercepts nothing.

Simplified: the world switch is lazy. After a #VMEXIT the guest's registers stay in the CPU, where the hypervisor reads
and changes them through `state`; only when it has changed the VMCB's control area, or calls leave(), does the real
switch happen; nor does it for nothing but an external interrupt to be injected, which the microcode delivers. The time
of a switch is charged for every exit all the same.
"""

from __future__ import annotations

import ctypes
import struct
from collections import Counter
from collections.abc import Callable

import msgspec

from hv.silicon.assists import ASSISTS
from hv.silicon.memory import BusError
from hv.silicon.timing import MILLI, Timing
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.avic import DOORBELL
from hv.silicon.x86_64.cpuid import SIGNATURE
from hv.silicon.x86_64.engine import ALL_MSRS, NO_PORTS, STUB, Engine
from hv.silicon.x86_64.instructions import INSTRUCTIONS
from hv.silicon.x86_64.microcode import CONTROL_WORDS, EVENTS, NOWHERE, Microcode
from hv.silicon.x86_64.paging import walk
from hv.silicon.x86_64.state import (
    HF2_NMI_MASKED,
    HF_CPL,
    HF_CS64,
    HF_INHIBIT_IRQ,
    IF,
    RAX,
    RCX,
    RDX,
    RF,
    RSP,
)
from hv.silicon.x86_64.svm import Vmcb, intercepts
from hv.silicon.x86_64.virtual_apic import VirtualApic

NEVER = (1 << 63) - 1
COUNTERS = Microcode.uc.offset  # bytes of the microcode's struct before the addresses begin
CONTROL_AREA = 8 * CONTROL_WORDS
NMI, UD, DF, GP, PF = 2, 6, 8, 13, 14
EVENT_ERROR_VECTORS = frozenset((8, 10, 11, 12, 13, 14, 17))

# What the silicon needs to see of every guest, beyond the hypervisor's wishes.
ASSISTED = intercepts(
    svm.RDTSC, svm.RDTSCP, svm.CPUID, svm.MSR, svm.HLT, svm.SHUTDOWN, svm.TR_WRITE, svm.RDPMC, svm.INVLPGA, svm.VMRUN,
    svm.VMMCALL, svm.VMLOAD, svm.VMSAVE, svm.STGI, svm.CLGI, svm.SKINIT, svm.MONITOR, svm.MWAIT, svm.IRET, svm.INVLPG,
)  # fmt: skip
# What it needs to see of a deprivileged guest, for which every privileged instruction faults: CPUID does not, RDTSC
# only with CR4.TSD, and a triple fault cannot happen but would abort.
ASSISTED_DEPRIVILEGED = intercepts(svm.CPUID, svm.RDTSC, svm.RDTSCP, svm.SHUTDOWN)
OBSERVED_CR = 0x11D  # CR0, CR2, CR3, CR4, CR8: only timed, by the microcode
ASSISTED_DR_WRITE = 1 << 7


class Exit(msgspec.Struct):
    """A #VMEXIT that the hypervisor must handle. RIP is at the instruction; `next_rip` only after IOIO."""

    code: int  # APM vol. 2, appendix C
    info1: int
    info2: int
    int_info: int = 0  # the event whose delivery was cut short (APM vol. 2, 15.7.2); inject it again
    int_error: int = 0


class CpuRecord(msgspec.Struct):
    """A CPU in a snapshot. What is in VMCBs is in the memory."""

    state: bytes
    counters: bytes
    assists: dict[str, int]
    msrs: dict[int, int]
    halted: bool
    window: bool
    booted: bool
    waits: bool
    host_timer: int | None
    host_interrupt: bool
    ipis: list[int]
    vectors: list[tuple[int, int]]
    irq_off_since: int | None
    watch_at: int


class Shutdown(Exception):
    """The guest can not go on (a triple fault, or worse). The message is one line for the user."""


class Cpu:
    """A CPU with its clock. Only one CPU's guest is loaded in the engine at a time."""

    def __init__(self, engine: Engine, timing: Timing, index: int, chip_identity_ncr3: int, cpus: int = 1) -> None:
        self.engine, self.timing, self.index, self.cpus = engine, timing, index, cpus
        self.state = engine.state
        self.regs = engine.state.regs  # the general registers, live
        self.m = engine.microcode
        self.assists: Counter[str] = Counter()
        self.halted = self.waits = index > 0  # `waits`: for a start-up message; nothing else wakes it
        self.msrs: dict[int, int] = {}
        self.window = False  # an interrupt waits for IF
        self.nmi_waits = False  # an NMI waits for an event that is delivered now
        self.host_timer: int | None = None  # when the hypervisor's own timer interrupts
        self.host_interrupt = False  # a physical interrupt waits for the hypervisor
        self.ipis: list[int] = []  # when the hypervisors on other CPUs have sent it some
        self.vectors: list[tuple[int, int]] = []  # physical interrupts with a vector: when sent, and which
        self.irq_off_since: int | None = None  # for the machine's watchdog, in retired instructions
        self.watch_at = 0
        self.entered = False  # the guest is in the CPU
        self.vmcb = Vmcb()  # the hypervisor's, from load() on
        self.apic: VirtualApic | None = None  # the guest's, if the hypervisor has given it one
        self._costs = (0,) * len(EVENTS)
        self.on_metal = True
        self.deprivileged = False  # everything of the guest runs at ring 3
        self.masked: Callable[[], bool] = lambda: False  # does it believe that interrupts are off?
        self.identity_ncr3 = chip_identity_ncr3
        self.page = engine.alloc()
        region, at = engine.memory.find(self.page, 0x1000)
        self.physical = Vmcb.from_buffer(region.data, at)
        self._control_view = memoryview(b"")  # the control area of the hypervisor's VMCB
        self._want = 0
        self.switch = 0  # time from the guest to its hypervisor and back
        self.on_exit: Callable[[Exit], None] = lambda exit: None  # the hypervisor's handler
        self.send: Callable[[int, int], None] = lambda destination, vector: None  # an interrupt to another CPU
        self.on_wake: Callable[[], None] = lambda: None  # and what it does when a waiting CPU is interrupted
        self._booted = False
        m = self.m
        m.retired = 2  # VMLOAD and VMRUN of the first entry, taken off again there
        m.cpi = timing.cpi
        m.deadline = NEVER
        m.stop = NEVER

    # --- time -------------------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """Virtual time of this CPU in millicycles."""
        return self.m.retired * self.m.cpi + self.m.extra

    @property
    def parked_now(self) -> int:
        """The same while another CPU's guest is in the engine."""
        return self._parked_now

    def charge(self, millicycles: int) -> None:
        """Let time pass that is not plain instructions. Inside a slice, follow it with keep_deadline()."""
        self.m.extra += millicycles

    def set_deadline(self, when: int) -> None:
        """The slice ends at the first instruction boundary at or after this time."""
        self.m.deadline = when
        self.keep_deadline()

    def keep_deadline(self) -> None:
        """Time has passed, or something else has changed: move the instruction at which the slice ends."""
        self.engine.pass_time(0)

    def stop_soon(self) -> None:
        """End the slice in front of the next instruction; safe inside a chip's register access."""
        self.m.deadline = 0
        self.m.stop = self.m.retired

    def tsc(self) -> int:
        """The time-stamp counter: whole cycles of virtual time."""
        return self.now // MILLI

    # --- the guest's world ------------------------------------------------------------------------------------

    def load(self, vmcb: Vmcb, *, on_metal: bool, deprivileged: bool = False) -> None:
        """Take a guest: its state and, for a hypervisor, its wishes. Read again at the next slice, once it runs."""
        self.leave()
        self.vmcb, self.on_metal = vmcb, on_metal
        self._control_view = memoryview(vmcb).cast("B")[:CONTROL_AREA]
        self.deprivileged = deprivileged
        nested = bool(vmcb.np_enable)
        t = self.timing
        # The costs of the events that the microcode charges, in the order of microcode.EVENTS.
        walks = t.walk * (t.walk_nested if nested else t.walk_levels)
        self._costs = (
            t.port_io, t.cr_access, t.cr8_access, t.invlpg, t.iret, t.syscall, t.exception, walks, t.mmio, t.exception,
            t.mmio, t.pause,
        )  # fmt: skip
        self.walk_cost = walks
        self.apic = None
        if vmcb.apic_controls:
            self.apic = VirtualApic(self, vmcb)
            self.engine.map_apic_page()
        # Deprivileged, it is an exception that brings the guest to its hypervisor, and an IRET that brings it back:
        # hypervisors of that kind need no VMRUN, only this silicon does.
        self.switch = t.exception + t.iret if deprivileged else t.vmexit + t.vmentry

    def wait_for_startup(self) -> None:
        """INIT: stop, whatever the CPU did, until a start-up message comes (APM vol. 2, 14.1.3)."""
        self.leave()
        self.halted = self.waits = True
        self.window = False

    def start_over(self) -> None:
        """A start-up message: the registers that are not in the VMCB. MSRs keep their values over VMLOAD."""
        self.leave()
        vmcb, state = self.vmcb, self.state
        assert vmcb is not None
        state.regs[:] = [0] * 16
        state.regs[RDX] = SIGNATURE
        state.hflags2 &= ~HF2_NMI_MASKED
        vmcb.star, vmcb.lstar, vmcb.cstar, vmcb.sfmask = state.star, state.lstar, state.cstar, state.fmask
        vmcb.kernel_gs_base = state.kernelgsbase
        self._booted = False
        self.halted = self.waits = False

    def _enter(self, injection: int | None = None) -> None:
        """VMRUN: copy the hypervisor's VMCB, add the silicon's own intercepts. `injection` replaces its event."""
        vmcb, p = self.vmcb, self.physical
        if not vmcb.tr.attrib & 0x80 or vmcb.cr0 & 0xFFFF_FFFF_0000_0000 or vmcb.efer >> 16:
            raise Shutdown("VMRUN refused the VMCB: invalid guest state")
        ctypes.memmove(ctypes.addressof(p), ctypes.addressof(vmcb), 0x1000)
        m = self.m
        m.want, m.want_cr_read, m.want_cr_write = vmcb.intercept, vmcb.intercept_cr_read, vmcb.intercept_cr_write
        if self.deprivileged:
            p.intercept |= ASSISTED_DEPRIVILEGED
        else:
            p.intercept |= ASSISTED
            p.intercept_cr_read |= OBSERVED_CR
            p.intercept_cr_write |= OBSERVED_CR
            p.intercept_dr_write |= ASSISTED_DR_WRITE
        p.msrpm_base_pa = ALL_MSRS
        if not p.intercept & intercepts(svm.IOIO):
            p.iopm_base_pa = NO_PORTS
        p.efer |= 1 << 12
        p.asid = 1
        if self.on_metal:
            p.np_enable, p.n_cr3 = 1, self.identity_ncr3
        p.int_ctl = vmcb.int_ctl & svm.V_TPR | svm.V_INTR_MASKING
        if self.window or vmcb.int_ctl & svm.V_IRQ:
            p.int_ctl |= svm.V_IRQ | svm.V_IGN_TPR
            p.intercept |= intercepts(svm.VINTR)
        if injection is not None:
            p.eventinj = injection
        else:
            if p.eventinj & svm.EVENT_VALID:
                self._count_injection(p.eventinj)
            vmcb.eventinj = 0
        ctypes.memmove(m.control, ctypes.addressof(vmcb), CONTROL_AREA)
        self._connect()
        m.eventinj = ctypes.addressof(p) + Vmcb.eventinj.offset
        self._want = 0 if self.on_metal else vmcb.intercept
        if self.apic is not None:
            self.apic.evaluate()
        self.regs[RAX] = self.page
        m.retired -= 1  # VMRUN is microcode, not the guest's
        if not self._booted:
            m.retired -= 1
        m.pc = NOWHERE
        self.entered = True

    def _connect(self) -> None:
        """Tell the microcode what is this CPU's own."""
        m = self.m
        m.cost[:] = self._costs
        m.vmcb = ctypes.addressof(self.vmcb)
        if self.apic is not None:
            m.index = self.index
            m.virtual_apic, m.descriptor = self.apic.page.host_address, self.apic.descriptor.host_address

    def apic_written(self, register: int) -> None:
        """The microcode leaves what follows from a write to the virtual-APIC page to VirtualApic."""
        assert self.apic is not None
        self.apic.written(register)

    def take_vectors(self, now: int) -> None:
        """Physical interrupts that have been sent by now: for the hypervisor, unless one says that there are posts."""
        apic = self.apic
        for vector in sorted(vector for sent, vector in self.vectors if sent <= now):
            if apic is not None and not self.halted and vector in (self.vmcb.notification_vector, DOORBELL):
                self.assist("posted_interrupt", self.timing.mmio)
                if vector == DOORBELL:
                    apic.look_again()
                else:
                    apic.take_posted()
            elif vector != DOORBELL:  # which nobody hears outside a guest
                self.host_interrupt = True
        self.vectors = [(sent, vector) for sent, vector in self.vectors if sent > now]

    def _count_injection(self, event: int) -> None:
        """Delivery of an injected event: Unicorn does an interrupt by itself, the microcode counts the others."""
        if event & svm.EVENT_TYPE == svm.EVENT_INTR:
            self.assists["interrupt"] += 1
            self.m.extra += self.timing.exception

    def leave(self, code: int = 0, info1: int = 0) -> None:
        """The whole world switch: the guest's state is in the VMCB afterwards, and may be changed there."""
        if not self.entered:
            return
        self.engine.world_switch(code, info1)
        self._left()

    def _left(self) -> None:
        vmcb, p = self.vmcb, self.physical
        control = ctypes.string_at(ctypes.addressof(vmcb), 0x400)
        ctypes.memmove(ctypes.addressof(vmcb), ctypes.addressof(p), 0x1000)
        ctypes.memmove(ctypes.addressof(vmcb), control, 0x400)
        vmcb.int_state = p.int_state
        vmcb.efer &= ~(1 << 12)
        vmcb.int_ctl = vmcb.int_ctl & ~svm.V_TPR | p.int_ctl & svm.V_TPR
        self.entered = False

    def run_slice(self) -> None:
        """Run until the deadline, a mark, or an exit after which the guest cannot simply go on."""
        if self.entered and self._commanded() and not self._interrupt_at_once():
            self.leave()
        self.m.mark_hit = 0
        if not self.entered:
            self._enter()
            self._vmrun()
            self._settle()
            if not self._goes_on():
                return
        self._run(self.state.eip)
        self._settle()

    def _interrupt_at_once(self) -> bool:
        """Is an external interrupt all that the hypervisor commands? The microcode delivers it, without a VMRUN."""
        vmcb, m = self.vmcb, self.m
        event = vmcb.eventinj
        if event & (svm.EVENT_VALID | svm.EVENT_TYPE) != svm.EVENT_VALID | svm.EVENT_INTR or m.stepping or m.trap:
            return False
        vmcb.eventinj = 0
        if self._commanded():
            vmcb.eventinj = event
            return False
        self._count_injection(event)
        m.external = event & (svm.EVENT_VALID | 0xFF)
        self.keep_deadline()
        return True

    def _goes_on(self) -> bool:
        return self.entered and not self.halted and not self._commanded()

    def _commanded(self) -> bool:
        """The hypervisor has written to the VMCB's control area: VMRUN must read it again."""
        return bytes(self._control_view) != bytes(self.m.control)

    def _settle(self) -> None:
        """Nothing: the native hooks have done everything. PortableCpu has more to do."""

    def take_exit(self) -> bool:
        """A #VMEXIT: an assist, or the hypervisor's handler. True when the guest can go on, until its slice is over."""
        m = self.m
        code = m.exit_code
        if code in _PLAIN and self._want >> (code - svm.INTR) & 1:
            m.extra += self.switch
            self.on_exit(Exit(code, m.exit_info1, self.physical.exitinfo2))
        else:
            exit = self._exit(code)
            if exit is not None:
                m.extra += self.switch
                self.on_exit(exit)
        if self.halted or self.host_interrupt or not self.entered:
            return False
        timer = self.host_timer
        if timer is not None and timer < m.deadline:
            m.deadline = timer
        return True

    def _vmrun(self, delivering: int | None = None) -> None:
        """Execute VMRUN, the first time VMLOAD before it, and stop in front of the guest's next instruction.

        `delivering`: what the injected interrupt really is, in the form of the microcode's field.
        """
        m = self.m
        event = self.physical.eventinj
        m.injecting = int(event & (svm.EVENT_VALID | svm.EVENT_TYPE) == svm.EVENT_VALID | svm.EVENT_INTR)
        m.stop = m.retired + (1 if self._booted else 2)
        m.entering = 1
        self._run(STUB + 3 if self._booted else STUB)
        self._booted = True
        m.entering = 0
        if m.injecting:  # delivered, and no exit on the way
            m.injecting = 0
            m.delivering = NOWHERE
        m.pc = NOWHERE
        self.keep_deadline()

    def _run(self, address: int) -> None:
        error = self.engine.run(address)
        if error:
            raise Shutdown(error)

    # --- exits ------------------------------------------------------------------------------------------------

    def _exit(self, code: int) -> Exit | None:
        """Sort a #VMEXIT: an assist of the silicon (None), or the hypervisor's."""
        m, p, state = self.m, self.physical, self.state
        info1 = m.exit_info1
        if m.exit_left:
            self._left()
            self.window = False
            if self.vmcb.int_ctl & svm.V_IRQ:  # the hypervisor had asked for the window, not the silicon
                return Exit(code, 0, 0)
            return None
        out = Exit(code, info1, p.exitinfo2)
        if p.eventinj & svm.EVENT_VALID:
            out.int_info, out.int_error = p.eventinj, p.eventinj_err
            p.eventinj = 0
            if out.int_info & svm.EVENT_TYPE == svm.EVENT_SOFT:
                out.int_info = 0  # RIP is at the `int n`, which simply runs again
        if self._wanted(code, info1):
            return out
        handler = _ASSIST_OF.get(code)
        if handler is None:
            raise Shutdown(f"the silicon has no answer to exit {code:#x} at RIP {state.eip:#x}")
        handler(self, out)
        return None

    def _wanted(self, code: int, info1: int) -> bool:
        """Does the hypervisor's own VMCB intercept this?"""
        vmcb = self.vmcb
        if self.on_metal:
            return False
        if code == svm.NPF:
            return bool(vmcb.np_enable)
        if code in _ALWAYS:
            return True
        if code == svm.MSR:
            return bool(vmcb.intercept & intercepts(svm.MSR)) and self._msr_intercepted(vmcb, info1)
        if code >= svm.INTR:
            bit = svm.RDTSCP if code == svm.RDTSC and self.instruction_bytes(3)[1:3] == b"\x01\xf9" else code
            return bool(vmcb.intercept >> (bit - svm.INTR) & 1)
        if code >= svm.EXCEPTION:
            return bool(vmcb.intercept_exceptions >> (code - svm.EXCEPTION) & 1)
        if code >= svm.DR0_WRITE:
            return bool(vmcb.intercept_dr_write >> (code - svm.DR0_WRITE) & 1)
        if code >= svm.DR0_READ:
            return bool(vmcb.intercept_dr_read >> (code - svm.DR0_READ) & 1)
        if code >= svm.CR0_WRITE:
            return bool(vmcb.intercept_cr_write >> (code - svm.CR0_WRITE) & 1)
        return bool(vmcb.intercept_cr_read >> code & 1)

    def _msr_intercepted(self, vmcb: Vmcb, info1: int) -> bool:
        """The hypervisor's MSR permission map (APM vol. 2, 15.11): two bits an MSR, read then write."""
        number = self.regs[RCX] & 0xFFFF_FFFF
        for start, base in ((0, 0), (0xC000_0000, 0x800), (0xC001_0000, 0x1000)):
            if start <= number < start + 0x2000:
                bit = (number - start) * 2 + info1
                byte = self.engine.memory.read(vmcb.msrpm_base_pa + base + bit // 8, 1)[0]
                return bool(byte >> bit % 8 & 1)
        return True

    # --- what a handler does to the guest ---------------------------------------------------------------------

    @property
    def cpl(self) -> int:
        return self.state.hflags & HF_CPL

    @property
    def rip(self) -> int:
        if self.entered:
            return self.state.eip
        return self.vmcb.rip

    @rip.setter
    def rip(self, value: int) -> None:
        if self.entered:
            self.state.eip = value
        else:
            self.vmcb.rip = value

    @property
    def event_pending(self) -> bool:
        """Something is to be delivered at the next entry already."""
        return bool(self.vmcb.eventinj & svm.EVENT_VALID)

    @property
    def interruptible(self) -> bool:
        """IF is set and the guest is not in the shadow of STI or MOV SS."""
        if self.waits:
            return False
        if self.deprivileged:
            return not self.masked()
        if self.entered:
            return bool(self.state.eflags & IF) and not self.state.hflags & HF_INHIBIT_IRQ
        return bool(self.vmcb.rflags & IF) and not self.vmcb.int_state & 1

    @property
    def nmi_masked(self) -> bool:
        """The guest handles an NMI: another one waits for its IRET (APM vol. 2, 8.1.4)."""
        return bool(self.state.hflags2 & HF2_NMI_MASKED)

    def inject_nmi(self) -> None:
        """Deliver an NMI at the next entry."""
        self.inject(svm.EVENT_NMI | NMI)
        self.state.hflags2 |= HF2_NMI_MASKED

    @property
    def tpr(self) -> int:
        """CR8, the task priority class."""
        if self.entered:
            return self.state.v_tpr & 0xF
        return self.vmcb.int_ctl & 0xF

    @tpr.setter
    def tpr(self, value: int) -> None:
        if self.entered:
            self.state.v_tpr = value & 0xF
        self.vmcb.int_ctl = self.vmcb.int_ctl & ~svm.V_TPR | value & 0xF
        if self.entered:
            ctypes.memmove(self.m.control, ctypes.addressof(self.vmcb), CONTROL_AREA)

    def skip(self, length: int) -> None:
        """The instruction at RIP is done: go to the next one."""
        if self.entered:
            state = self.state
            state.eip = (state.eip + length) & 0xFFFF_FFFF_FFFF_FFFF
            if state.eflags & RF:
                state.eflags &= ~RF
            if state.hflags & HF_INHIBIT_IRQ:
                state.hflags &= ~HF_INHIBIT_IRQ
        else:
            vmcb = self.vmcb
            vmcb.rip = (vmcb.rip + length) & 0xFFFF_FFFF_FFFF_FFFF
            vmcb.rflags &= ~RF
            vmcb.int_state = 0
        self.m.retired += 1

    @property
    def rflags(self) -> int:
        """RFLAGS, wherever the guest is now."""
        if self.entered:
            return self.engine.rflags()
        return self.vmcb.rflags

    @rflags.setter
    def rflags(self, value: int) -> None:
        if self.entered:
            self.engine.set_rflags(value)
        else:
            self.vmcb.rflags = value

    @property
    def rsp(self) -> int:
        if self.entered:
            return self.regs[RSP]
        return self.vmcb.rsp

    @rsp.setter
    def rsp(self, value: int) -> None:
        if self.entered:
            self.regs[RSP] = value
        else:
            self.vmcb.rsp = value

    def load_root(self, root: int) -> None:
        """Give the CPU other page tables, as a hypervisor's MOV CR3 does. `root` may be the one it has: TLB flush."""
        if self.entered:
            self.state.cr[3] = root
            self.engine.flush_tlb()
        else:
            self.vmcb.cr3 = root

    def step_over(self) -> None:
        """Let the instruction at a breakpoint run."""
        self._step()

    def inject(self, event: int, error: int = 0) -> None:
        """Deliver an event at the next entry (EVENTINJ format, APM vol. 2, 15.20)."""
        vmcb = self.vmcb
        vmcb.eventinj = event | svm.EVENT_VALID
        vmcb.eventinj_err = error

    def fault(self, vector: int, error: int = 0) -> None:
        """Raise an exception at the current instruction."""
        kind = svm.EVENT_EXCEPTION | vector
        self.inject(kind | svm.EVENT_HAS_ERROR if vector in EVENT_ERROR_VECTORS else kind, error)

    def open_window(self) -> None:
        """Ask for an end of the slice as soon as the guest takes interrupts."""
        if not self.window:
            self.window = True
            self.leave()

    def guest_physical(self, gpa: int) -> int | None:
        """Host-physical address behind a guest-physical one."""
        vmcb = self.vmcb
        if not self.on_metal and not vmcb.np_enable:
            return gpa  # shadow tables: linear() has given a host-physical address already
        root = vmcb.n_cr3 if vmcb.np_enable else self.identity_ncr3
        return walk(self.engine.memory.read_u64, root, gpa)

    def linear(self, address: int) -> int | None:
        """Guest-physical address of a linear address under the guest's own tables, or None."""
        cr0, cr3, long_mode = self.control_registers()
        if not cr0 >> 31:
            return address

        def read(gpa: int) -> int:
            hpa = self.guest_physical(gpa)
            return 0 if hpa is None else self.engine.memory.read_u64(hpa)

        return walk(read, cr3, address, 4 if long_mode else 3)

    def control_registers(self) -> tuple[int, int, bool]:
        """CR0 and CR3 of the guest, and whether it is in long mode."""
        if self.entered:
            return self.state.cr[0], self.state.cr[3], bool(self.state.efer >> 10 & 1)
        return self.vmcb.cr0, self.vmcb.cr3, bool(self.vmcb.efer >> 10 & 1)

    def read_linear(self, address: int, size: int) -> bytes:
        """Bytes at a linear address of the guest; fewer where a page is not mapped."""
        out = b""
        while len(out) < size:
            at = address + len(out)
            chunk = min(size - len(out), 0x1000 - at % 0x1000)
            gpa = self.linear(at & 0xFFFF_FFFF_FFFF_FFFF)
            hpa = None if gpa is None else self.guest_physical(gpa)
            if hpa is None:
                break
            try:
                out += self.engine.memory.read(hpa, chunk)
            except LookupError:
                break
        return out

    def read_mapped(self, address: int, size: int) -> bytes:
        """The same, but raises BusError when some are missing."""
        data = self.read_linear(address, size)
        if len(data) < size:
            raise BusError(f"nothing is mapped at linear {address:#x}")
        return data

    def write_mapped(self, address: int, data: bytes) -> None:
        """Write at a linear address of the guest. Raises BusError where a page is not mapped."""
        done = 0
        while done < len(data):
            at = address + done & 0xFFFF_FFFF_FFFF_FFFF
            part = data[done : done + 0x1000 - at % 0x1000]
            gpa = self.linear(at)
            hpa = None if gpa is None else self.guest_physical(gpa)
            if hpa is None:
                raise BusError(f"nothing is mapped at linear {at:#x}")
            self.engine.memory.write(hpa, part)
            done += len(part)

    def instruction_bytes(self, size: int = 15) -> bytes:
        return self.read_linear(self.state.eip + self.state.segs[1].base, size)

    # --- assists ----------------------------------------------------------------------------------------------

    def assist(self, name: str, cost: int) -> None:
        self.assists[name] += 1
        self.m.extra += cost

    def _shutdown(self, exit: Exit) -> None:
        raise Shutdown("triple fault: an exception could not be delivered, and neither could the double fault")

    def step(self) -> None:
        """Let the CPU itself execute the intercepted instruction, with the intercepts off for just this one."""
        self._step(intercepts(svm.TR_WRITE))

    def _step(self, without: int = 0) -> None:
        m, state = self.m, self.state
        m.armed, m.armed_cr_read, m.armed_cr_write = (
            state.intercept, state.intercept_cr_read, state.intercept_cr_write,
        )  # fmt: skip
        state.intercept &= ~without
        state.intercept_cr_read, state.intercept_cr_write = m.want_cr_read, m.want_cr_write
        m.stepping = 1
        m.pc = NOWHERE
        m.stop = m.retired

    def moved_value(self) -> int | None:
        """What the MOV to a control or debug register at RIP moves (APM vol. 3, MOV CRn); None: it is no such MOV."""
        code = self.instruction_bytes(self.m.length)
        if code[-3:-1] not in (b"\x0f\x22", b"\x0f\x23"):
            return None
        wide = bool(self.state.hflags & HF_CS64)
        high = wide and len(code) > 3 and code[-4] & 0xF1 == 0x41  # REX.B
        value = self.regs[code[-1] & 7 | high << 3]
        return value if wide else value & 0xFFFF_FFFF

    def _npf(self, exit: Exit) -> None:
        raise Shutdown(f"access to physical address {exit.info2:#x}, beyond the 40 bits of this CPU")

    def assist_counts(self) -> Counter[str]:
        """All assists of this CPU since reset, those of the microcode included."""
        counts = Counter(self.assists)
        for event, count in zip(EVENTS, self.m.count, strict=True):
            if event in ASSISTS and count:
                counts[event] += count
        return counts

    def park(self) -> None:
        """Take the guest out of the engine, so that another CPU can have it."""
        self.leave()
        self._parked = (self.engine.save(), bytes(self.m)[:COUNTERS])
        self._parked_now = self.now

    def unpark(self) -> None:
        """Put the guest back as it was parked."""
        state, counters = self._parked
        self.engine.load(state)
        ctypes.memmove(ctypes.addressof(self.m), counters, COUNTERS)
        self._connect()

    def save(self) -> CpuRecord:
        """The parked CPU as a record."""
        state, counters = self._parked
        return CpuRecord(
            state, counters, dict(self.assists), dict(self.msrs), self.halted, self.window, self._booted, self.waits,
            self.host_timer, self.host_interrupt, list(self.ipis), list(self.vectors), self.irq_off_since,
            self.watch_at,
        )  # fmt: skip

    def load_saved(self, record: CpuRecord) -> None:
        """Become the CPU of a record, parked."""
        self._parked = (record.state, record.counters)
        self.assists, self.msrs = Counter(record.assists), dict(record.msrs)
        self.halted, self.window, self._booted = record.halted, record.window, record.booted
        self.waits, self.ipis, self.vectors = record.waits, list(record.ipis), list(record.vectors)
        self.host_timer, self.host_interrupt = record.host_timer, record.host_interrupt
        self.irq_off_since, self.watch_at = record.irq_off_since, record.watch_at
        self.entered = False
        retired, _, extra, _, cpi = struct.unpack_from("<5Q", record.counters)
        self._parked_now = retired * cpi + extra


# Instructions for which the intercept vector alone says whether the hypervisor wants them. They are on the fast path:
# no event can have been in delivery, and the world switch has not been made.
_PLAIN = frozenset((svm.CPUID, svm.HLT, svm.IOIO, svm.VMMCALL))

# Exits that come only if the hypervisor has asked for them elsewhere.
_ALWAYS = frozenset((svm.BREAKPOINT, svm.APIC_ACCESS, svm.APIC_WRITE, svm.VIRTUAL_EOI, svm.INCOMPLETE_IPI))

_ASSIST_OF: dict[int, Callable[[Cpu, Exit], None]] = {**INSTRUCTIONS, svm.SHUTDOWN: Cpu._shutdown, svm.NPF: Cpu._npf}

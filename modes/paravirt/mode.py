"""The paravirt mode: a Xen that runs one domain.

All of the guest is at ring 3, and every exception, `int n` and SYSCALL of it comes here. What is the kernel's is
bounced to the kernel (vcpu.py); SYSCALL from the kernel is a hypercall (calls/). Time, interrupts and the console are
events. Before the guest goes on, the events that wait are delivered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from hv.errors import HvError
from hv.host.wire import WireState
from hv.loader import Guest
from hv.mode import Mode
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import Cpu, Exit, Shutdown
from hv.silicon.x86_64.cpuid import cpuid
from hv.silicon.x86_64.machine import HOLE
from hv.silicon.x86_64.state import RAX, RBX, RCX, RDI, RDX, RSI
from hv.silicon.x86_64.svm import Vmcb, intercepts
from hv.vcpu import Vcpu
from hv.vm import Vm
from hv.x86_64.decode import Store, store_of
from hv.x86_64.pool import POOL_BASE, POOL_SIZE, HypervisorMemory
from modes.hw_assist.mode import HwAssist
from modes.paravirt.abi import GUEST_DOMID, HYPERCALLS, IRET, SIGNATURE, XEN_VERSION, Refused
from modes.paravirt.backends.devices import SplitDevices
from modes.paravirt.builder import Builder, scatter
from modes.paravirt.calls.again import Again
from modes.paravirt.calls.memory import direct_write
from modes.paravirt.calls.scheduling import expire, next_time
from modes.paravirt.calls.table import call
from modes.paravirt.console import BACKEND_PORT, ConsoleRing
from modes.paravirt.domain import Domain, XenTables
from modes.paravirt.domain_zero import STORE_PORT, DomainZero, DomainZeroState
from modes.paravirt.emulate import emulate
from modes.paravirt.events import UPCALL_MASK
from modes.paravirt.frames import Frames, Kind
from modes.paravirt.hvm.beside import BesideState, XenBeside
from modes.paravirt.startup import begin
from modes.paravirt.state import Callback, DomainState, PvVcpuState
from modes.paravirt.vcpu import R11, UD, PvVcpu

if TYPE_CHECKING:
    from hv.vm import Vm

EVERY_EXCEPTION = 0xFFFF_FFFF
PAGE = 0x1000
GP, PF = 13, 14
WITH_ERROR_CODE = frozenset((8, 10, 11, 12, 13, 14, 17))
PF_PRESENT, PF_WRITE = 1, 2
INT_WITHOUT_OPERAND = {"int1": 1, "int3": 3, "into": 4}
SYSCALL = b"\x0f\x05"
FORCED_CPUID = b"\x0f\x0bxen\x0f\xa2"  # the forced-emulation prefix before CPUID
R8, R10 = 8, 10
ARGUMENTS = (RDI, RSI, RDX, R10, R8)
MASK = (1 << 64) - 1
HYPERVISOR_BIT, SVM_BIT = 1 << 31, 1 << 2


class ParavirtState(msgspec.Struct):
    used: int
    domain: DomainState
    zero: DomainZeroState
    wire: WireState | None


class Paravirt(Mode):
    id = "paravirt"
    summary = "Xen PV: the kernel at ring 3 on its own page tables, hypercalls, event channels"
    cells = {"cpu": "P", "net": "P", "local": "P", "remote": "P", "interrupts": "P", "boot": "P"}
    reasons = frozenset(
        "cpuid cr_access exception_bounce external_interrupt guest_page_fault hlt int_bounce invlpg ioio msr "
        "page_table_write privileged syscall_bounce hypercall.unknown".split()
    ) | {f"hypercall.{name}" for name in HYPERCALLS.values()}
    ram_base = 0x4_0000_0000
    most_cpus = 8

    command_line: ClassVar[bytes] = b""  # for the guest's kernel

    @classmethod
    def impossible_beside(cls, cpu: type[Mode]) -> str | None:
        if issubclass(cpu, Paravirt | HwAssist):
            return None
        return "Xen runs no guest by translating it: its interfaces need cpu=P or cpu=VH"

    def __init__(self, vm: Vm) -> None:
        super().__init__(vm)
        self.split = SplitDevices(vm)
        self.beside_pc: XenBeside | None = None  # where another mode has the CPU

    def equip(self, column: str) -> None:
        """Events are there with the domain. Its boot is an operation, from its first instruction on."""
        owner = self.vm.mode
        if not isinstance(owner, Paravirt):
            self.beside_pc = self.beside_pc or XenBeside(self.vm, self.split)
            self.beside_pc.equip(column)
        elif owner is not self:
            owner.equip(column)
        else:
            self.split.equip(column)
            if column == "boot":
                self.vm.machine.probe.open()

    def notes(self) -> list[str]:
        return self.split.notes()

    def _new_domain(self, first: int, pages: int) -> Domain:
        """A domain without memory, the frame table, and Xen's own tables for `pages` frames from `first` on."""
        vm = self.vm
        machine, memory = vm.machine, vm.machine.memory
        self.pool = HypervisorMemory(memory)
        self.frames = Frames([(first, pages), (POOL_BASE // PAGE, POOL_SIZE // PAGE)])
        xen = XenTables(memory, self.pool.alloc, first, pages, len(machine.cpus))
        d = Domain(GUEST_DOMID, memory, self.frames, xen, machine.timing, lambda: vm.now, self._kick)
        d.end, d.console_output, d.grants.new_page = self._end, self._print, self._share_page
        d.events.shared = self._share_page() * PAGE
        vm.serial = ConsoleRing(d, vm.console.sink)
        self.zero = DomainZero(d)
        costs = vm.costs
        self.cost_of = {reason: costs.work_of(reason) - costs.run_loop for reason in sorted(self.reasons)}
        return d

    def _share_page(self) -> int:
        mfn = self.pool.alloc() // PAGE
        self.frames.share(mfn, GUEST_DOMID)
        return mfn

    def _end(self, cause: str, report: str) -> None:
        """The domain has ended itself."""
        self.zero.destroy()
        self.vm.machine.end(cause, report)

    def _print(self, data: bytes) -> None:
        for byte in data:
            self.vm.console.sink(byte)

    # --- starting -------------------------------------------------------------------------------------------------

    def load(self, guest: Guest) -> None:
        """Build the domain in its frames."""
        if guest.xen is None:
            raise HvError(f"guest {guest.path} has no ELF notes for Xen: it cannot start as a PV domain", 1)
        machine = self.vm.machine
        if machine.ram_size > HOLE:
            raise HvError(f"a PV domain takes at most {HOLE >> 20} MiB, not {machine.ram_size >> 20}")
        first, pages = machine.ram_base // PAGE, machine.ram_size // PAGE
        self.domain = d = self._new_domain(first, pages)
        mfns = [first + frame for frame in scatter(pages)]
        for mfn in mfns:
            self.frames.give(mfn, d.domid)
        d.store_port = d.events.bind_backend(STORE_PORT)
        d.console_port = d.events.bind_backend(BACKEND_PORT)
        self.start_state = Builder(d, guest, guest.xen, mfns, self.command_line).build()

    def start(self, guest: Guest) -> None:
        d, machine, start = self.domain, self.vm.machine, self.start_state
        for cpu in machine.cpus:
            v = self._vcpu(cpu)
            d.memory.write(v.s.info + UPCALL_MASK, b"\1")
            if cpu.index:  # it waits until the domain brings it up
                cpu.load(v.vmcb, on_metal=False, deprivileged=True)
                cpu.halted = True
        self.zero.introduce(machine.ram_size >> 10, {"store/ring-ref": d.store, "console/ring-ref": d.console})
        self.split.plug(self.zero.bus)
        v = d.vcpus[0]
        s, vmcb = v.s, v.vmcb
        s.up = s.initialised = True
        self.frames.take_as(start.root, Kind.L4, d.domid)
        s.root = v.memory.root = start.root
        vmcb.cr3, vmcb.rip, vmcb.rsp = start.root * PAGE, start.entry, start.stack
        d.write_wallclock()
        machine.cpus[0].load(vmcb, on_metal=False, deprivileged=True)
        machine.engine.state.regs[RSI] = start.start_info

    def _vcpu(self, cpu: Cpu) -> PvVcpu:
        page = self.pool.alloc()
        region, at = self.vm.machine.memory.find(page, PAGE)
        vmcb = Vmcb.from_buffer(region.data, at)
        vmcb.intercept_exceptions = EVERY_EXCEPTION
        vmcb.intercept = intercepts(svm.SWINT, svm.SHUTDOWN, svm.INTR)
        vmcb.asid, vmcb.int_ctl = 1, svm.V_INTR_MASKING
        v = PvVcpu(self.domain, cpu.index, cpu, vmcb, PvVcpuState())
        v.bill = lambda name: cpu.charge(self.cost_of[f"hypercall.{name}"])
        v.first_vmcb()
        self.domain.add_vcpu(v)
        return v

    def close(self) -> None:
        if self.beside_pc is not None:
            self.beside_pc.zero.destroy()
        elif self.vm.mode is self:
            self.zero.destroy()

    def state(self) -> ParavirtState | BesideState | None:
        if self.beside_pc is not None:
            return self.beside_pc.state()
        if self.vm.mode is not self:  # another one has the CPU, and the domain
            return None
        return ParavirtState(self.pool.used, self.domain.state(), self.zero.state(), self.split.state)

    def set_state(self, state: Any) -> None:
        if self.beside_pc is not None:
            self.beside_pc.set_state(state)
        if self.vm.mode is not self:
            return
        self.pool.used = state.used
        self.domain.set_state(state.domain)
        self.zero.set_state(state.zero)
        self.split.state = state.wire

    # --- exits ----------------------------------------------------------------------------------------------------

    def handle(self, vcpu: Vcpu, exit: Exit) -> str:
        v = self.domain.vcpus[vcpu.index]
        v.entries = 0
        reason = self._sort(v, exit)
        self._resume(v)
        return reason

    def wake(self, vcpu: Vcpu) -> None:
        self._resume(self.domain.vcpus[vcpu.index])

    def _sort(self, v: PvVcpu, exit: Exit) -> str:
        vector = exit.code - svm.EXCEPTION
        if exit.code == svm.INTR:
            return "external_interrupt"
        if exit.code == svm.SWINT:
            return self._software_interrupt(v)
        if vector == PF:
            return self._page_fault(v, exit)
        if vector == UD:
            return self._undefined(v)
        if vector == GP and not exit.info1:
            instruction = v.instruction()
            reason = None if instruction is None else emulate(v, instruction)
            if reason is not None:
                return reason
        if not 0 <= vector < 32:
            raise Shutdown(f"exit {exit.code:#x} that nobody asked for")
        v.exception(vector, exit.info1 if vector in WITH_ERROR_CODE else None)
        return "exception_bounce"

    def _resume(self, v: PvVcpu) -> None:
        """What is due happens, events that wait are delivered, the TLB forgets what it must."""
        cpu, d = v.cpu, self.domain
        if v.s.up and v.s.begin is not None:
            begin(v)
        if cpu.host_timer is None or cpu.host_timer <= cpu.now or cpu.halted:
            expire(v)
        if cpu.halted:
            polled = any(d.events.is_pending(port) for port in v.s.polled)
            if v.s.up and (polled or d.events.upcall_due(v.s)):
                cpu.halted = False
                v.s.polled, v.s.poll_until = frozenset(), None
        if not cpu.halted and d.events.upcall_due(v.s):
            v.bounce(v.s.event)
        if v.flush or self.frames.stale:
            v.flush = self.frames.stale = False
            v.load_root()
        due = next_time(v)
        cpu.host_timer = None if due is None or not v.s.up else d.when(due)

    def _kick(self, index: int) -> None:
        """An event waits for a vCPU. If it is the one whose exit is being handled, it hears of it at the end."""
        machine = self.vm.machine
        cpu = machine.cpus[index]
        if not self.vm.ledger.open:
            cpu.host_interrupt = True
        elif machine.running is not cpu:
            machine.kick(cpu)

    # --- system calls and hypercalls --------------------------------------------------------------------------------

    def _undefined(self, v: PvVcpu) -> str:
        code = v.cpu.instruction_bytes(len(FORCED_CPUID))
        if code[:2] == SYSCALL and v.in_64_bit_code:
            if v.s.kernel_mode:
                return self._hypercall(v)
            v.system_call(len(SYSCALL))
            return "syscall_bounce"
        if code == FORCED_CPUID:
            self._cpuid(v.cpu)
            v.cpu.skip(len(FORCED_CPUID))
            return "cpuid"
        v.exception(UD)
        return "exception_bounce"

    def _hypercall(self, v: PvVcpu) -> str:
        regs = v.cpu.regs
        number = regs[RAX] & 0xFFFF_FFFF
        if number == IRET:
            v.iret()
            return "hypercall.iret"
        name = HYPERCALLS.get(number, "unknown")
        try:
            result = call(v, number, [regs[register] for register in ARGUMENTS])
        except Again as again:  # RIP stays
            for register, value in zip(ARGUMENTS, again.arguments, strict=False):
                regs[register] = value & MASK
        else:
            regs[RAX] = result & MASK
            v.cpu.skip(len(SYSCALL))
            regs[RCX], regs[R11] = v.cpu.rip, v.cpu.rflags
        return f"hypercall.{name}"

    def _cpuid(self, cpu: Cpu) -> None:
        """What a PV domain is told: no SVM, no APIC, and at 4000_0000 who it is that answers."""
        regs = cpu.regs
        leaf = regs[RAX] & 0xFFFF_FFFF
        eax, ebx, ecx, edx = cpuid(leaf, cpu.index, cpu.timing)
        if leaf == 1:
            ecx, edx = ecx | HYPERVISOR_BIT, edx & ~(1 << 9 | 1 << 12 | 1 << 3)  # APIC, MTRR, PSE
        elif leaf == 0x8000_0001:
            ecx, edx = ecx & ~SVM_BIT, edx & ~(1 << 26)  # pages of 1 GiB
        elif leaf == 0x8000_000A:
            eax = ebx = ecx = edx = 0
        elif leaf == 0x4000_0000:
            eax = 0x4000_0004
            ebx, ecx, edx = (int.from_bytes(SIGNATURE[i : i + 4], "little") for i in (0, 4, 8))
        elif leaf == 0x4000_0001:
            eax, ebx, ecx, edx = XEN_VERSION, 0, 0, 0
        regs[RAX], regs[RCX], regs[RDX], regs[RBX] = eax, ecx, edx, ebx

    # --- exceptions -------------------------------------------------------------------------------------------------

    def _software_interrupt(self, v: PvVcpu) -> str:
        """INT n: through the trap table, if the guest's kernel allows it to whoever did it."""
        instruction = v.instruction()
        if instruction is None:
            raise Shutdown(f"an INT at RIP {v.cpu.rip:#x} with prefixes that hv does not know")
        vector = INT_WITHOUT_OPERAND.get(instruction.mnemonic)
        if vector is None:
            vector = instruction.operands[0].imm & 0xFF
        trap = v.s.traps.get(vector)
        if trap is None or trap.flags & 3 < (1 if v.s.kernel_mode else 3):
            v.exception(GP, vector << 3 | 2)
        else:
            v.cpu.skip(instruction.size)
            v.bounce(Callback(trap.address, bool(trap.flags & 4)))
        return "int_bounce"

    def _page_fault(self, v: PvVcpu, exit: Exit) -> str:
        """A write of the kernel's to a table of its own is checked and done; any other fault is the guest's."""
        address, error = exit.info2, exit.info1
        if error & (PF_PRESENT | PF_WRITE) == PF_PRESENT | PF_WRITE and v.s.kernel_mode:
            store = store_of(v.cpu, v.instruction())
            if store is not None and store.address == address and self._table_write(v, store):
                return "page_table_write"
        v.exception(PF, error, address)
        return "guest_page_fault"

    def _table_write(self, v: PvVcpu, store: Store) -> bool:
        """False: it is none, or Xen refuses it, and the guest hears of a fault."""
        try:
            if not direct_write(v, store.address, store.size, store.value):
                return False
        except Refused:
            return False
        v.cpu.skip(store.length)
        v.flush = True
        return True


class ParavirtUnbatched(Paravirt):
    """For comparison: the guest's kernel is told to make a hypercall of every single change."""

    id = "paravirt-unbatched"
    summary = "the same, but the guest's kernel makes a hypercall of each page-table change"
    cells = {"cpu": "P"}
    command_line = b"nobatch"

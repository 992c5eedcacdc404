"""A guest beside a PC as Xen knows it: its physmap, its parameters, and pages of Xen's that it may place."""

from __future__ import annotations

from functools import partial

import msgspec

from hv.silicon.x86_64.cpu import Cpu
from hv.silicon.x86_64.ioapic import PINS
from hv.vm import Vm
from hv.x86_64.board import Board
from hv.x86_64.pool import SHARED_POOL_BASE, SHARED_POOL_SIZE, HypervisorMemory
from modes.hw_assist.mode import HwAssist
from modes.paravirt.abi import (
    EINVAL,
    GUEST_DOMID,
    XENFEAT_AUTO_TRANSLATED_PHYSMAP,
    XENFEAT_HVM_CALLBACK_VECTOR,
    XENFEAT_HVM_PIRQS,
    XENFEAT_HVM_SAFE_PVCLOCK,
    XENFEAT_NOT_DIRECT_MAPPED,
    XENFEAT_WRITABLE_PAGE_TABLES,
    HvmParam,
    Refused,
)
from modes.paravirt.common import VCPU_INFO_SIZE, XenDomain, XenVcpu
from modes.paravirt.events import SELECTOR, UPCALL_PENDING
from modes.paravirt.grants import Grants, GrantsState
from modes.paravirt.hvm.physmap import PAGE, HvmMemory, Physmap
from modes.paravirt.hvm.upcall import Upcall, UpcallState
from modes.paravirt.state import Channel, VcpuState

STORE_FRAME = 0xFEFFC  # guest-physical: where Xen's domain builder puts it
STORE_PORT = 1  # domain 0's end
NOWHERE = (1 << 64) - 1
PIRQS = range(PINS, 256)  # behind the lines of the I/O APIC; a message has 8 bits for the number


class HvmVcpuState(VcpuState):
    blocked: bool = False  # by sched_op, not by HLT: the next event wakes it, whether or not it takes interrupts
    own_vector: int = 0  # of its own upcall, or 0


class HvmVcpu(XenVcpu):
    domain: HvmDomain
    memory: HvmMemory
    s: HvmVcpuState

    def __init__(self, domain: HvmDomain, cpu: Cpu) -> None:
        super().__init__(cpu.index, cpu)
        self.domain, self.s = domain, HvmVcpuState(up=True)
        self.memory = HvmMemory(domain.physmap, partial(domain.mode.paging, cpu))


class HvmState(msgspec.Struct):
    used: int
    placed: dict[int, int]
    params: dict[int, int]
    vcpus: list[HvmVcpuState]
    channels: dict[int, Channel]
    upcall: UpcallState
    grants: GrantsState
    pirqs_taken: list[int]


class HvmDomain(XenDomain):
    """Events come by a line of the board's, until offer_vectors() says otherwise."""

    vcpus: list[HvmVcpu]

    def __init__(self, vm: Vm) -> None:
        machine, memory, mode, board = vm.machine, vm.machine.memory, vm.mode, vm.board
        assert isinstance(mode, HwAssist)
        assert isinstance(board, Board)
        super().__init__(GUEST_DOMID, memory, machine.timing, lambda: vm.now, self._kick)
        self.vm, self.mode, self.board = vm, mode, board
        self.pool = HypervisorMemory(memory, SHARED_POOL_BASE, SHARED_POOL_SIZE)
        self.physmap = Physmap(machine, mode.forget_mapping)
        board.ram = self.physmap
        self.features = XENFEAT_WRITABLE_PAGE_TABLES | XENFEAT_AUTO_TRANSLATED_PHYSMAP | XENFEAT_NOT_DIRECT_MAPPED
        self.console_output = self._print
        self.grants = Grants(memory, self.physmap)
        self.grants.new_page = lambda: self.pool.alloc() // PAGE
        self.events.shared = self.pool.alloc()
        self.vcpus = []
        for cpu in machine.cpus:
            self.vcpus.append(HvmVcpu(self, cpu))
            self.add_state(cpu.index, self.vcpus[-1].s)
        self.write_wallclock()
        self.upcall = Upcall(board, self._line_is_wanted)
        self.store, self.store_port = self._ring(STORE_FRAME), self.events.bind_backend(STORE_PORT)
        self.pirqs_taken: list[int] = []
        self.params: dict[int, int] = {
            HvmParam.STORE_PFN: STORE_FRAME,
            HvmParam.STORE_EVTCHN: self.store_port,
        }

    def offer_vectors(self) -> None:
        """Upcalls may come by vector, and a timer's by events, so that no interrupt needs the emulated controllers."""
        self.upcall.vectors = True
        self.features |= XENFEAT_HVM_CALLBACK_VECTOR | XENFEAT_HVM_SAFE_PVCLOCK | XENFEAT_HVM_PIRQS
        self.pirqs = PIRQS

    def _ring(self, gfn: int) -> int:
        page = self.physmap.placed[gfn] = self.pool.alloc()
        return page // PAGE

    def _print(self, data: bytes) -> None:
        for byte in data:
            self.vm.console.sink(byte)

    # --- events ---------------------------------------------------------------------------------------------------

    def upcall_pending(self, vcpu: int) -> bool:
        """Upcalls are not masked in such a guest: IF is there for that (Xen, hvm/irq.c)."""
        return bool(self.memory.read(self.states[vcpu].info + UPCALL_PENDING, 1)[0])

    def _line_is_wanted(self) -> bool:
        """An upcall waits on vCPU 0, which has no vector of its own for it."""
        return self.upcall_pending(0) and not self.vcpus[0].s.own_vector

    def _kick(self, index: int) -> None:
        """An upcall waits on a vCPU, or a port that it polls. If it is the one that runs, the exit's end looks."""
        machine = self.vm.machine
        cpu, own = machine.cpus[index], self.vcpus[index].s.own_vector
        if own and self.upcall_pending(index):
            self.board.post(index, own)
        elif index == 0:
            self.upcall.follow()
        if not self.vm.ledger.open:
            cpu.host_interrupt = True
        elif machine.running is not cpu:
            machine.kick(cpu)

    # --- pages ----------------------------------------------------------------------------------------------------

    def shown_frame(self, mfn: int) -> int:
        """Where the guest has placed the page; if nowhere, no frame's number."""
        return next((gfn for gfn, page in self.physmap.placed.items() if page == mfn * PAGE), NOWHERE)

    def move_info(self, vcpu: XenVcpu, mfn: int, offset: int) -> None:
        if offset > PAGE - VCPU_INFO_SIZE or offset & 7 or vcpu.s.info // PAGE != self.events.shared // PAGE:
            raise Refused(EINVAL)
        new = self.physmap.hold(mfn, write=True) + offset
        self.memory.write(new, self.memory.read(vcpu.s.info, VCPU_INFO_SIZE))
        vcpu.s.info = new
        self.memory.write(new + SELECTOR, b"\xff" * 8)  # look at everything once: something may have been missed
        self.events.mark_pending(vcpu.index)

    # --- snapshots ------------------------------------------------------------------------------------------------

    def state(self) -> HvmState:
        return HvmState(
            self.pool.used, self.physmap.placed, self.params, [v.s for v in self.vcpus], self.events.channels,
            self.upcall.s, self.grants.s, self.pirqs_taken,
        )  # fmt: skip

    def set_state(self, state: HvmState) -> None:
        self.pool.used, self.physmap.placed, self.params = state.used, state.placed, state.params
        self.events.channels, self.upcall.s, self.grants.s = state.channels, state.upcall, state.grants
        self.pirqs_taken = state.pirqs_taken
        self.states[:] = state.vcpus
        for v, s in zip(self.vcpus, state.vcpus, strict=True):
            v.s = s

"""What a student's first mode builds on: a VMCB that is filled in, memory that is mapped, a CPU ready to run.

`KitMode` leaves exactly one thing to do: handle(), the hypervisor's answer to an exit. Simplified: the guest has 2 MiB,
all backed before it starts, so that no first touch of a page exits; nothing interrupts it; one CPU.
"""

from __future__ import annotations

from hv.loader import Guest
from hv.mode import Mode
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.svm import Vmcb, intercepts
from hv.x86_64.pool import HypervisorMemory
from hv.x86_64.pvh import first_state
from modes.hw_assist.npt import NestedTables

GUEST_MEMORY = 2 << 20
ALL_ONES = b"\xff"
INTERCEPTS = intercepts(svm.CPUID, svm.HLT, svm.IOIO, svm.MSR, svm.SHUTDOWN, svm.VMRUN)


class KitMode(Mode):
    """Inherit from it and write handle(). The guest's console is `self.vm.console`."""

    cells = {"cpu": "VH"}
    ram_base = 0x4_0000_0000  # where the guest's memory lies in the host's

    def start(self, guest: Guest) -> None:
        vm = self.vm
        memory = vm.machine.memory
        pool = HypervisorMemory(memory)
        page, msrs, ports = pool.alloc(), pool.alloc(2), pool.alloc(3)
        memory.write(msrs, ALL_ONES * 0x2000)  # every MSR exits
        memory.write(ports, ALL_ONES * 0x2001)  # every port exits
        tables = NestedTables(pool)
        for address in range(0, GUEST_MEMORY, 0x1000):
            tables.map(address, self.ram_base + address)
        region, at = memory.find(page, 0x1000)
        vmcb = Vmcb.from_buffer(region.data, at)
        vmcb.intercept = INTERCEPTS
        vmcb.msrpm_base_pa, vmcb.iopm_base_pa = msrs, ports
        vmcb.np_enable, vmcb.n_cr3, vmcb.asid = 1, tables.root, 1
        first_state(vmcb, guest.entry)
        vm.machine.cpus[0].load(vmcb, on_metal=False)

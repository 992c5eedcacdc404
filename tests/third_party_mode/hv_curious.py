"""Hardware assistance that is curious: also the MSRs that are plain registers of the guest exit, `msr` each time."""

from __future__ import annotations

from hv.loader import Guest
from modes.hw_assist.mode import HwAssist

EVERY_MSR = b"\xff" * 0x2000  # two bits an MSR: reads and writes (APM vol. 2, 15.11)


class Curious(HwAssist):
    id = "curious"
    summary = "hardware assistance that sees every MSR access"

    def start(self, guest: Guest) -> None:
        super().start(guest)
        self.vm.machine.memory.write(self.vmcb.msrpm_base_pa, EVERY_MSR)


MODE = Curious

"""The modes of the interrupts column in hardware: what they put in the place of hw-assist's emulated local APICs.

The I/O APIC, the 8259s and the 8254 stay emulated, as on every such machine. Intel's posting does not ask how a guest's
addresses are translated; AMD's AVIC works under nested paging only (APM vol. 2, 15.29).
Simplified: the guest is not offered x2APIC, which its board does not have.
"""

from __future__ import annotations

from hv.mode import Mode
from modes.hw_assist.mode import HwAssist
from modes.paravirt.hvm.interrupts import XenInterrupts
from modes.posted_interrupts.avic import AvicDelivery
from modes.posted_interrupts.delivery import PostedDelivery
from modes.posted_interrupts.xen import XenAvicDelivery, XenPostedDelivery


class PostedInterrupts(Mode):
    id = "posted-interrupts"
    summary = "a virtual local APIC, and interrupts posted to a running vCPU without an exit"
    cells = {"interrupts": "VH"}
    delivery: type[PostedDelivery] = PostedDelivery
    delivery_beside_xen: type[XenPostedDelivery | XenAvicDelivery] = XenPostedDelivery
    reasons = PostedDelivery.reasons

    @classmethod
    def impossible_beside(cls, cpu: type[Mode]) -> str | None:
        return None if issubclass(cpu, HwAssist) else f"{cls.id} needs a CPU like hw-assist's (cpu=VH)"

    def equip(self, column: str) -> None:
        cpu = self.vm.mode
        assert isinstance(cpu, HwAssist)
        if isinstance(cpu.interrupts, XenInterrupts):
            cpu.interrupts = self.delivery_beside_xen(cpu, cpu.interrupts.domain)
        else:
            cpu.interrupts = self.delivery(cpu)


class Avic(PostedInterrupts):
    id = "avic"
    summary = "posted-interrupts, and interrupts from one running vCPU to another without an exit"
    delivery = AvicDelivery
    delivery_beside_xen = XenAvicDelivery
    reasons = AvicDelivery.reasons

    @classmethod
    def impossible_beside(cls, cpu: type[Mode]) -> str | None:
        if issubclass(cpu, HwAssist) and not cpu.nested:
            return f"AVIC needs nested paging, which {cpu.id} has not (posted-interrupts does without)"
        return super().impossible_beside(cpu)

"""Posted interrupts beside Xen's split devices: an upcall comes by the platform device's line, which is posted too.

The interrupts column is the hardware's, so Xen offers no upcall by vector. The line's interrupt is level-triggered, so
its end exits (`virtual_eoi`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modes.paravirt.hvm.interrupts import XenInterrupts
from modes.posted_interrupts.avic import AvicDelivery
from modes.posted_interrupts.delivery import PostedDelivery

if TYPE_CHECKING:
    from modes.hw_assist.mode import HwAssist
    from modes.paravirt.hvm.domain import HvmDomain


class XenPostedDelivery(XenInterrupts, PostedDelivery):
    may_signal = XenInterrupts.may_signal | PostedDelivery.may_signal

    def __init__(self, hw: HwAssist, domain: HvmDomain) -> None:
        PostedDelivery.__init__(self, hw)
        self.domain = domain


class XenAvicDelivery(XenInterrupts, AvicDelivery):
    may_signal = XenInterrupts.may_signal | AvicDelivery.may_signal

    def __init__(self, hw: HwAssist, domain: HvmDomain) -> None:
        AvicDelivery.__init__(self, hw)
        self.domain = domain

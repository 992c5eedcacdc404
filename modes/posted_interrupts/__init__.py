"""Interrupts in hardware: a virtual local APIC, posted interrupts, and in the variant `avic` interrupts between vCPUs.

What the CPU does by itself is in hv/silicon/x86_64/virtual_apic.py and avic.py. Here is what the hypervisor does with
it. Read in this order: mode.py (what is plugged in), delivery.py (exits, posting, waking), lapic.py (the rest of the
local APIC, whose registers are in the CPU's page).
"""

from modes.posted_interrupts.mode import Avic, PostedInterrupts

AVIC = Avic
MODE = PostedInterrupts

__all__ = ["AVIC", "MODE"]

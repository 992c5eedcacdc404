"""Paravirtualization as Xen did it: the kernel at ring 3 on its own page tables, hypercalls instead of traps.

Read in this order: frames.py (what a machine frame may be used as), tables.py and descriptors.py (what a frame must
hold to be used as that), vcpu.py (how the guest's kernel is entered and left), events.py (interrupts without an
interrupt controller), domain.py and builder.py (what a domain is made of, and how it starts), calls/ (the hypercalls),
emulate.py (the few instructions that Xen executes for a kernel), console.py, and mode.py (the exits).
abi.py has the numbers, state.py what is remembered, guest_memory.py how Xen reads through a guest's pointers, common.py
what guests that are no PV domains have too.

Beside the domain: grants.py and foreign.py (its memory, as others may use it), store/ (text that domains share), bus.py
(split devices, whose other half is there), domain_zero.py (all of that together).
"""

from modes.paravirt.mode import Paravirt, ParavirtUnbatched

MODE = Paravirt
UNBATCHED = ParavirtUnbatched

__all__ = ["MODE", "UNBATCHED"]

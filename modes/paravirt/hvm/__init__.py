"""PV on HVM: a guest that hardware virtualizes, with a PC for a board, finds Xen beside it.

Read in this order: platform.py (how it finds Xen, and calls it), physmap.py (which memory is behind its addresses),
domain.py (what Xen has of it), calls.py (its hypercalls), upcall.py and interrupts.py (how it hears of events), and
card.py (the PCI device that says it all to a driver).
Simplified: hypercalls from 64-bit kernels only; nested paging only.
"""

"""An NVMe drive after the NVM Express specification, revision 1.4, on a PCI Express card with SR-IOV.

Read in this order: spec.py (registers, commands, status), registers.py and controller.py (doorbells, the life of a
command), queues.py, prp.py (where the host's memory is), admin.py, log.py, features.py, io.py (what the commands do),
identify.py (what the drive says of itself), subsystem.py (what the controllers of a card share), card.py (its PCI
functions).

Simplified: pages of 4 KiB, sectors of 512 bytes without metadata, physically contiguous queues, PRPs and no SGLs, no
fused commands, no streams, reservations, firmware updates, sanitizing, power states or controller memory buffer.
Interrupts are never coalesced. An admin command takes no time but that of fetching it.
"""

"""Direct assignment: the guest is given a virtual function of a card, and drives it without the hypervisor.

Read in this order: mode.py (what is plugged in, and what the guest gets of it), nvme_owner.py (the hypervisor as the
owner of an NVMe card). What the guest finds is in hv/x86_64/assigned.py, what it cannot reach in iommu_tables.py there.
"""

from modes.sriov.mode import Sriov

MODE = Sriov

__all__ = ["MODE"]

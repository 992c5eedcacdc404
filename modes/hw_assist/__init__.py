"""Hardware assistance: AMD's SVM. A VMCB per vCPU, the intercepts that are needed and no more.

Read in this order: mode.py (start, and the table of exits), npt.py (memory), shadow.py (the same without nested
paging) with guest_rights.py (its tables) and control_registers.py. What a device's register or a port does is in
hv/x86_64.
"""

from modes.hw_assist.mode import HwAssist
from modes.hw_assist.shadow import HwShadow

MODE = HwAssist
SHADOW = HwShadow

__all__ = ["MODE", "SHADOW"]

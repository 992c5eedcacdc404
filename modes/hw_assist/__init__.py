"""Hardware assistance: AMD's SVM with nested paging. A VMCB per vCPU, the intercepts that are needed and no more.

Read in this order: mode.py (start, and the table of exits), npt.py (memory), mmio.py (a device register touched),
ports.py (an I/O instruction), board.py (what the guest finds).
"""

from modes.hw_assist.mode import HwAssist

MODE = HwAssist

__all__ = ["MODE"]

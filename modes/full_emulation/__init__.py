"""Full emulation of the CPU: the kernel deprivileged, its page tables shadowed, its privileged instructions trapped.

Read in this order: mode.py (the exits), state.py (the virtual CPU), shadow.py (memory), scan.py (the instructions that
do not trap), emulate.py (the ones that do), reflect.py (what the guest gets back), core.py (what these share).
"""

from modes.full_emulation.mode import TrapAndEmulate
from modes.full_emulation.naive import TrapAndEmulateNaive
from modes.full_emulation.translator.mode import FullEmulation

MODE = FullEmulation
TRAP = TrapAndEmulate
NAIVE = TrapAndEmulateNaive

__all__ = ["MODE", "NAIVE", "TRAP"]

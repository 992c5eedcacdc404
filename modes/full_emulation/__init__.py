"""Full emulation: the kernel deprivileged, its page tables shadowed, its privileged instructions trapped.

Read in this order: mode.py (the exits), state.py (the virtual CPU), pager.py and modes/shadow (memory), scan.py (the
instructions that do not trap), emulate.py and instructions/ (the ones that do), reflect.py (what the guest gets back),
core.py (what these share). translator/ has the kernel run from a translation cache. devices.py is the rest of the
machine.
"""

from modes.full_emulation.mode import TrapAndEmulate
from modes.full_emulation.naive import TrapAndEmulateNaive
from modes.full_emulation.translator.mode import FullEmulation

MODE = FullEmulation
TRAP = TrapAndEmulate
NAIVE = TrapAndEmulateNaive

__all__ = ["MODE", "NAIVE", "TRAP"]

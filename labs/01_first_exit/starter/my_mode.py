"""Lab 1, first exit: your own mode. `hv lab check` tells you what to do next; handout.md explains it.

A mode is a hypervisor. The CPU runs the guest by itself until the guest does something that must not happen by itself.
Then the CPU stops the guest and calls handle(): that is an exit.
"""

from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import GP, Exit, Shutdown
from hv.silicon.x86_64.cpuid import cpuid
from hv.silicon.x86_64.state import RAX, RBX, RCX, RDX
from hv.vcpu import Vcpu
from labs.kit import KitMode


class MyMode(KitMode):
    id = "my-mode"
    summary = "my first mode"
    reasons = frozenset({"hlt"})  # every reason that handle() may return; `hv exits` lists all that exist

    def handle(self, vcpu: Vcpu, exit: Exit) -> str:
        """Answer one exit, and return its reason."""
        cpu = vcpu.cpu
        if exit.code == svm.HLT:
            # Step 1. The guest has nothing to do. Two things are missing here: hlt, one byte long, must not be
            # executed again, and the CPU must sleep.
            return "hlt"
        # Steps 2 to 5 go here.
        raise Shutdown(f"exit {exit.code:#x} at RIP {cpu.rip:#x}: nobody handles it")

"""The hypervisor's x86-64 room: everything above the silicon that knows the instruction set."""

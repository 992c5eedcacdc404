"""hv: the teaching hypervisor. The core: silicon, machine assembly, exits and their ledger, the command line."""

__version__ = "0.1.0"

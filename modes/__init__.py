"""The modes: one module or package for each virtualization technique. The contract is hv/mode.py."""

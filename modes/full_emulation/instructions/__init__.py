"""What emulate.py executes, by kind: segments and descriptor tables, far transfers, ports."""

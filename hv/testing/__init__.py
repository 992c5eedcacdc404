"""For whoever writes a mode: `pytest --hv-mode NAME` compares it with bare metal. Only this room imports pytest."""

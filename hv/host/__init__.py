"""The outside world: what is at the other end of the machine's wires."""

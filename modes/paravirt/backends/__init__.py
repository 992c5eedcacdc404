"""Domain 0's part of split drivers: network and block back ends, on a CPU of its own beside the guest's."""

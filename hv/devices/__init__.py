"""Emulated devices of the hypervisor: models of real chips after their data sheets, every access to them an exit."""

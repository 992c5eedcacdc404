"""Devices that a hypervisor emulates in software: models of real chips, register by register.

Each sees the machine through a slot (hv/silicon/device.py); none knows its address or the mode that plugged it in.
"""

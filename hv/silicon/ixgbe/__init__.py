"""Intel's 82599, file by file: card.py is the PCI functions, physical.py and virtual.py their registers, switch.py who
gets a frame, the others the parts that work.

Section numbers are those of the Intel 82599 10 GbE Controller Datasheet (331520).
"""

"""The EEPROM, as software reads it through EERD (data sheet, 6 and 8.2.3.2.2).

Words 0 to 0x3F are fixed; many of them point to sections. A section is its length and then its words, but for two
whose form is their reader's: the firmware's, and the list of what each kind of SFP+ module wants to be set up with.
Simplified: not by its serial wires (EEC), and it cannot be written; the sections that only the chip itself reads at
power-on are not there.
"""

from __future__ import annotations

SIZE = 7  # EEC: 1 << SIZE + 6 words, 16 KiB
ERASED = 0xFFFF
SUM, SUM_AT = 0xBABA, 0x3F  # of the words below SUM_AT, and of the sections of POINTERS
POINTERS = range(0x03, 0x0F)
CORE, FIRMWARE, MODULES = 0x09, 0x0F, 0x2B  # pointers: the port's settings, firmware, set-up of modules
NOT_THERE = (*POINTERS, 0x27, 0x28)  # sections that are not here; the last two: addresses for storage over Ethernet
CORE_AT, FIRMWARE_AT, PATCH_AT, MODULES_AT, SR_AT = 0x40, 0x48, 0x50, 0x60, 0x68
PATCH = 4  # word of the firmware's section: pointer to its patches
VERSION_WORD, VERSION = 7, 6  # word of the patches' section; drivers of SFP+ cards warn below 6
SR_MODULE = 5  # a 10GBASE-SR or -LR module at port 0
# What the analog part of the chip wants for it (CORECTL), until ERASED. There is no analog part here: any value does.
SR_SETUP = (0x0000,)


def contents(mac: bytes) -> list[int]:
    """What the factory writes. Behind it everything is erased."""
    words = [0] * (SUM_AT + 1) + [ERASED] * 0x40
    for at in NOT_THERE:
        words[at] = ERASED
    words[CORE], words[FIRMWARE], words[MODULES] = CORE_AT, FIRMWARE_AT, MODULES_AT
    core = [mac[i] | mac[i + 1] << 8 for i in (0, 2, 4)]
    for at, section in (
        (CORE_AT, [len(core), *core]), (FIRMWARE_AT + PATCH, [PATCH_AT]), (PATCH_AT + VERSION_WORD, [VERSION]),
        (MODULES_AT, [3, SR_MODULE, SR_AT, ERASED]), (SR_AT, [len(SR_SETUP), *SR_SETUP, ERASED]),
    ):  # fmt: skip
        words[at : at + len(section)] = section
    words[SUM_AT] = (SUM - sum(words[:SUM_AT]) - sum(core)) & 0xFFFF
    return words

"""The EEPROM, as software reads it through EERD (data sheet, 6 and 8.2.3.2.2).

Simplified: not by its serial wires (EEC), and it cannot be written; of its sections only the one with the card's
address is there.
"""

from __future__ import annotations

WORDS = 128
SUM, SUM_AT = 0xBABA, 0x3F  # of the first 64 words and what is in the sections
CORE, CORE_AT = 0x09, 0x40  # the pointer to the section of the LAN core, and where that is
POINTERS = (*range(0x03, 0x10), 0x15, 0x16, 0x27, 0x28)  # to sections that are not here


def contents(mac: bytes) -> list[int]:
    """What the factory writes."""
    words = [0] * SUM_AT + [0] * (WORDS - SUM_AT)
    for at in POINTERS:
        words[at] = 0xFFFF
    words[CORE] = CORE_AT
    section = [mac[i] | mac[i + 1] << 8 for i in (0, 2, 4)]
    words[CORE_AT : CORE_AT + 4] = [len(section), *section]
    words[SUM_AT] = (SUM - sum(words[:SUM_AT]) - sum(section)) & 0xFFFF
    return words

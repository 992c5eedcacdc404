"""The EEPROM of the 82540EM: 64 words, by the EERD register or bit by bit through EECD (5.4 to 5.6, 13.4.3, 13.4.4).

The serial part is a 93C46: three wires, commands of a start bit, two bits of code and six of address.
Simplified: a write is over at once.
"""

from __future__ import annotations

from hv.devices.e1000.chip import Chip, SerialState
from hv.devices.e1000.registers import EECD, EERD, RAH0, RAH_VALID, RAL0

WORDS = 64
CHECKSUM = 0xBABA  # the sum of all words
SK, CS, DI, DO, REQUEST, GRANT, PRESENT = 1, 2, 4, 8, 1 << 6, 1 << 7, 1 << 8
EERD_START, EERD_DONE = 1, 1 << 4
COMMAND_BITS = 9  # with the start bit
WRITE, READ, ERASE = 1, 2, 3
# Code 0 has its four commands in the address's upper two bits.
DISABLE, WRITE_ALL, ERASE_ALL, ENABLE = range(4)


def contents(mac: bytes, vendor: int, device: int) -> list[int]:
    """What the factory writes: the address, the card's name in PCI, and a checksum."""
    words = [0xFFFF] * WORDS
    words[0:3] = [mac[i] | mac[i + 1] << 8 for i in (0, 2, 4)]
    words[0x0A] = 0x4408  # initialization control 1: signature, PCI names come from here
    words[0x0B:0x0F] = [device, vendor, device, vendor]
    words[0x0F] = 0x3040  # initialization control 2
    words[WORDS - 1] = (CHECKSUM - sum(words[:-1])) & 0xFFFF
    return words


class Eeprom:
    """`words` are in the chip's state."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def load_address(self) -> None:
        """After a reset the MAC address comes from here."""
        chip, words = self.chip, self.chip.state.eeprom
        chip[RAL0] = words[0] | words[1] << 16
        chip[RAH0] = words[2] | RAH_VALID

    def write_eerd(self, value: int) -> None:
        """Reading a word by its number. The answer is there at once."""
        if value & EERD_START:
            word = value >> 8 & 0xFF
            data = self.chip.state.eeprom[word] if word < WORDS else 0xFFFF
            value = data << 16 | word << 8 | EERD_DONE
        self.chip[EERD] = value

    def read_eecd(self) -> int:
        value = self.chip[EECD] & 0x77 | PRESENT
        return value | (GRANT if value & REQUEST else 0) | (DO if self.chip.state.serial.out else 0)

    def write_eecd(self, value: int) -> None:
        """The wires as software sets them; a bit goes in with each rising edge of SK."""
        before = self.chip[EECD]
        self.chip.store(EECD, value)
        if not value & CS:
            enabled = self.chip.state.serial.writes_enabled
            self.chip.state.serial = SerialState(writes_enabled=enabled)
        elif value & SK and not before & SK:
            self._clock(bool(value & DI))

    def _clock(self, bit: bool) -> None:
        chip, s = self.chip, self.chip.state.serial
        if s.reading is not None:
            word = chip.state.eeprom[s.reading]
            s.out = word >> 15 - s.shifted & 1
            s.shifted += 1
            if s.shifted == 16:  # and goes on with the next word
                s.reading, s.shifted = (s.reading + 1) % WORDS, 0
            return
        if not s.bits and not bit:
            return  # no start bit yet
        s.bits = s.bits << 1 | bit
        length = s.bits.bit_length()
        if length == COMMAND_BITS:
            self._command(s.bits >> 6 & 3, s.bits & 63)
        elif length == COMMAND_BITS + 16:
            self._data(s.bits >> 16 & 0xFF, s.bits & 0xFFFF)
            s.bits = 0

    def _command(self, code: int, address: int) -> None:
        chip, s = self.chip, self.chip.state.serial
        if code == READ:
            s.reading, s.shifted, s.out, s.bits = address, 0, 0, 0  # a zero comes first
        elif code == ERASE and s.writes_enabled:
            chip.state.eeprom[address] = 0xFFFF
        elif code == 0 and address >> 4 in (DISABLE, ENABLE):
            s.writes_enabled = address >> 4 == ENABLE
        elif code == 0 and address >> 4 == ERASE_ALL and s.writes_enabled:
            chip.state.eeprom[:] = [0xFFFF] * WORDS
        if code == ERASE or (code == 0 and address >> 4 != WRITE_ALL):
            s.bits = 0

    def _data(self, command: int, data: int) -> None:
        """The word that a write command waits for."""
        chip, s = self.chip, self.chip.state.serial
        if not s.writes_enabled:
            return
        if command >> 6 == WRITE:
            chip.state.eeprom[command & 63] = data
        else:
            chip.state.eeprom[:] = [data] * WORDS

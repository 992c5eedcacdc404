"""The SFP+ module in the card's cage: a 10GBASE-SR transceiver, and the memory in it that says so (SFF-8472, SFF-8431).

The memory is reached over two wires, which software drives through I2CCTL (data sheet, 8.2.3.1.4): SCL, the clock, and
SDA, which both sides can pull low. A byte is eight bits and an acknowledgement; SDA changes while SCL is low, and a
change while SCL is high is a start (falling) or a stop (rising).
Simplified: no diagnostics, which would be a second memory, at 0xA2; nothing can be written.
"""

from __future__ import annotations

import msgspec

ADDRESS = 0xA0  # of the memory on the wires; the lowest bit says whether the master reads
SCL_IN, SCL_OUT, SDA_IN, SDA_OUT = 1 << 0, 1 << 1, 1 << 2, 1 << 3  # I2CCTL
RELEASED = SCL_OUT | SDA_OUT
# Who the module's byte is for, or from.
IDLE, ADDRESSED, POINTER, WRITTEN, READ = range(5)


def contents() -> bytes:
    """The first 256 bytes. An Intel driver takes modules of Intel's (IEEE's number for it: 00-1B-21)."""
    data = bytearray(256)
    data[0:4] = 3, 4, 7, 0x10  # an SFP, with this memory, an LC connector, 10GBASE-SR
    data[11:13] = 6, 103  # coding 64B/66B; 10.3 Gb/s
    data[16:20] = 8, 3, 0, 30  # metres over fibres OM2, OM1, OM3, each in its unit
    data[20:36] = b"Intel Corp".ljust(16)
    data[37:40] = bytes.fromhex("001b21")
    data[40:56] = b"FTLX8571D3BCV-IT".ljust(16)
    data[56:60] = b"A   "
    data[60:62] = (850).to_bytes(2, "big")  # nm
    data[65] = 0x1A  # it has LOS, TX_FAULT and TX_DISABLE
    data[68:84] = b"HV0000000001".ljust(16)
    data[84:92] = b"110101  "
    data[63], data[95] = sum(data[:63]) & 0xFF, sum(data[64:95]) & 0xFF
    return bytes(data)


class ModuleState(msgspec.Struct):
    """`clocks` of the byte that is under way, and its bits so far. `next`: the byte that is read next."""

    lines: int = RELEASED  # as the master drives them
    pulled: bool = False  # the module pulls SDA low
    phase: int = IDLE
    clocks: int = 0
    bits: int = 0
    next: int = 0


class Module:
    """The wires' other end. `state` is given for each call, since it belongs to the card."""

    def __init__(self) -> None:
        self.data = contents()

    def read(self, state: ModuleState) -> int:
        """I2CCTL: what both sides make of the wires."""
        scl = SCL_IN if state.lines & SCL_OUT else 0
        return state.lines | scl | (SDA_IN if state.lines & SDA_OUT and not state.pulled else 0)

    def write(self, state: ModuleState, value: int) -> None:
        """I2CCTL. One write is one change of the wires."""
        before, state.lines = state.lines, value & RELEASED
        clock, data = bool(value & SCL_OUT), bool(value & SDA_OUT)
        if clock and before & SCL_OUT:
            if data != bool(before & SDA_OUT):
                state.phase, state.pulled, state.clocks, state.bits = IDLE if data else ADDRESSED, False, 0, 0
        elif clock and state.phase != IDLE:
            self._rise(state, data and not state.pulled)
        elif before & SCL_OUT and state.phase != IDLE:
            self._fall(state)

    def _rise(self, state: ModuleState, bit: bool) -> None:
        """A bit is on the wire, for whoever listens."""
        state.clocks += 1
        state.bits = state.bits << 1 | bit
        if state.clocks == 9 and state.phase == READ and bit:
            state.phase = IDLE  # not acknowledged: the master has enough

    def _fall(self, state: ModuleState) -> None:
        """The module may put its next bit on the wire."""
        if state.clocks == 9:
            state.clocks = state.bits = 0
            state.pulled = False
        elif state.clocks == 8 and state.phase != READ:
            state.pulled = self._take(state, state.bits)
            return
        if state.phase == READ:
            bit = self.data[state.next] >> 7 - state.clocks & 1 if state.clocks < 8 else 1
            state.pulled = not bit
            if state.clocks == 8:
                state.next = (state.next + 1) % len(self.data)

    def _take(self, state: ModuleState, byte: int) -> bool:
        """A byte from the master. True: it is acknowledged."""
        if state.phase == ADDRESSED and byte & 0xFE == ADDRESS:
            state.phase = READ if byte & 1 else POINTER
        elif state.phase == POINTER:
            state.next, state.phase = byte, WRITTEN
        else:
            state.phase = IDLE
        return state.phase != IDLE

"""The receiver of the 82540EM: filters, the receive FIFO, the descriptor ring, checksum offload (8254x manual, 3.2).

Frames that pass the filters wait in the FIFO until there are descriptors for them; what no longer fits is lost (MPC).
Simplified: descriptors are fetched one by one and written back at once; frames come without errors of the line; no
splitting of headers. A head or tail outside the ring: no descriptors.
"""

from __future__ import annotations

import struct

from hv.devices.e1000 import registers as reg
from hv.devices.e1000.chip import Chip
from hv.devices.e1000.flow import Flow
from hv.devices.e1000.interrupts import Interrupts
from hv.devices.e1000.statistics import Statistics
from hv.silicon.ethernet.frames import BROADCAST, FCS, LONGEST, LONGEST_JUMBO, SHORTEST, VLAN_TAG, checksum, fcs
from hv.silicon.ethernet.internet import inspect

DESCRIPTOR = 16  # bytes
# Status and errors (3.2.3).
DD, END, IXSM, VP, TCPCS, IPCS, PIF = 1, 2, 4, 8, 32, 64, 128
TCPE, IPE = 32, 64


class Receiver:
    def __init__(self, chip: Chip, interrupts: Interrupts, statistics: Statistics, flow: Flow) -> None:
        self.chip, self.interrupts, self.statistics, self.flow = chip, interrupts, statistics, flow

    def receive(self, frame: bytes) -> None:
        """A frame, without its FCS, from the line."""
        chip, statistics = self.chip, self.statistics
        if not chip[reg.RCTL] & reg.RCTL_EN:
            return
        statistics.seen(frame)
        longest = LONGEST + VLAN_TAG * (frame[12:14] == self._vlan_type())
        if len(frame) < SHORTEST:
            statistics.count(reg.RUC)
            return
        if len(frame) > (LONGEST_JUMBO if chip[reg.RCTL] & reg.RCTL_LPE else longest):
            statistics.count(reg.ROC)
            return
        if self.flow.take(frame) or not (self._wanted(frame) and self._in_vlan(frame)):
            return
        held = sum(map(len, chip.state.receive_fifo))
        if held + len(frame) + FCS > chip.receive_room:
            statistics.count(reg.MPC)
            self.interrupts.raise_cause(reg.RXO)
            return
        statistics.received(frame)
        if not self._free():
            statistics.count(reg.RNBC)
        chip.state.receive_fifo.append(frame)
        self.work()

    # --- filters ----------------------------------------------------------------------------------------------

    def _vlan_type(self) -> bytes:
        return self.chip[reg.VET].to_bytes(2, "big")

    def _wanted(self, frame: bytes) -> bool:
        """The address filters, exact and inexact (3.2.2, 13.5.1 to 13.5.3)."""
        control, address = self.chip[reg.RCTL], frame[:6]
        if self._exact(frame) or (address == BROADCAST and control & reg.RCTL_BAM):
            return True
        if not address[0] & 1:
            return bool(control & reg.RCTL_UPE)
        return bool(control & reg.RCTL_MPE) or self._hashed(address)

    def _exact(self, frame: bytes) -> bool:
        """One of the 16 receive addresses, compared with the destination, or with the source where it says so."""
        chip = self.chip
        for i in range(0, 8 * reg.RECEIVE_ADDRESSES, 8):
            high = chip[reg.RAH0 + i]
            which = high >> 16 & 3
            if high & reg.RAH_VALID and which < 2:
                address = chip[reg.RAL0 + i].to_bytes(4, "little") + (high & 0xFFFF).to_bytes(2, "little")
                if address == frame[6 * which : 6 * which + 6]:
                    return True
        return False

    def _hashed(self, address: bytes) -> bool:
        """Twelve bits of the address, which twelve RCTL.MO says, choose a bit of the multicast table."""
        shift = (4, 3, 2, 0)[self.chip[reg.RCTL] >> reg.RCTL_MO_SHIFT & 3]
        bit = (address[4] | address[5] << 8) >> shift & 0xFFF
        return bool(self.chip[reg.MTA + 4 * (bit >> 5)] >> (bit & 31) & 1)

    def _in_vlan(self, frame: bytes) -> bool:
        control = self.chip[reg.RCTL]
        if not control & reg.RCTL_VFE or frame[12:14] != self._vlan_type():
            return True
        tag = int.from_bytes(frame[14:16], "big")
        if control & reg.RCTL_CFIEN and bool(tag & 0x1000) != bool(control & reg.RCTL_CFI):
            return False
        return bool(self.chip[reg.VFTA + 4 * (tag >> 5 & 127)] >> (tag & 31) & 1)

    # --- the ring ---------------------------------------------------------------------------------------------

    def _free(self) -> int:
        """Descriptors that software has given and that are not used."""
        head, tail, size = self.chip[reg.RDH], self.chip[reg.RDT], self.chip[reg.RDLEN] // DESCRIPTOR
        return (tail - head) % size if max(head, tail) < size else 0

    @property
    def buffer_size(self) -> int:
        control = self.chip[reg.RCTL]
        sizes = (2048, 16384, 8192, 4096) if control & reg.RCTL_BSEX else (2048, 1024, 512, 256)
        return sizes[control >> reg.RCTL_BSIZE_SHIFT & 3]

    def work(self) -> None:
        """Store what waits in the FIFO, as far as there are descriptors."""
        chip, s = self.chip, self.chip.state
        if not chip[reg.RCTL] & reg.RCTL_EN:
            return
        while s.receive_fifo and (free := self._free()):
            frame = s.receive_fifo[0]
            if self._store(frame):
                del s.receive_fifo[0]
                s.receive_done = 0
                self.interrupts.received()
                if len(frame) + FCS <= chip[reg.RSRPD]:
                    self.interrupts.raise_cause(reg.SRPD)
            fraction = 2 << (chip[reg.RCTL] >> reg.RCTL_RDMTS_SHIFT & 3)
            if free - 1 == chip[reg.RDLEN] // DESCRIPTOR // fraction:
                self.interrupts.raise_cause(reg.RXDMT0)
        self.flow.watch(sum(map(len, s.receive_fifo)))

    def _store(self, frame: bytes) -> bool:
        """The next buffer full of the frame. True when it was the last."""
        chip, s = self.chip, self.chip.state
        tag = None
        stored = frame
        if frame[12:14] == self._vlan_type():
            tag = int.from_bytes(frame[14:16], "big")
            if chip[reg.CTRL] & reg.CTRL_VME:
                stored = frame[:12] + frame[16:]
        data = stored if chip[reg.RCTL] & reg.RCTL_SECRC else stored + fcs(frame)
        at = (chip[reg.RDBAH] << 32 | chip[reg.RDBAL]) + DESCRIPTOR * chip[reg.RDH]
        part = data[s.receive_done : s.receive_done + self.buffer_size]
        chip.dma_write(int.from_bytes(chip.dma_read(at, 8), "little"), part)
        s.receive_done += len(part)
        last = s.receive_done >= len(data)
        status, errors = self._verify(frame, stored) if last else (0, 0)
        stripped = tag is not None and bool(chip[reg.CTRL] & reg.CTRL_VME)
        status |= DD | END * last | VP * stripped
        packet_checksum = checksum(stored[chip[reg.RXCSUM] & 0xFF :]) if last else 0
        special = tag or 0 if stripped else 0
        chip.dma_write(at + 8, struct.pack("<HHBBH", len(part), packet_checksum, status, errors, special))
        chip[reg.RDH] = (chip[reg.RDH] + 1) % (chip[reg.RDLEN] // DESCRIPTOR)
        return last

    def _verify(self, frame: bytes, stored: bytes) -> tuple[int, int]:
        """Checksum offload of IPv4, TCP and UDP (3.2.9): bits of status and of errors."""
        control = self.chip[reg.RXCSUM]
        status = 0 if self._exact(frame) or frame[:6] == BROADCAST else PIF
        errors = 0
        plain = stored[:12] + stored[16:] if stored[12:14] == self._vlan_type() else stored
        found = inspect(plain)
        if found is None or found.version != 4:
            return status | IXSM, errors
        if control & reg.RXCSUM_IPOFL:
            status |= IPCS
            errors |= 0 if found.header_good else IPE
        if control & reg.RXCSUM_TUOFL and found.payload_good is not None:
            status |= TCPCS
            errors |= 0 if found.payload_good else TCPE
        return status if status & (IPCS | TCPCS) else status | IXSM, errors

    def reset(self) -> None:
        self.chip.state.receive_fifo.clear()
        self.chip.state.receive_done = 0

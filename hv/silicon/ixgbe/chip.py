"""What the functions of an 82599 share: the registers, the queues, the mailboxes, the line, the receive buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from hv.silicon.device import Slot
from hv.silicon.ethernet.frames import LINE_OVERHEAD
from hv.silicon.ixgbe import registers as reg
from hv.silicon.ixgbe.mailbox import Mailbox
from hv.silicon.ixgbe.module import ModuleState
from hv.silicon.ixgbe.rings import RxRing, TxRing
from hv.silicon.memory import BusError

if TYPE_CHECKING:
    from hv.silicon.ixgbe.card import IxgbeFunction

PS_PER_BYTE = 800  # at 10 Gb/s
PS_PER_SECOND = 10**12
ALL_ONES = b"\xff"
ADDRESSES = (1 << 64) - 1
PER_POOL = (0, 8, 4, 2)  # queues of a pool, by GCR_EXT.VT_Mode
PER_POOL_BY_MRQC = {0x8: 2, 0xA: 4, 0xB: 2, 0xC: 8, 0xD: 4}  # where that is 0: pools without virtual functions
SHARING = (reg.VT_CTL, reg.GCR_EXT, reg.MRQC, reg.VLNCTRL)  # how queues and frames are shared out


class PoolCounters(msgspec.Struct):
    """What a virtual function sees of its traffic. A read clears nothing (8.3.5.8)."""

    received: int = 0
    received_bytes: int = 0
    received_multicast: int = 0
    sent: int = 0
    sent_bytes: int = 0


class ChipState(msgspec.Struct):
    """Everything that the functions have in common."""

    registers: dict[int, int] = {}  # by offset; those that are not here have their reset value
    counters: dict[int, int] = {}  # statistics, by offset
    pools: dict[int, PoolCounters] = {}
    rx: dict[int, RxRing] = {}
    tx: dict[int, TxRing] = {}
    mailboxes: dict[int, Mailbox] = {}
    module: ModuleState = msgspec.field(default_factory=ModuleState)
    resets: int = 0  # virtual functions that were reset (VFLRE), a bit each
    line_free: int = 0  # when the last frame has left
    buffered: int = 0  # bytes of the receive buffer that are used


class Chip:
    """Registers by offset. `send(frame, at)` puts a frame, without its FCS, on the wire at a time."""

    def __init__(self, tsc_hz: int, fetch_time: int) -> None:
        self.tsc_hz, self.fetch_time = tsc_hz, fetch_time
        self.send: Callable[[bytes, int], None] = lambda frame, at: None  # no cable
        self.functions: list[IxgbeFunction] = []  # the physical one, then the virtual ones
        self.tables_changed: Callable[[], None] = lambda: None
        self.restore(ChipState())

    def restore(self, state: ChipState) -> None:
        """Go on from another state."""
        self.state = state
        self._share_out()
        self.tables_changed()

    # --- registers --------------------------------------------------------------------------------------------

    def __getitem__(self, offset: int) -> int:
        value = self.state.registers.get(offset)
        return reg.AT[offset].reset if value is None else value

    def __setitem__(self, offset: int, value: int) -> None:
        self.state.registers[offset] = value & 0xFFFF_FFFF
        if offset in SHARING:
            self._share_out()

    def store(self, offset: int, value: int) -> None:
        """A write by software: only the bits that it may change."""
        writable = reg.AT[offset].writable
        self[offset] = self[offset] & ~writable | value & writable

    def forget(self) -> None:
        """A reset of the registers, the queues and the statistics; some tables stay."""
        s = self.state
        s.registers = {offset: value for offset, value in s.registers.items() if reg.AT[offset].kept}
        s.counters, s.rx, s.tx, s.pools = {}, {}, {}, {}
        self._share_out()
        self.tables_changed()

    def bit(self, offset: int, number: int) -> bool:
        """Bit `number` of an array of registers."""
        return bool(self[offset + 4 * (number >> 5)] >> (number & 31) & 1)

    def wide(self, offset: int) -> int:
        """64 bits from two registers."""
        return self[offset] | self[offset + 4] << 32

    # --- queues -----------------------------------------------------------------------------------------------

    def rx(self, number: int) -> RxRing:
        ring = self.state.rx.get(number)
        if ring is None:
            ring = self.state.rx[number] = RxRing()
        return ring

    def tx(self, number: int) -> TxRing:
        ring = self.state.tx.get(number)
        if ring is None:
            ring = self.state.tx[number] = TxRing()
        return ring

    def _share_out(self) -> None:
        """What the SHARING registers mean, kept because it is asked for each frame."""
        self.pooled = bool(self[reg.VT_CTL] & reg.VT_ENABLE)  # the receiver sorts frames by pools
        # Queues of a virtual function; 0 while the card is not told how to share them out.
        self.virtual_queues = PER_POOL[self[reg.GCR_EXT] & 3]
        self.per_pool = self.virtual_queues or PER_POOL_BY_MRQC.get(self[reg.MRQC] & 0xF, 2)  # queues of a pool
        self.vlan_type = (self[reg.VLNCTRL] & 0xFFFF).to_bytes(2, "big")  # of a frame with a VLAN tag

    def owner(self, queue: int) -> IxgbeFunction:
        """In whose name a queue reads, writes and interrupts."""
        each = self.virtual_queues
        if each and queue // each < len(self.functions) - 1:
            vf = self.functions[1 + queue // each]
            if vf.present:
                return vf
        return self.functions[0]

    # --- the line ---------------------------------------------------------------------------------------------

    def line_time(self, length: int) -> int:
        """How long bytes take at 10 Gb/s, in millicycles."""
        return length * PS_PER_BYTE * self.tsc_hz * 1000 // PS_PER_SECOND

    def occupy_line(self, length: int, now: int) -> int:
        """A frame behind those that have not left yet. Returns when it has left."""
        s = self.state
        s.line_free = max(s.line_free, now) + self.line_time(length + LINE_OVERHEAD)
        return s.line_free


def dma_read(slot: Slot, address: int, size: int) -> bytes:
    """Where nobody answers, all ones: what a PCI Express requester makes of an abort."""
    try:
        return slot.read(address & ADDRESSES, size)
    except BusError:
        return ALL_ONES * size


def dma_write(slot: Slot, address: int, data: bytes) -> None:
    """Where nobody answers, nobody takes it."""
    try:
        slot.write(address & ADDRESSES, data)
    except BusError:
        return

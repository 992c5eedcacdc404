"""The switch inside the card: who gets a frame that came in, or that one of the functions sends (7.1.1, 7.10.3).

Addresses belong to pools of queues, and a virtual function's queues are a pool. What comes from the wire passes the
card's filters first, then goes to every pool that wants it. What a pool sends goes to other pools, to the wire, or to
both; a source address or a VLAN that is not the sender's is dropped and counted.
Simplified: without pools everything goes to queue 0 (no RSS, no filters by flow or protocol); no mirroring; PAUSE and
other MAC control frames are dropped; double VLAN tags are not looked at.
"""

from __future__ import annotations

from hv.silicon.ethernet.frames import BROADCAST, FCS, LONGEST, SHORTEST, VLAN_TAG
from hv.silicon.ixgbe import registers as reg
from hv.silicon.ixgbe import statistics as stat
from hv.silicon.ixgbe.chip import Chip
from hv.silicon.ixgbe.receive import Arrival
from hv.silicon.ixgbe.registers import bits
from hv.silicon.ixgbe.statistics import Statistics

MAC_CONTROL = b"\x88\x08"
HASH_SHIFTS = (4, 3, 2, 0)  # MCSTCTRL.MO


class Tables:
    """The card's tables as one looks things up in them. Pools are bits of a number."""

    def __init__(self, chip: Chip) -> None:
        self.addresses: dict[bytes, int] = {}  # receive address -> its pools (RAL, RAH, MPSAR)
        for entry in range(reg.ADDRESSES):
            value = chip.wide(reg.RAL + 8 * entry)
            if value >> 63:
                address = (value & (1 << 48) - 1).to_bytes(6, "little")
                self.addresses[address] = self.addresses.get(address, 0) | chip.wide(reg.MPSAR + 8 * entry)
        self.vlans: dict[int, int] = {}  # VLAN -> who is in it (VLVF, VLVFB); of two entries the first counts
        for entry in range(reg.VLANS):
            value = chip[reg.VLVF + 4 * entry]
            if value & reg.VLAN_VALID:
                self.vlans.setdefault(value & 0xFFF, chip.wide(reg.VLVFB + 8 * entry))
        options = [chip[reg.VMOLR + 4 * pool] for pool in range(reg.POOLS)]
        self.having = {  # option of VMOLR -> who has it
            option: sum(1 << pool for pool, value in enumerate(options) if value & option)
            for option in (reg.AUPE, reg.ROMPE, reg.ROPE, reg.BAM, reg.MPE)
        }


class Switch:
    def __init__(self, chip: Chip, statistics: Statistics) -> None:
        self.chip, self.statistics = chip, statistics
        self._tables: Tables | None = None
        chip.tables_changed = self._tables_changed

    @property
    def tables(self) -> Tables:
        if self._tables is None:
            self._tables = Tables(self.chip)
        return self._tables

    def _tables_changed(self) -> None:
        self._tables = None

    # --- from the wire ----------------------------------------------------------------------------------------

    def receive(self, frame: bytes, at: int) -> None:
        """A frame, without its FCS, from the line."""
        chip = self.chip
        if not chip[reg.RXCTRL] & reg.RECEIVE_ENABLE:
            return
        self.statistics.seen(frame)
        if len(frame) < SHORTEST:
            self.statistics.count(stat.RUC)
        elif len(frame) > self._longest(frame):
            self.statistics.count(stat.ROC)
        elif frame[12:14] != MAC_CONTROL and self._wanted(frame):
            self.statistics.received(frame)
            self._deliver(self._pools(frame) or self._default(), frame, at, loopback=False)

    def _longest(self, frame: bytes) -> int:
        """HLREG0.JUMBOEN and MAXFRS; a VLAN tag is on top of it."""
        jumbo = self.chip[reg.HLREG0] & reg.HLREG0_JUMBO
        longest = (self.chip[reg.MAXFRS] >> 16) - FCS if jumbo else LONGEST
        return longest + VLAN_TAG * (self.vlan(frame) is not None)

    def _wanted(self, frame: bytes) -> bool:
        """The card's filters, by address and by VLAN (7.1.1.1 and 7.1.1.2)."""
        control, address = self.chip[reg.FCTRL], frame[:6]
        if address in self.tables.addresses:
            wanted = True
        elif address == BROADCAST:
            wanted = bool(control & reg.FCTRL_BAM)
        elif address[0] & 1:
            hashed = self.chip[reg.MCSTCTRL] & reg.MCSTCTRL_MFE and self._hashed(reg.MTA, address)
            wanted = bool(control & reg.FCTRL_MPE or hashed)
        else:
            wanted = bool(control & reg.FCTRL_UPE or self._hashed(reg.UTA, address))
        vlan = self.vlan(frame)
        if wanted and vlan is not None and self.chip[reg.VLNCTRL] & reg.VLNCTRL_VFE:
            wanted = self.chip.bit(reg.VFTA, vlan)
        return wanted

    def _hashed(self, table: int, address: bytes) -> bool:
        """Twelve bits of the address choose a bit of a table."""
        shift = HASH_SHIFTS[self.chip[reg.MCSTCTRL] & 3]
        return self.chip.bit(table, (address[4] | address[5] << 8) >> shift & 0xFFF)

    # --- from a queue -----------------------------------------------------------------------------------------

    def send(self, queue: int, frame: bytes, now: int) -> int | None:
        """A frame of a queue's. It takes its time on the line, wherever it goes; returns when it has left the card."""
        chip = self.chip
        pool = queue // chip.per_pool
        if chip.pooled and self._spoofed(pool, frame):
            self.statistics.count(stat.SSVPC)
            return None
        at = chip.occupy_line(len(frame), now)
        self.statistics.queue_sent(queue, pool, frame)
        if chip[reg.HLREG0] & reg.HLREG0_LOOPBACK:
            self.receive(frame, at)
            return at
        inside = chip.pooled and chip[reg.PFDTXGSWC] & reg.LOOPBACK_ENABLE
        if inside:
            itself = 0 if chip.bit(reg.VMTXSW, pool) else 1 << pool
            self._deliver(self._pools(frame) & ~itself, frame, at, loopback=True)
        if not inside or frame[0] & 1 or frame[:6] not in self.tables.addresses:
            self.statistics.sent(frame)
            chip.send(frame, at)
        return at

    def _spoofed(self, pool: int, frame: bytes) -> bool:
        """PFVFSPOOF: a source address, or a VLAN, that is not the pool's (7.10.3.9.2)."""
        checks = self.chip[reg.PFVFSPOOF + 4 * (pool >> 3)] >> (pool & 7)
        if checks & 1 and not self.tables.addresses.get(frame[6:12], 0) >> pool & 1:
            return True
        vlan = self.vlan(frame)
        return bool(checks >> 8 & 1) and vlan is not None and not self.tables.vlans.get(vlan, 0) >> pool & 1

    # --- pools ------------------------------------------------------------------------------------------------

    def _pools(self, frame: bytes) -> int:
        """Who wants a frame, a bit a pool (7.10.3.3)."""
        chip, address = self.chip, frame[:6]
        if not chip.pooled:
            return 1
        if address[0] & 1 and not chip[reg.VT_CTL] & reg.VT_REPLICATE:
            return 0
        pools = self.tables.addresses.get(address, 0)
        if address == BROADCAST:
            pools |= self.tables.having[reg.BAM]
        elif address[0] & 1:
            pools |= self.tables.having[reg.MPE] | (
                self.tables.having[reg.ROMPE] if self._hashed(reg.MTA, address) else 0
            )
        elif self._hashed(reg.UTA, address):
            pools |= self.tables.having[reg.ROPE]
        vlan = self.vlan(frame)
        if vlan is None:
            return pools & self.tables.having[reg.AUPE]
        return pools & self.tables.vlans.get(vlan, 0) if chip[reg.VLNCTRL] & reg.VLNCTRL_VFE else pools

    def _default(self) -> int:
        """Who gets what nobody wants."""
        control = self.chip[reg.VT_CTL]
        return 0 if control & reg.VT_NO_DEFAULT else 1 << (control >> reg.VT_POOL_SHIFT & 0x3F)

    def _deliver(self, pools: int, frame: bytes, at: int, *, loopback: bool) -> None:
        chip = self.chip
        inexact = frame[:6] not in self.tables.addresses and frame[:6] != BROADCAST
        for pool in bits(pools):
            if not chip.pooled or chip.bit(reg.VFRE, pool):
                queue = pool * chip.per_pool if chip.pooled else 0
                chip.owner(queue).receiver.arrive(Arrival(at, queue, frame, loopback, inexact))

    def vlan(self, frame: bytes) -> int | None:
        """The number of a frame's VLAN."""
        return int.from_bytes(frame[14:16], "big") & 0xFFF if frame[12:14] == self.chip.vlan_type else None

"""The hypervisor as the owner of an 82599: it drives the physical function and makes virtual ones ready for guests.

A small driver after the data sheet (4.6, 7.10) and, for what the mailbox's messages mean, after Linux's ixgbe: RESET
tells a guest its address, everything else comes after it, what is not granted is refused. The physical function sends
and receives nothing of its own.

A guest that writes to its mailbox makes the physical function interrupt: one `external_interrupt` if the CPU that gets
it runs a guest, and that is the first guest's first CPU. Real hosts may keep a CPU free for it; here each has a guest.
At most one such interrupt comes in INTERVAL_US, whatever the guests write, and it answers one message of each.
"""

from __future__ import annotations

import msgspec

from hv.silicon.ixgbe import mailbox
from hv.silicon.ixgbe import registers as reg
from hv.silicon.ixgbe.card import MSIX_BAR, IxgbePhysical
from hv.silicon.pci import BAR0, COMMAND, COMMAND_MASTER, COMMAND_MEMORY, PciBus
from hv.silicon.pcie import MSIX, MSIX_ENABLE
from hv.silicon.sriov import CONTROL, NUM_VFS, VF_BAR0, VF_ENABLE, VF_MEMORY

MESSAGES = 0xFEE0_0000
INTERVAL_US = 100
POOLS_64 = 3  # GCR_EXT.VT_Mode: 64 pools of 2 queues
VMDQ_64 = 8  # MRQC.MRQE
MTQC_64_POOLS = 1 << 1 | 1 << 2  # VT_Ena, NUM_TC_OR_Q
HASH_TYPE = 0  # MCSTCTRL.MO, told to the guests
QUEUES = 2
LONGEST_FRAME = 9728  # that a guest may ask for, with header and FCS

# Messages: type in bits 15:0, an argument in bits 23:16; the answer repeats it.
RESET, SET_ADDRESS, SET_MULTICAST, SET_VLAN, SET_LONGEST, NEGOTIATE, GET_QUEUES = 1, 2, 3, 4, 5, 8, 9
CONTROL_MESSAGE = 0x100  # from the physical function
GRANTED, REFUSED, CLEAR_TO_SEND = 1 << 31, 1 << 30, 1 << 29
VERSION_1_0, VERSION_1_1 = 0, 2
HASHES_OF_A_MESSAGE = 30


class Guest(msgspec.Struct):
    """What the owner knows of a virtual function. `address`: empty as long as nobody has the function."""

    address: bytes = b""
    ready: bool = False  # it has been reset by its driver
    version: int = VERSION_1_0
    messages: int = 0
    refused: int = 0


class NicOwner:
    """`card` is on the bus `pci`; `window` is a free address there for its windows. `state` is all it remembers."""

    def __init__(self, card: IxgbePhysical, window: int, pci: PciBus) -> None:
        self.card, self.pci = card, pci
        self.state = [Guest() for _ in card.virtual_functions]
        size, vf = card.header.bars[0].size, card.virtual.bars
        self._configure(BAR0, window)
        self._configure(BAR0 + 4 * MSIX_BAR, window + size)
        at = window + 2 * size
        for number, bar in vf.items():
            self._configure(VF_BAR0 + 4 * number, at)
            at += bar.size * card.virtual.count
        self._configure(COMMAND, COMMAND_MEMORY | COMMAND_MASTER, 2)
        self._configure(NUM_VFS, card.virtual.count, 2)
        self._configure(CONTROL, VF_ENABLE | VF_MEMORY, 2)
        self._start()

    def _configure(self, offset: int, value: int, size: int = 4) -> None:
        self.pci.config_write(self.card, offset, size, value)

    def _get(self, offset: int) -> int:
        return self.card.read(0, offset, 4)

    def _set(self, offset: int, value: int) -> None:
        self.card.write(0, offset, 4, value)

    def _bit(self, offset: int, number: int, *, on: bool) -> None:
        """A bit of a register array."""
        at, bit = offset + 4 * (number >> 5), 1 << (number & 31)
        self._set(at, self._get(at) | bit if on else self._get(at) & ~bit)

    def _start(self) -> None:
        """Software initialization (4.6.3), with virtualization (4.6.10)."""
        self._set(reg.CTRL, reg.CTRL_RESET)
        self._set(reg.GCR_EXT, 1 << 31 | POOLS_64)
        self._set(reg.GPIE, reg.GPIE_MSIX | reg.GPIE_OTHER_CLEAR_DISABLE | reg.GPIE_AUTO_MASK | POOLS_64 << 14)
        self._set(reg.MRQC, VMDQ_64)
        self._set(reg.MTQC, MTQC_64_POOLS)
        self._set(reg.VT_CTL, reg.VT_ENABLE | reg.VT_REPLICATE | reg.VT_NO_DEFAULT)
        self._set(reg.PFDTXGSWC, reg.LOOPBACK_ENABLE)
        self._set(reg.HLREG0, self._get(reg.HLREG0) | reg.HLREG0_CRC_STRIP | reg.HLREG0_PAD)
        self._set(reg.FCTRL, reg.FCTRL_BAM)
        self._set(reg.MCSTCTRL, reg.MCSTCTRL_MFE | HASH_TYPE)
        self._set(reg.VLNCTRL, self._get(reg.VLNCTRL) | reg.VLNCTRL_VFE)
        for table, words in ((reg.MTA, 128), (reg.VFTA, 128), (reg.MPSAR, 256), (reg.VLVF, 64), (reg.UTA, 128)):
            for word in range(words):
                self._set(table + 4 * word, 0)
        for queue in range(QUEUES * len(self.state)):  # who has no descriptors holds nobody up
            self._set(reg.QDE, reg.QDE_ENABLE | reg.QDE_WRITE | queue << reg.QDE_QUEUE_SHIFT)
        self._set(reg.PFVFSPOOF, 0xFF | 0xFF << 8)  # of the first eight pools: addresses and VLANs are watched
        self._set(reg.DMATXCTL, self._get(reg.DMATXCTL) | reg.TRANSMIT_ENABLE)
        self._set(reg.RXCTRL, reg.RECEIVE_ENABLE)
        self._take_interrupts()
        self._set(reg.CTRL_EXT, self._get(reg.CTRL_EXT) | reg.PF_RESET_DONE)

    def _take_interrupts(self) -> None:
        """Vector 0 for the mailboxes."""
        for word, value in enumerate((MESSAGES, 0, 0, 0)):
            self.card.write(MSIX_BAR, 4 * word, 4, value)
        self._configure(MSIX + 2, MSIX_ENABLE << 8, 2)
        self._set(reg.IVAR_MISC, reg.IVAR_VALID << 8)
        self._set(reg.EITR, INTERVAL_US // 2 << 3)
        self._set(reg.EIMS, reg.MAILBOX)

    # --- guests -----------------------------------------------------------------------------------------------

    def give(self, vf: int, address: bytes) -> None:
        """Make a virtual function a whole network card, with an Ethernet address that the guest cannot change."""
        self.state[vf] = Guest(address)
        self._set_address(vf, address)

    def take_away(self, vf: int) -> None:
        """Stop a virtual function at once, whatever it is doing. Its driver is told that it may not send any more."""
        self._stop(vf)
        self._set_address(vf, b"")
        self.state[vf] = Guest()
        self._send(vf, [CONTROL_MESSAGE])

    def reset(self) -> None:
        """Reset the whole card, as after a fault. Drivers of virtual functions hear of it, and have to reset theirs."""
        self._start()
        for vf, guest in enumerate(self.state):
            guest.ready = False
            self._set_address(vf, guest.address)

    def _set_address(self, vf: int, address: bytes) -> None:
        """The receive address of a pool; entry 0 is the card's own."""
        entry = vf + 1
        self._set(reg.RAL + 8 * entry, int.from_bytes(address[:4], "little"))
        self._set(
            reg.RAL + 8 * entry + 4, int.from_bytes(address[4:], "little") | (reg.ADDRESS_VALID if address else 0)
        )
        self._set(reg.MPSAR + 8 * entry, 1 << vf if address else 0)

    def _stop(self, vf: int) -> None:
        """It neither sends nor receives, and is in no VLAN."""
        for array in (reg.VFRE, reg.VFTE):
            self._bit(array, vf, on=False)
        self._set(reg.VMOLR + 4 * vf, 0)
        for entry in range(reg.VLANS):
            if self._get(reg.VLVFB + 8 * entry) >> vf & 1:
                self._leave_vlan(vf, entry)

    # --- interrupts -------------------------------------------------------------------------------------------

    def service(self) -> None:
        """The physical function has interrupted: resets first, then a message of each guest."""
        self._get(reg.EICR)
        resets = self._get(reg.VFLRE)
        self._set(reg.VFLREC, resets)
        causes = self._get(reg.MBVFICR)
        self._set(reg.MBVFICR, causes)
        for vf, guest in enumerate(self.state):
            if resets >> vf & 1:
                guest.ready = False
                self._stop(vf)
            if causes >> vf & 1:
                self._answer(vf, guest)

    def _take_box(self, vf: int) -> bool:
        """The mailbox's lock. A guest that sits on it loses it."""
        at = reg.PFMAILBOX + 4 * vf
        self._set(at, mailbox.PF_OWNS)
        if not self._get(at) & mailbox.PF_OWNS:
            self._set(at, mailbox.RELEASE_VF)
            self._set(at, mailbox.PF_OWNS)
        return bool(self._get(at) & mailbox.PF_OWNS)

    def _send(self, vf: int, words: list[int]) -> None:
        if self._take_box(vf):
            for index, word in enumerate(words):
                self._set(reg.PFMBMEM + 64 * vf + 4 * index, word)
            self._set(reg.PFMAILBOX + 4 * vf, mailbox.STATUS)

    def _answer(self, vf: int, guest: Guest) -> None:
        """Read a message, do what it wants, and say whether it was done."""
        if not self._take_box(vf):
            return
        words = [self._get(reg.PFMBMEM + 64 * vf + 4 * index) for index in range(mailbox.WORDS)]
        self._set(reg.PFMAILBOX + 4 * vf, mailbox.ACK)
        if words[0] & (GRANTED | REFUSED) or not guest.address:
            return  # an answer is no question, and who has no card gets none
        guest.messages += 1
        kind = words[0] & 0xFFFF
        handler = {
            RESET: self._reset, SET_ADDRESS: self._same_address, SET_MULTICAST: self._multicast, SET_VLAN: self._vlan,
            SET_LONGEST: self._longest, NEGOTIATE: self._negotiate, GET_QUEUES: self._queues,
        }.get(kind)  # fmt: skip
        granted = handler is not None and (guest.ready or kind == RESET) and handler(vf, guest, words)
        guest.refused += not granted
        words[0] |= (GRANTED if granted else REFUSED) | (CLEAR_TO_SEND if guest.ready and kind != RESET else 0)
        self._send(vf, words)

    # --- messages: True when granted, and the answer is in `words` -------------------------------------------

    def _reset(self, vf: int, guest: Guest, words: list[int]) -> bool:
        """The driver starts: from here on it may send and receive. The answer is its address."""
        self._stop(vf)
        guest.ready, guest.version = True, VERSION_1_0
        self._set(reg.VMOLR + 4 * vf, reg.AUPE | reg.BAM | reg.ROMPE)
        for array in (reg.VFRE, reg.VFTE):
            self._bit(array, vf, on=True)
        words[1] = int.from_bytes(guest.address[:4], "little")
        words[2] = int.from_bytes(guest.address[4:], "little")
        words[3] = HASH_TYPE
        return True

    def _same_address(self, vf: int, guest: Guest, words: list[int]) -> bool:
        """An address is the hypervisor's to give."""
        return words[1].to_bytes(4, "little") + (words[2] & 0xFFFF).to_bytes(2, "little") == guest.address

    def _multicast(self, vf: int, guest: Guest, words: list[int]) -> bool:
        """Hashes of 12 bits, two a word. The table is one for all guests, so nothing is ever taken out of it."""
        for index in range(min(words[0] >> 16 & 0xFF, HASHES_OF_A_MESSAGE)):
            self._bit(reg.MTA, words[1 + index // 2] >> 16 * (index & 1) & 0xFFF, on=True)
        return True

    def _vlan(self, vf: int, guest: Guest, words: list[int]) -> bool:
        """Into a VLAN or out of it. Refused when the table is full."""
        vlan, join = words[1] & 0xFFF, bool(words[0] >> 16 & 0xFF)
        entries = {self._get(reg.VLVF + 4 * entry): entry for entry in reversed(range(reg.VLANS))}
        entry = entries.get(reg.VLAN_VALID | vlan)
        if join and entry is None:
            entry = entries.get(0)
        if entry is None:
            return not join
        if not join:
            self._leave_vlan(vf, entry)
            return True
        self._set(reg.VLVF + 4 * entry, reg.VLAN_VALID | vlan)
        self._set(reg.VLVFB + 8 * entry, self._get(reg.VLVFB + 8 * entry) | 1 << vf)
        self._bit(reg.VFTA, vlan, on=True)
        return True

    def _leave_vlan(self, vf: int, entry: int) -> None:
        """The last one out makes the entry free."""
        left = self._get(reg.VLVFB + 8 * entry) & ~(1 << vf)
        self._set(reg.VLVFB + 8 * entry, left)
        if not left:
            self._bit(reg.VFTA, self._get(reg.VLVF + 4 * entry) & 0xFFF, on=False)
            self._set(reg.VLVF + 4 * entry, 0)

    def _longest(self, vf: int, guest: Guest, words: list[int]) -> bool:
        """The card has one length for all, which only grows."""
        if words[1] > LONGEST_FRAME:
            return False
        if words[1] > self._get(reg.MAXFRS) >> 16:
            self._set(reg.MAXFRS, words[1] << 16)
            self._set(reg.HLREG0, self._get(reg.HLREG0) | reg.HLREG0_JUMBO)
        return True

    def _negotiate(self, vf: int, guest: Guest, words: list[int]) -> bool:
        if words[1] not in (VERSION_1_0, VERSION_1_1):
            return False
        guest.version = words[1]
        return True

    def _queues(self, vf: int, guest: Guest, words: list[int]) -> bool:
        """Queues for sending, for receiving; no VLAN of the hypervisor's; the first queue. Since version 1.1."""
        words[1:5] = [QUEUES, 1, 0, 0]
        return guest.version == VERSION_1_1

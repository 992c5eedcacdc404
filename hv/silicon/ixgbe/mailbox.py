"""The mailboxes between the physical function and each virtual one (7.10.2.9, 8.2.3.26.1 to 8.2.3.26.5, 8.3.5.1.6).

64 bytes that both can write, a lock that one of them holds, and two doorbells in each direction: there is a message,
and it was read. What the messages mean is the drivers' affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hv.silicon.ixgbe import registers as reg

if TYPE_CHECKING:
    from hv.silicon.ixgbe.card import IxgbePhysical

WORDS = 16
# VFMAILBOX; the two that ring are write-only, the four that tell of the other side are cleared by a read.
REQUEST, ACK, VF_OWNS, PF_OWNS = 1 << 0, 1 << 1, 1 << 2, 1 << 3
PF_STATUS, PF_ACK, RESET_NOW, RESET_DONE = 1 << 4, 1 << 5, 1 << 6, 1 << 7
# PFMAILBOX.
STATUS, RELEASE_VF = 1 << 0, 1 << 4


class Mailbox(msgspec.Struct):
    """`told`: bits of VFMAILBOX that the virtual function has not read yet. `asked`, `answered`: MBVFICR's."""

    words: list[int] = msgspec.field(default_factory=lambda: [0] * WORDS)
    owner: int = 0  # VF_OWNS, PF_OWNS or nobody
    told: int = 0
    asked: bool = False
    answered: bool = False


class Mailboxes:
    """All of them. The physical function is told by its interrupt cause, a virtual one by its miscellaneous vector."""

    def __init__(self, physical: IxgbePhysical) -> None:
        self.physical, self.chip = physical, physical.chip

    def __getitem__(self, vf: int) -> Mailbox:
        return self.chip.state.mailboxes.setdefault(vf, Mailbox())

    # --- the virtual function's side --------------------------------------------------------------------------

    def read_vf(self, vf: int) -> int:
        """VFMAILBOX."""
        box = self[vf]
        value = box.owner | box.told
        box.told = 0
        return value | (0 if self.chip[reg.CTRL_EXT] & reg.PF_RESET_DONE else RESET_NOW)

    def write_vf(self, vf: int, value: int) -> None:
        box = self[vf]
        self._lock(box, value, VF_OWNS)
        if value & REQUEST:
            box.asked = True
        if value & ACK:
            box.answered = True
        if value & (REQUEST | ACK) and self.chip.bit(reg.MBVFIMR, 32 * (vf >> 4) + (vf & 15)):
            self.physical.interrupts.raise_other(reg.MAILBOX)

    def _lock(self, box: Mailbox, value: int, who: int) -> None:
        """The lock is given to who asks first, and given back by whom it belongs to."""
        if value & who:
            box.owner = box.owner or who
        elif box.owner == who:
            box.owner = 0

    # --- the physical function's side -------------------------------------------------------------------------

    def read_pf(self, vf: int) -> int:
        """PFMAILBOX."""
        return self[vf].owner

    def write_pf(self, vf: int, value: int) -> None:
        box = self[vf]
        if value & RELEASE_VF and box.owner == VF_OWNS:
            box.owner = 0
        self._lock(box, value, PF_OWNS)
        told = (PF_STATUS if value & STATUS else 0) | (PF_ACK if value & ACK else 0)
        box.told |= told
        if told:
            self._tell(vf)

    def reset_done(self) -> None:
        """CTRL_EXT.PFRSTD: the physical function's driver is up, and every virtual one learns it."""
        for vf in range(len(self.physical.virtual_functions)):
            self[vf].told |= RESET_DONE
            self._tell(vf)

    def reset_begins(self) -> None:
        """The physical function is reset, which virtual ones are told of by an interrupt."""
        for vf in range(len(self.physical.virtual_functions)):
            self[vf].told &= ~RESET_DONE
            self._tell(vf)

    def _tell(self, vf: int) -> None:
        if vf < len(self.physical.virtual_functions) and self.physical.virtual_functions[vf].present:
            self.physical.virtual_functions[vf].interrupts.raise_misc()

    def read_causes(self, group: int) -> int:
        """MBVFICR: who of 16 has asked (lower half) and answered (upper half)."""
        value = 0
        for vf, box in self.chip.state.mailboxes.items():
            if vf >> 4 == group:
                value |= box.asked << (vf & 15) | box.answered << 16 + (vf & 15)
        return value

    def clear_causes(self, group: int, value: int) -> None:
        """MBVFICR: writing ones clears them."""
        for vf, box in self.chip.state.mailboxes.items():
            if vf >> 4 == group:
                box.asked = box.asked and not value >> (vf & 15) & 1
                box.answered = box.answered and not value >> 16 + (vf & 15) & 1

    def forget(self, vf: int) -> None:
        """A virtual function was reset: the lock is free, its doorbells are silent; what was written stays."""
        box = self[vf]
        done = self.chip[reg.CTRL_EXT] & reg.PF_RESET_DONE
        box.owner, box.told, box.asked, box.answered = 0, RESET_DONE if done else 0, False, False

"""The bus between the local APICs: whom an interrupt message reaches, and when (APM vol. 2, 16.5 and 16.6).

A message is an interrupt command (ICR): vector in bits 7:0, delivery mode 10:8, logical destination 11, level 14 and
15, shorthand 19:18, destination 63:56. An I/O APIC's redirection entry has the same fields in the same places. To
oneself it comes at once. Others get it when their own clock has reached the time at which it was sent.
Simplified: delivery is always idle; SMI and ExtINT reach nobody; of the combinations that the manual calls invalid,
only those of a shorthand with the wrong delivery mode are refused, and silently.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hv.silicon.x86_64.lapic import (
    ILLEGAL_VECTOR_SENT,
    INIT,
    LOWEST_PRIORITY,
    NOT_ACCEPTED,
    VECTORED,
    Lapic,
)

NEVER = (1 << 63) - 1
LOGICAL, ASSERT, LEVEL = 1 << 11, 1 << 14, 1 << 15
TO_DESTINATION, TO_SELF, TO_OTHERS = 0, 1, 3  # 2: all


class Mail(msgspec.Struct):
    """A message on its way to CPU `target`. `when` is the sender's time in millicycles."""

    when: int
    target: int
    mode: int
    vector: int
    level: bool


class ApicBusState(msgspec.Struct):
    """Everything that is under way, in the order in which it was sent."""

    mail: list[Mail] = []


class ApicBus:
    """`lapics` by CPU. Whoever lets a CPU run calls `receive` for it before."""

    def __init__(self, lapics: Sequence[Lapic]) -> None:
        self.lapics = lapics
        self.state = ApicBusState()

    def send(self, command: int, now: int, sender: int | None = None, here: int | None = None) -> list[int]:
        """Send a message at time `now`; an I/O APIC has no `sender`. It is with CPU `here` at once.

        Returns the CPUs that it is under way to.
        """
        mode, vector, level = command >> 8 & 7, command & 0xFF, bool(command & LEVEL)
        targets = self._targets(command, sender)
        if sender is not None and mode == INIT and level and not command & ASSERT:
            return []  # "level de-assert": it only synchronizes arbitration, which nobody needs
        if sender is not None and mode in VECTORED and vector < 16:
            self.lapics[sender].error(ILLEGAL_VECTOR_SENT)
            return []
        if not targets and sender is not None:
            self.lapics[sender].error(NOT_ACCEPTED)
        if sender is not None:
            here, level = sender, False  # interrupts between processors are edges
        away = []
        for target in targets:
            if target == here:
                self.lapics[target].accept(mode, vector, level)
            else:
                self.state.mail.append(Mail(now, target, mode, vector, level))
                away.append(target)
        return away

    def _targets(self, command: int, sender: int | None) -> list[int]:
        shorthand, mode = command >> 18 & 3, command >> 8 & 7
        everybody = list(range(len(self.lapics)))
        if sender is not None and shorthand != TO_DESTINATION:
            if shorthand == TO_OTHERS:
                targets = [index for index in everybody if index != sender]
            elif mode != 0:
                return []  # to oneself there are only fixed interrupts
            else:
                targets = [sender] if shorthand == TO_SELF else everybody
        else:
            destination, logical = command >> 56, bool(command & LOGICAL)
            targets = [index for index in everybody if self.lapics[index].matches(destination, logical=logical)]
        if mode == LOWEST_PRIORITY:
            enabled = [index for index in targets if self.lapics[index].enabled]
            return [min(enabled, key=lambda index: self.lapics[index].ppr() >> 4)] if enabled else []
        return targets

    def next(self, target: int) -> int:
        """When the next message for a CPU was sent; NEVER."""
        return min((mail.when for mail in self.state.mail if mail.target == target), default=NEVER)

    def receive(self, target: int, now: int) -> None:
        """A CPU's clock has come to `now`: give its local APIC what has been sent until then."""
        if not self.state.mail:
            return
        waiting = []
        for mail in self.state.mail:
            if mail.target == target and mail.when <= now:
                self.lapics[target].accept(mail.mode, mail.vector, mail.level)
            else:
                waiting.append(mail)
        self.state.mail = waiting

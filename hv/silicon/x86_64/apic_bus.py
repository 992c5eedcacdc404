"""The bus between the APICs: whom an interrupt message reaches, and when (APM vol. 2, 16.5 and 16.6).

To the CPU on whose behalf it is sent it comes at once. Others get it when their own clock has reached the time at which
it was sent; one that is posted lies in memory at once, and its notification has that delay. Simplified: delivery is
always idle; SMI and ExtINT messages reach nobody; of the combinations that the manual calls invalid, only those of a
shorthand with the wrong delivery mode are refused, and silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from hv.silicon.x86_64.lapic import (
    FIXED,
    ILLEGAL_VECTOR_SENT,
    INIT,
    LOWEST,
    NOT_ACCEPTED,
    VECTORED,
    Lapic,
    Message,
)

NEVER = (1 << 63) - 1
# The interrupt command register: vector in bits 7:0, delivery mode 10:8, shorthand 19:18, destination 63:56.
LOGICAL, ASSERT, LEVEL = 1 << 11, 1 << 14, 1 << 15
TO_DESTINATION, TO_SELF, TO_ALL = range(3)  # shorthands; 3 is to all but oneself


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

    def command(self, icr: int, now: int, sender: int) -> list[int]:
        """A CPU writes its interrupt command register. Returns the CPUs that a message is under way to."""
        mode, vector, shorthand = icr >> 8 & 7, icr & 0xFF, icr >> 18 & 3
        if mode == INIT and icr & LEVEL and not icr & ASSERT:
            return []  # "level de-assert": it only synchronizes arbitration, which nobody needs
        if mode in VECTORED and vector < 16:
            self.lapics[sender].error(ILLEGAL_VECTOR_SENT)
            return []
        message = Message(vector, mode, icr >> 56, bool(icr & LOGICAL), level=False)
        if shorthand == TO_DESTINATION:
            targets = self._addressed(message)
        elif shorthand in (TO_SELF, TO_ALL):
            if mode != FIXED:
                return []
            targets = [sender] if shorthand == TO_SELF else list(range(len(self.lapics)))
        else:
            targets = self._chosen(message, (index for index in range(len(self.lapics)) if index != sender))
        if not targets:
            self.lapics[sender].error(NOT_ACCEPTED)
        return self._carry(message, targets, now, sender)

    def send(self, message: Message, now: int, here: int) -> list[int]:
        """A message of the I/O APIC, on behalf of CPU `here`. Returns the CPUs that it is under way to."""
        return self._carry(message, self._addressed(message), now, here)

    def post(self, target: int, vector: int, now: int, here: int) -> list[int]:
        """An interrupt for the CPU of this number, whatever its local APIC calls itself. Returns as send()."""
        return self._carry(Message(vector, FIXED, 0, logical=False, level=False), [target], now, here)

    def _addressed(self, message: Message) -> list[int]:
        return self._chosen(
            message,
            (i for i, lapic in enumerate(self.lapics) if lapic.addressed(message.destination, message.logical)),
        )

    def _chosen(self, message: Message, targets: Iterable[int]) -> list[int]:
        """All of them, or of those that are enabled the one with the lowest priority."""
        if message.mode != LOWEST:
            return list(targets)
        enabled = [index for index in targets if self.lapics[index].enabled]
        return [min(enabled, key=lambda index: self.lapics[index].ppr())] if enabled else []

    def _carry(self, message: Message, targets: list[int], now: int, here: int) -> list[int]:
        away = []
        for target in targets:
            if target == here or (self.lapics[target].posted and message.mode in VECTORED):
                self.lapics[target].receive(message.mode, message.vector, message.level)
            else:
                away.append(target)
        self.state.mail += [Mail(now, target, message.mode, message.vector, message.level) for target in away]
        return away

    def next(self, target: int) -> int:
        """When the next message for a CPU was sent; NEVER."""
        if not self.state.mail:
            return NEVER
        return min((mail.when for mail in self.state.mail if mail.target == target), default=NEVER)

    def receive(self, target: int, now: int) -> None:
        """A CPU's clock has come to `now`: give its local APIC what has been sent until then."""
        if not self.state.mail:
            return
        waiting = []
        for mail in self.state.mail:
            if mail.target == target and mail.when <= now:
                self.lapics[target].receive(mail.mode, mail.vector, mail.level)
            else:
                waiting.append(mail)
        self.state.mail = waiting

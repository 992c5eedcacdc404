"""The devices of a board or a root complex that act by themselves: whose turn is next, and when."""

from __future__ import annotations

import abc
from collections.abc import Callable
from functools import partial

from hv.silicon.device import Device

NEVER = (1 << 63) - 1


class Deadlines(abc.ABC):
    """`deadline` is when the first device has to act by itself, in millicycles; NEVER: none has."""

    def __init__(self) -> None:
        self.devices: list[Device] = []
        self._due: list[int] = []  # their deadlines
        self.deadline = NEVER

    def add(self, device: Device) -> Callable[[], None]:
        """Let a device act when its deadline comes, and be part of snapshots.

        Returns what it has to call whenever its deadline has changed.
        """
        self.devices.append(device)
        self._due.append(NEVER)
        return partial(self.reschedule, len(self.devices) - 1)

    @abc.abstractmethod
    def reschedule(self, number: int) -> None:
        """The deadline of device `number` has changed."""

    def note_deadline(self, number: int) -> None:
        """Ask a device for its deadline."""
        deadline = self.devices[number].deadline
        self._due[number] = NEVER if deadline is None else deadline
        self.deadline = min(self._due)

    def advance(self, now: int) -> None:
        """Let the devices that are due act, in the order of their deadlines; of several at once, the first is first."""
        if now < self.deadline:
            return
        due = [number for number, deadline in enumerate(self._due) if deadline <= now]
        if len(due) > 1:
            due.sort(key=self._due.__getitem__)
        for number in due:
            self.devices[number].advance(now)
            self.reschedule(number)

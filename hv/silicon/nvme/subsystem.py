"""What the controllers of one card share: the medium's time, namespaces, and who may use how much of the card.

The card has a primary controller (its PF's) and secondary ones (its VFs'). A namespace is visible to the controllers
that it is attached to. A secondary controller has no queues and no interrupt vectors until the primary one gives it
some of the card's flexible ones, and does not work until it is set online (NVM Express 1.4, 8.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from hv.silicon.medium import Medium
from hv.silicon.nvme.spec import CommandError, Status
from hv.silicon.timing import DiskTimes

if TYPE_CHECKING:
    from hv.silicon.nvme.controller import Controller

PRIMARY = 0  # controller identifier; a VF's is its number, from 1
QUEUES, VECTORS = 0, 1  # kinds of flexible resources
PRIVATE_QUEUES, PRIVATE_VECTORS = 17, 17  # the primary controller's own: an admin queue and 16 more
MOST_FLEXIBLE = 9  # that one secondary controller can have, of either kind
NAMESPACE_CHANGED_LIMIT = 1024


class Secondary(msgspec.Struct):
    """A secondary controller: does it work, and what has it been given (queues, vectors)?"""

    online: bool = False
    resources: list[int] = msgspec.field(default_factory=lambda: [0, 0])


class SubsystemState(msgspec.Struct):
    attached: dict[int, list[int]] = {}  # controller -> namespaces
    secondaries: dict[int, Secondary] = {}
    link_free: int = 0  # when the medium has moved everything that was asked of it so far (millicycles)


class Subsystem:
    """`namespaces` by identifier, from 1. Controllers join as they are built, the primary one first.

    `serial` tells the card from all others of its vendor: hosts take two of the same name for one (7.9).
    `fetch_time` is what passes from a doorbell until the card has read a command from memory (millicycles).
    """

    def __init__(
        self, model: str, vendor: int, serial: str, namespaces: Mapping[int, Medium], times: DiskTimes, fetch_time: int
    ) -> None:  # fmt: skip
        self.model, self.vendor, self.serial, self.namespaces, self.times = model, vendor, serial, namespaces, times
        self.fetch_time = fetch_time
        self.controllers: list[Controller] = []

    @property
    def name(self) -> str:
        """The NVMe Qualified Name (7.9)."""
        return f"nqn.2017-11.org.example.hv:{self.vendor:04x}:{self.serial}"

    @property
    def state(self) -> SubsystemState:
        """It is kept where the primary controller's is."""
        state = self.controllers[PRIMARY].function.state.subsystem
        assert isinstance(state, SubsystemState)
        return state

    def attached(self, controller: int) -> Sequence[int]:
        """The namespaces that a controller sees, in order."""
        return sorted(self.state.attached.get(controller, ()))

    def attach(self, namespace: int, controller: int) -> None:
        """Let a controller see a namespace. Raises CommandError."""
        self._check(controller)
        if namespace in self.attached(controller):
            raise CommandError(Status.ALREADY_ATTACHED)
        self.state.attached.setdefault(controller, []).append(namespace)
        self.controllers[controller].namespaces_changed(namespace)

    def detach(self, namespace: int, controller: int) -> None:
        self._check(controller)
        if namespace not in self.attached(controller):
            raise CommandError(Status.NOT_ATTACHED)
        self.state.attached[controller].remove(namespace)
        self.controllers[controller].namespaces_changed(namespace)

    def _check(self, controller: int) -> None:
        if controller >= len(self.controllers):
            raise CommandError(Status.CONTROLLER_LIST_INVALID)

    def finish_time(self, now: int, latency: int, sectors: int) -> int:
        """When a command that starts now is done. Latencies pass side by side, data one after the other."""
        state = self.state
        state.link_free = max(now + latency, state.link_free) + sectors * self.times.sector
        return state.link_free

    # --- secondary controllers --------------------------------------------------------------------------------

    def online(self, controller: int) -> bool:
        return controller == PRIMARY or self.state.secondaries[controller].online

    def resources(self, controller: int, kind: int) -> int:
        """So many queue pairs (the admin queues count) or vectors a controller has."""
        if controller == PRIMARY:
            return (PRIVATE_QUEUES, PRIVATE_VECTORS)[kind]
        return self.state.secondaries[controller].resources[kind]

    def flexible(self) -> int:
        """So many of either kind the card can give away."""
        return MOST_FLEXIBLE * len(self.state.secondaries)

    def given(self, kind: int) -> int:
        return sum(secondary.resources[kind] for secondary in self.state.secondaries.values())

    def assign(self, controller: int, kind: int, count: int) -> None:
        """Give a secondary controller that is offline so many queue pairs or vectors, in place of those it has."""
        secondary = self._secondary(controller)
        if secondary.online:
            raise CommandError(Status.INVALID_SECONDARY_STATE)
        _check_kind(kind)
        if count > MOST_FLEXIBLE:
            raise CommandError(Status.INVALID_RESOURCE_COUNT)
        secondary.resources[kind] = count

    def keep_for_primary(self, controller: int, kind: int, count: int) -> int:
        """Keep so many flexible resources for the primary controller: none, the rest is for the secondary ones."""
        if controller != PRIMARY:
            raise CommandError(Status.INVALID_CONTROLLER)
        _check_kind(kind)
        if count:
            raise CommandError(Status.INVALID_RESOURCE_COUNT)
        return count

    def set_online(self, controller: int, online: bool) -> None:
        secondary = self._secondary(controller)
        if online and (secondary.resources[QUEUES] < 2 or secondary.resources[VECTORS] < 1):
            raise CommandError(Status.INVALID_SECONDARY_STATE)
        if secondary.online != online:
            secondary.online = online
            self.controllers[controller].reset()

    def all_offline(self) -> None:
        """The primary controller was reset."""
        for id, secondary in self.state.secondaries.items():
            if secondary.online:
                secondary.online = False
                self.controllers[id].reset()

    def _secondary(self, controller: int) -> Secondary:
        try:
            return self.state.secondaries[controller]
        except KeyError:
            raise CommandError(Status.INVALID_CONTROLLER) from None


def _check_kind(kind: int) -> None:
    if kind not in (QUEUES, VECTORS):
        raise CommandError(Status.INVALID_RESOURCE)

"""Domain 0's xenbus: a pair of directories in the store for each split device, and the states that connect them.

    /local/domain/1/device/KIND/N             the front end's: backend, backend-id, state, then what the driver writes
    /local/domain/0/backend/KIND/1/N          the back end's: frontend, frontend-id, online, state, what it offers

Each side writes its `state` (Xen, public/io/xenbus.h) and watches the other's. A back end waits (InitWait) with what it
offers, connects when the front end is Initialised or Connected, and goes through Closing to Closed with it; until it is
Closed it works, for a system that goes down may still want its disk. A front end that begins anew (Initialising),
whatever was before, is a driver that starts again.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from modes.paravirt.abi import BACKEND_DOMID, EINVAL, GUEST_DOMID, Refused
from modes.paravirt.events import Events
from modes.paravirt.grants import GrantRefused, Grants
from modes.paravirt.store.client import Client

FIRST_PORT = 16  # domain 0's end of the first device's event channel


class State(enum.IntEnum):
    """XenbusState, as far as it is used here."""

    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6


# by what stands in the store; no node at all is a front end that is gone
STATES: dict[str | None, State] = {str(state.value): state for state in State} | {None: State.CLOSED}


class FrontEnd:
    """What a back end has of the other side: what its driver wrote into the store, its grants, its event channel."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.grants: Grants = device.bus.grants

    def text(self, name: str) -> str | None:
        """A node of the front end's directory, such as "ring-ref"; None if there is none."""
        return self._device.bus.read(f"{self._device.front}/{name}")

    def number(self, name: str, default: int | None = None) -> int:
        """The same as a decimal number below 2**32. Raises Refused(EINVAL) if it is none, and there is no default."""
        text = self.text(name)
        if text is None and default is not None:
            return default
        if text is None or not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) >> 32:
            raise Refused(EINVAL)
        return int(text)

    def notify(self) -> None:
        """An event for the front end. Nothing happens if its channel is closed."""
        self._device.notify()


class Backend(Protocol):
    """What a kind of device does. Everything it remembers is in state(), for snapshots."""

    kind: str  # of the directories: "vif", "vbd"
    number: int  # and the last part of their names: 0 for the first vif, 51712 for xvda
    front_nodes: Mapping[str, str]  # of the front end's directory, such as {"mac": ...}

    def offer(self) -> Mapping[str, str]:
        """What stands in the back end's directory while it waits: its features."""

    def connect(self, front: FrontEnd) -> Mapping[str, str]:
        """Map the rings. Returns what else stands in the directory from now on (sizes). Raises Refused, GrantRefused.

        The event channel is bound already; if the front end has none yet, connect is not called.
        """

    def disconnect(self) -> None:
        """The front end is gone: unmap everything, forget requests in flight. Called once for each connect."""

    def kicked(self) -> None:
        """The front end has sent its event. Only while connected."""

    def state(self) -> Any: ...

    def set_state(self, state: Any, front: FrontEnd | None) -> None:
        """Go back to what state() gave. `front` is there if it was connected then."""


class DeviceState(msgspec.Struct):
    state: int  # XenbusState
    connected: bool
    port: int  # the guest's end of the event channel, while connected
    refused: int
    backend: Any


class Device:
    """A back end in its place on the bus."""

    def __init__(self, bus: Bus, backend: Backend, port: int) -> None:
        self.bus, self.backend, self.own_port = bus, backend, port
        self.front = f"{bus.home}/device/{backend.kind}/{backend.number}"
        self.back = f"/local/domain/{BACKEND_DOMID}/backend/{backend.kind}/{GUEST_DOMID}/{backend.number}"
        self.state = State.INITIALISING
        self.connected = False
        self.port = 0
        self.refused = 0  # attempts of the front end to connect

    # --- the directories --------------------------------------------------------------------------------------

    def create(self) -> None:
        """Both directories, as a toolstack makes them, and the watch of the front end's state."""
        store, backend = self.bus.store, self.backend
        mine = (BACKEND_DOMID, "n"), (GUEST_DOMID, "r")
        theirs = (GUEST_DOMID, "n"), (BACKEND_DOMID, "r")
        number, kind = str(backend.number), f"{self.bus.home}/device/{backend.kind}"
        if not store.exists(kind):
            store.make(kind, mine)
        store.make(self.front, theirs)
        front = {"backend": self.back, "backend-id": str(BACKEND_DOMID), "state": str(State.INITIALISING.value),
                 "handle": number, **backend.front_nodes}  # fmt: skip
        for name, value in front.items():
            store.write(f"{self.front}/{name}", value)
            store.set_permissions(f"{self.front}/{name}", mine if name.startswith("backend") else theirs)
        store.make(self.back, mine)
        back = {"frontend": self.front, "frontend-id": str(GUEST_DOMID), "online": "1", "handle": number}
        for name, value in back.items():
            store.write(f"{self.back}/{name}", value)
        self._wait()
        store.watch(f"{self.front}/state", self.front_changed)

    def _set(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self.bus.store.write(f"{self.back}/{name}", value)

    def _switch(self, state: State) -> None:
        if state != self.state or state == State.INIT_WAIT:
            self.state = state
            self._set({"state": str(state.value)})

    def _wait(self) -> None:
        self._set(self.backend.offer())
        self._switch(State.INIT_WAIT)

    # --- the states -------------------------------------------------------------------------------------------

    def front_changed(self) -> None:
        """The front end has written its state, or its directory is gone."""
        theirs = STATES.get(self.bus.read(f"{self.front}/state"))
        if theirs == State.CLOSING:
            self._switch(State.CLOSING)
        elif theirs == State.CLOSED:
            self._leave()
        elif theirs == State.INITIALISING and self.state != State.INIT_WAIT:
            self._leave()
            self._wait()
        elif theirs in (State.INITIALISED, State.CONNECTED) and self.state == State.INIT_WAIT:
            self._connect()

    def _connect(self) -> None:
        front = FrontEnd(self)
        try:
            port = front.number("event-channel")
            self.bus.events.connect_backend(port, self.own_port)
            self.port = port
            try:
                values = self.backend.connect(front)
            except (Refused, GrantRefused):
                self._unbind()
                raise
        except (Refused, GrantRefused) as refused:
            self.refused += 1
            self.bus.store.write(self.back.replace("/backend/", "/error/backend/") + "/error", _complaint(refused))
            self._switch(State.CLOSING)
            return
        self.connected = True
        self._set(values)
        self._switch(State.CONNECTED)

    def _unbind(self) -> None:
        self.bus.events.disconnect_backend(self.port, self.own_port)
        self.port = 0

    def leave(self) -> None:
        """Disconnect, if it is connected."""
        if self.connected:
            self.connected = False
            self.backend.disconnect()
            self._unbind()

    def _leave(self) -> None:
        self.leave()
        self._switch(State.CLOSED)

    # --- events, snapshots ------------------------------------------------------------------------------------

    def kicked(self) -> None:
        if self.connected:
            self.backend.kicked()

    def notify(self) -> None:
        self.bus.events.notify(self.port, self.own_port)

    def save(self) -> DeviceState:
        return DeviceState(self.state, self.connected, self.port, self.refused, self.backend.state())

    def load(self, saved: DeviceState) -> None:
        self.state, self.connected, self.port = State(saved.state), saved.connected, saved.port
        self.refused = saved.refused
        self.backend.set_state(saved.backend, FrontEnd(self) if saved.connected else None)


def _complaint(refused: Refused | GrantRefused) -> str:
    """What an administrator finds under `error`: a number of errno.h, and words (Linux, xenbus_dev_error)."""
    if isinstance(refused, GrantRefused):
        return f"{EINVAL} mapping a ring: {refused.status.name}"
    return f"{refused.errno} reading the front end's nodes"


class Bus:
    """All back ends. `home` is the guest's directory in the store."""

    def __init__(self, store: Client, events: Events, grants: Grants, home: str) -> None:
        self.store, self.events, self.grants, self.home = store, events, grants, home
        self.devices: list[Device] = []

    def add(self, backend: Backend) -> Device:
        """Offer a device to the guest. Comes before the guest starts."""
        device = Device(self, backend, FIRST_PORT + len(self.devices))
        self.devices.append(device)
        self.events.backends[device.own_port] = device.kicked
        device.create()
        return device

    def read(self, path: str) -> str | None:
        return self.store.read(path)

    def disconnect(self) -> None:
        """The guest is gone, with whatever it had in flight."""
        for device in self.devices:
            device.leave()

    def state(self) -> list[DeviceState]:
        return [device.save() for device in self.devices]

    def set_state(self, state: list[DeviceState]) -> None:
        for device, saved in zip(self.devices, state, strict=True):
            device.load(saved)

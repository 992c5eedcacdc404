"""What a domain finds beside it: the store with its own part of it, the channel there, and the bus of split devices.

The same for a PV domain and for one with nested paging: they differ in what a frame number means (foreign.py) and in
how they are told where the store's page is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from hv.silicon.memory import Memory
from modes.paravirt.abi import BACKEND_DOMID, GUEST_DOMID
from modes.paravirt.bus import Bus, DeviceState
from modes.paravirt.events import Events
from modes.paravirt.grants import Grants
from modes.paravirt.store.client import Client
from modes.paravirt.store.ring import RingState, StoreRing
from modes.paravirt.store.store import Store, StoreState

STORE_PORT = 1  # domain 0's end of the store's channel
HOME = f"/local/domain/{GUEST_DOMID}"
UUID = "00000000-0000-0000-0000-000000000001"
WRITABLE = ("data", "drivers", "error", "control/shutdown")  # by the guest, as a toolstack allows it


class DomainZeroState(msgspec.Struct):
    store: StoreState
    ring: RingState
    devices: list[DeviceState]


class DomainZero:
    """`store_page()` is the host-physical address of the store's ring, `store_port()` the guest's end of it."""

    def __init__(
        self, memory: Memory, events: Events, grants: Grants, store_page: Callable[[], int],
        store_port: Callable[[], int],
    ) -> None:  # fmt: skip
        self.grants = grants
        self.server = Store((BACKEND_DOMID, GUEST_DOMID))
        self.store = Client(self.server)
        self.ring = StoreRing(
            self.server, GUEST_DOMID, memory, store_page, lambda: events.notify(store_port(), STORE_PORT)
        )
        events.backends[STORE_PORT] = self.ring.notified
        self.bus = Bus(self.store, events, grants, HOME)

    def introduce(self, nodes: Mapping[str, str]) -> None:
        """The guest's own directory, with these nodes in it, and the channel, which is ready."""
        store, everything = self.store, {"name": "hv", "domid": str(GUEST_DOMID), "vm": f"/vm/{UUID}", **nodes}
        store.write(f"/vm/{UUID}/name", "hv")
        store.set_permissions(f"/vm/{UUID}", ((BACKEND_DOMID, "n"), (GUEST_DOMID, "r")))
        store.make(HOME, ((BACKEND_DOMID, "n"), (GUEST_DOMID, "r")))
        for name, value in everything.items():
            store.write(f"{HOME}/{name}", value)
        for name in ("device", "control"):
            store.write(f"{HOME}/{name}", "")
        for name in WRITABLE:
            store.make(f"{HOME}/{name}", ((GUEST_DOMID, "n"),))
        self.ring.reset()

    def destroy(self) -> None:
        """The guest has died: back ends let go of what they have of it."""
        self.bus.disconnect()
        self.grants.drop_all()
        self.ring.connection.forget()

    def state(self) -> DomainZeroState:
        return DomainZeroState(self.server.state(), self.ring.s, self.bus.state())

    def set_state(self, state: DomainZeroState) -> None:
        self.server.set_state(state.store)
        self.ring.s = state.ring
        self.bus.set_state(state.devices)

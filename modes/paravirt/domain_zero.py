"""What a domain finds beside it: the store with its own part of it, the channel there, and the bus of split devices.

The same for a PV domain and for one with nested paging: they differ in what a frame number means (foreign.py) and in
how they are told where their rings are.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from modes.paravirt.abi import BACKEND_DOMID, GUEST_DOMID
from modes.paravirt.bus import Bus, DeviceState
from modes.paravirt.common import XenDomain
from modes.paravirt.foreign import PAGE
from modes.paravirt.store.client import Client
from modes.paravirt.store.ring import RingState, StoreRing
from modes.paravirt.store.store import Store, StoreState

STORE_PORT = 1  # domain 0's end of the store's channel
HOME = f"/local/domain/{GUEST_DOMID}"
NAME, UUID = "hv", "00000000-0000-0000-0000-000000000001"
# By the guest, as libxl allows it: what it tells of itself, and its answers to what it is asked to do.
WRITABLE = (
    "control/shutdown", "control/feature-poweroff", "control/feature-reboot", "control/feature-suspend",
    "control/sysrq", "data", "drivers", "feature", "attr", "error",
)  # fmt: skip


class DomainZeroState(msgspec.Struct):
    store: StoreState
    ring: RingState
    devices: list[DeviceState]


class DomainZero:
    """Built beside `domain`, whose `store` is the host-physical frame of the store's ring."""

    def __init__(self, domain: XenDomain) -> None:
        self.domain, events = domain, domain.events
        self.server = Store((BACKEND_DOMID, GUEST_DOMID))
        self.store = Client(self.server)
        self.ring = StoreRing(
            self.server, GUEST_DOMID, domain.memory, lambda: domain.store * PAGE,
            lambda: events.notify(domain.store_port, STORE_PORT),
        )  # fmt: skip
        events.backends[STORE_PORT] = self.ring.notified
        self.bus = Bus(self.store, events, domain.grants, HOME)

    def introduce(self, kib: int, rings: Mapping[str, int]) -> None:
        """The guest's own directory, as a toolstack writes it, and the channel, which is ready. `rings`: nodes with
        the frame numbers that the guest knows its rings by."""
        store, d = self.store, self.domain
        store.write(f"/vm/{UUID}/uuid", UUID)
        store.write(f"/vm/{UUID}/name", NAME)
        store.set_permissions(f"/vm/{UUID}", ((BACKEND_DOMID, "n"), (GUEST_DOMID, "r")))
        store.make(HOME, ((BACKEND_DOMID, "n"), (GUEST_DOMID, "r")))
        nodes: dict[str, object] = {
            "name": NAME, "domid": GUEST_DOMID, "vm": f"/vm/{UUID}", "memory/target": kib, "memory/static-max": kib,
            "store/port": d.store_port, "console/port": d.console_port, **rings, "device": "",
            "control/platform-feature-xs_reset_watches": 1,
        }  # fmt: skip
        for index in range(len(d.vcpus)):
            nodes[f"cpu/{index}/availability"] = "online"
        for name, value in nodes.items():
            store.write(f"{HOME}/{name}", str(value))
        for name in WRITABLE:
            store.make(f"{HOME}/{name}", ((GUEST_DOMID, "n"),))
        self.ring.reset()

    def destroy(self) -> None:
        """The guest has died: back ends let go of what they have of it."""
        self.bus.disconnect()
        self.domain.grants.drop_all()
        self.ring.connection.forget()

    def state(self) -> DomainZeroState:
        return DomainZeroState(self.server.state(), self.ring.s, self.bus.state())

    def set_state(self, state: DomainZeroState) -> None:
        self.server.set_state(state.store)
        self.ring.s = state.ring
        self.bus.set_state(state.devices)

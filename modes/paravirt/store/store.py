"""The server of the store: who is connected, who hears of what (docs/misc/xenstore.txt).

A watch names a path and a token. Each change of that node, or of one below, is an event for it, if its owner may see
the node; making the watch is one too. Changes in a transaction are events when it has succeeded.
Simplified: domains are there with the machine, so no special watch (@introduceDomain, @releaseDomain) ever fires.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from modes.paravirt.store.nodes import READ, Node, StoreError, Tree, TreeState, parent_of
from modes.paravirt.store.requests import ConnectionState, Job
from modes.paravirt.store.transaction import Change
from modes.paravirt.store.wire import MOST_PAYLOAD, Message, Type, strings


class Connection:
    """Whoever makes requests. `deliver` gets the watches' events, after the reply to the request that made them."""

    def __init__(self, store: Store, domid: int, deliver: Callable[[Message], None]) -> None:
        self.store, self.domid, self.deliver = store, domid, deliver
        self.s = ConnectionState()

    def forget(self) -> None:
        """Watches and transactions are gone."""
        self.s.watches.clear()
        self.s.transactions.clear()

    def own_path(self) -> str:
        return f"/local/domain/{self.domid}"


class StoreState(msgspec.Struct):
    tree: TreeState
    connections: list[ConnectionState]


class Store:
    """`domains` are those that are introduced: 0 and the guest."""

    def __init__(self, domains: tuple[int, ...]) -> None:
        self.tree, self.domains = Tree(), domains
        self.connections: list[Connection] = []
        self._undelivered: list[tuple[Connection, Message]] = []
        self._delivering = False

    def connect(self, domid: int, deliver: Callable[[Message], None]) -> Connection:
        self.connections.append(Connection(self, domid, deliver))
        return self.connections[-1]

    def state(self) -> StoreState:
        return StoreState(self.tree.s, [connection.s for connection in self.connections])

    def set_state(self, state: StoreState) -> None:
        self.tree.s = state.tree
        for connection, s in zip(self.connections, state.connections, strict=True):
            connection.s = s

    # --- requests ---------------------------------------------------------------------------------------------

    def request(self, by: Connection, message: Message) -> Message:
        """Do it, and return the reply. When that is on its way, deliver() sends the events that it has made."""
        job = Job(self, by, message)
        try:
            payload = job.run()
            if len(payload) > MOST_PAYLOAD:
                raise StoreError("E2BIG")
            kind: int = message.type
        except StoreError as error:
            job.changes, job.first_event = [], None
            payload, kind = strings(error.name), Type.ERROR
        self._undelivered += job.events()
        return Message(kind, message.request, message.transaction, payload)

    def deliver(self) -> None:
        """Send the events that wait, and those that whoever hears of them makes meanwhile."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._undelivered:
                connection, message = self._undelivered.pop(0)
                connection.deliver(message)
        finally:
            self._delivering = False

    def may_see(self, domid: int, change: Change, node: Node | None) -> bool:
        """Is a change of this node a watcher's business?"""
        if change.before is not None and Node(b"", change.before).rights(domid) & READ:
            return True
        if node is None:
            return False
        parent = self.tree.get(parent_of(change.path))
        return bool(node.rights(domid) & READ or (parent is not None and parent.rights(domid) & READ))

"""The server of the store: requests by message, and watches (docs/misc/xenstore.txt).

A watch names a path and a token. Each change of that node, or of one below, is an event for it, if its owner may see
the node; making the watch is one too. Changes in a transaction are events when it has succeeded.
Simplified: no INTRODUCE and no CONTROL (domains are there with the machine), no special watches ever fire.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from modes.paravirt.abi import BACKEND_DOMID
from modes.paravirt.store.nodes import (
    READ,
    Node,
    Nodes,
    Space,
    StoreError,
    Tree,
    TreeState,
    canonical,
    is_below,
    parent_of,
    parse_permission,
    permission_text,
)
from modes.paravirt.store.transaction import Change, Transaction, TransactionState
from modes.paravirt.store.wire import MOST_PAYLOAD, Message, Type, split, strings

MOST_WATCHES, MOST_TRANSACTIONS = 128, 10  # of every domain but 0
SPECIAL = re.compile(rb"@[A-Za-z0-9_@/-]{0,3071}")
OK = strings("OK")
PRIVILEGED = frozenset((Type.CONTROL, Type.INTRODUCE, Type.RELEASE, Type.RESUME, Type.SET_TARGET))
OUTSIDE_TRANSACTIONS = frozenset((Type.WATCH, Type.UNWATCH))  # whatever id they come with


class Watch(NamedTuple):
    path: bytes  # as it was given, which may be relative
    token: bytes
    absolute: str  # "" for a special one


class ConnectionState(msgspec.Struct):
    watches: list[Watch] = msgspec.field(default_factory=list)
    transactions: dict[int, TransactionState] = msgspec.field(default_factory=dict)
    last_transaction: int = 0


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


class Job:
    """One request."""

    def __init__(self, store: Store, by: Connection, message: Message) -> None:
        self.store, self.by, self.message, self.domid = store, by, message, by.domid
        self.transaction: TransactionState | None = None
        self.space: Space = store.tree
        self.changes: list[Change] = []
        self.first_event: Watch | None = None  # of a watch that is new

    def run(self) -> bytes:
        """Do it; what the reply says."""
        kind, identifier = self.message.type, self.message.transaction
        if kind in PRIVILEGED and self.domid != BACKEND_DOMID:
            raise StoreError("EACCES")
        handler = HANDLERS.get(kind)
        if handler is None:
            raise StoreError("ENOSYS")
        if identifier and kind not in OUTSIDE_TRANSACTIONS:
            self.transaction = self.by.s.transactions.get(identifier)
            if self.transaction is None:
                raise StoreError("ENOENT")
            self.space = Transaction(self.store.tree, self.transaction, self.domid)
        payload = handler(self)
        if isinstance(self.space, Transaction) and kind != Type.TRANSACTION_END:
            self.space.fire(self.changes)
            self.changes = []
        return payload

    def events(self) -> list[tuple[Connection, Message]]:
        """Who is to be told what."""
        out = [] if self.first_event is None else [(self.by, event(self.first_event.path, self.first_event.token))]
        for change in dict.fromkeys(self.changes):
            node = self.store.tree.get(change.path)
            for connection in self.store.connections:
                own = connection.own_path() + "/"
                for path, token, absolute in connection.s.watches:
                    hit = change.path == absolute if change.exact else absolute and is_below(change.path, absolute)
                    if hit and self.store.may_see(connection.domid, change, node):
                        told = change.path if path.startswith(b"/") else change.path.removeprefix(own)
                        out.append((connection, event(told.encode("ascii"), token)))
        return out

    # --- arguments --------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Nodes:
        return Nodes(self.space)

    def _strings(self, least: int, most: int | None = None) -> list[bytes]:
        """The payload's strings, all of which end with a zero byte."""
        payload = self.message.payload
        parts = split(payload)
        if not payload.endswith(b"\0") or not least <= len(parts) <= (least if most is None else most):
            raise StoreError("EINVAL")
        return parts

    def _path(self) -> str:
        return canonical(self._strings(1)[0], self.domid)

    def _domid(self) -> int:
        (text,) = self._strings(1)
        if not text.isdigit() or len(text) > 5 or int(text) >> 15:
            raise StoreError("EINVAL")
        return int(text)

    # --- looking ----------------------------------------------------------------------------------------------

    def directory(self) -> bytes:
        return strings(*self.nodes.find(self._path(), self.domid, READ).children)

    def directory_part(self) -> bytes:
        """A long directory in pieces: its generation, and names from a byte offset on; at their end an empty one."""
        path, offset = self._strings(2)
        node = self.nodes.find(canonical(path, self.domid), self.domid, READ)
        if not offset.isdigit() or len(offset) > 9:
            raise StoreError("EINVAL")
        generation, names = strings(str(node.generation)), strings(*node.children)[int(offset) :]
        room = MOST_PAYLOAD - len(generation) - 1
        if len(names) < room:
            return generation + names + b"\0"
        return generation + names[: names.rindex(b"\0", 0, room) + 1]

    def read(self) -> bytes:
        return self.nodes.find(self._path(), self.domid, READ).value

    def get_permissions(self) -> bytes:
        return strings(*map(permission_text, self.nodes.find(self._path(), self.domid, READ).permissions))

    def get_domain_path(self) -> bytes:
        return strings(f"/local/domain/{self._domid()}")

    def is_introduced(self) -> bytes:
        return strings("T" if self._domid() in self.store.domains else "F")

    # --- changing ---------------------------------------------------------------------------------------------

    def write(self) -> bytes:
        path, zero, value = self.message.payload.partition(b"\0")
        if not zero:
            raise StoreError("EINVAL")
        name = canonical(path, self.domid)
        self.nodes.write(name, value, self.domid)
        self.changes.append(Change(name))
        return OK

    def make(self) -> bytes:
        path = self._path()
        if self.nodes.make(path, self.domid):
            self.changes.append(Change(path))
        return OK

    def remove(self) -> bytes:
        path = self._path()
        for gone, permissions in self.nodes.remove(path, self.domid):
            self.changes.append(Change(gone, gone != path, permissions))
        return OK

    def set_permissions(self) -> bytes:
        path, *permissions = self._strings(2, MOST_PAYLOAD)
        name = canonical(path, self.domid)
        new = tuple(map(parse_permission, permissions))
        before = self.nodes.set_permissions(name, new, self.domid)
        self.changes.append(Change(name, before=before))
        return OK

    # --- watches ----------------------------------------------------------------------------------------------

    def watch(self) -> bytes:
        path, token = self._strings(2)
        absolute = "" if SPECIAL.fullmatch(path) else canonical(path, self.domid)
        watches = self.by.s.watches
        if any((watch.path, watch.token) == (path, token) for watch in watches):
            raise StoreError("EEXIST")
        if len(watches) >= MOST_WATCHES and self.domid != BACKEND_DOMID:
            raise StoreError("E2BIG")
        self.first_event = Watch(path, token, absolute)
        watches.append(self.first_event)
        return OK

    def unwatch(self) -> bytes:
        path, token = self._strings(2)
        for watch in self.by.s.watches:
            if (watch.path, watch.token) == (path, token):
                self.by.s.watches.remove(watch)
                return OK
        raise StoreError("ENOENT")

    def reset_watches(self) -> bytes:
        self.by.forget()
        self.transaction = None
        return OK

    # --- transactions -----------------------------------------------------------------------------------------

    def start(self) -> bytes:
        s = self.by.s
        if self.transaction is not None:
            raise StoreError("EBUSY")
        if len(s.transactions) >= MOST_TRANSACTIONS and self.domid != BACKEND_DOMID:
            raise StoreError("ENOSPC")
        while True:
            s.last_transaction = s.last_transaction + 1 & 0xFFFF_FFFF
            if s.last_transaction and s.last_transaction not in s.transactions:
                break
        s.transactions[s.last_transaction] = TransactionState()
        return strings(str(s.last_transaction))

    def end(self) -> bytes:
        (how,) = self._strings(1)
        if how not in (b"T", b"F"):
            raise StoreError("EINVAL")
        if self.transaction is None:
            raise StoreError("ENOENT")
        del self.by.s.transactions[self.message.transaction]
        if how == b"T":
            Transaction(self.store.tree, self.transaction, self.domid).commit()
            self.changes = list(self.transaction.fired.values())
        return OK


def event(path: bytes, token: bytes) -> Message:
    return Message(Type.WATCH_EVENT, 0, 0, path + b"\0" + token + b"\0")


HANDLERS: dict[int, Callable[[Job], bytes]] = {
    Type.DIRECTORY: Job.directory,
    Type.READ: Job.read,
    Type.GET_PERMS: Job.get_permissions,
    Type.WATCH: Job.watch,
    Type.UNWATCH: Job.unwatch,
    Type.TRANSACTION_START: Job.start,
    Type.TRANSACTION_END: Job.end,
    Type.GET_DOMAIN_PATH: Job.get_domain_path,
    Type.WRITE: Job.write,
    Type.MKDIR: Job.make,
    Type.RM: Job.remove,
    Type.SET_PERMS: Job.set_permissions,
    Type.IS_DOMAIN_INTRODUCED: Job.is_introduced,
    Type.RESET_WATCHES: Job.reset_watches,
    Type.DIRECTORY_PART: Job.directory_part,
}

"""Domain 0's use of the store, in the same process: the same requests as a guest's, without a ring between."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from modes.paravirt.abi import BACKEND_DOMID
from modes.paravirt.store.nodes import PERMISSION_LETTERS, StoreError, permission_text
from modes.paravirt.store.store import Connection, Store
from modes.paravirt.store.wire import Message, Type, split, strings


class Client:
    """Paths and values are text, absolute paths as a rule. What is refused raises StoreError.

    The events of watches come after the request that caused them is over, in order, one after the other.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.connection: Connection = store.connect(BACKEND_DOMID, self._deliver)
        self._watchers: list[Callable[[], None]] = []  # by token

    def _ask(self, kind: Type, payload: bytes) -> bytes:
        reply = self.store.request(self.connection, Message(kind, 0, 0, payload))
        self.store.deliver()
        if reply.type == Type.ERROR:
            raise StoreError(reply.payload[:-1].decode("ascii"))
        return reply.payload

    def _deliver(self, message: Message) -> None:
        _, token = split(message.payload)
        self._watchers[int(token)]()

    def read(self, path: str) -> str | None:
        """A node's value; None if there is none."""
        try:
            return self._ask(Type.READ, strings(path)).decode("latin-1")
        except StoreError:
            return None

    def exists(self, path: str) -> bool:
        return self.read(path) is not None

    def directory(self, path: str) -> list[str]:
        """The names of the children; none if there is no such node."""
        try:
            return [name.decode("ascii") for name in split(self._ask(Type.DIRECTORY, strings(path)))]
        except StoreError:
            return []

    def write(self, path: str, value: str) -> None:
        self._ask(Type.WRITE, strings(path) + value.encode("latin-1"))

    def make(self, path: str, permissions: Iterable[tuple[int, str]]) -> None:
        """Create a node, with these permissions."""
        self._ask(Type.MKDIR, strings(path))
        self.set_permissions(path, permissions)

    def set_permissions(self, path: str, permissions: Iterable[tuple[int, str]]) -> None:
        """(domid, letter) each, the owner first: n, r, w or b (docs/misc/xenstore.txt)."""
        texts = [permission_text((domid, PERMISSION_LETTERS[letter])) for domid, letter in permissions]
        self._ask(Type.SET_PERMS, strings(path, *texts))

    def remove(self, path: str) -> None:
        self._ask(Type.RM, strings(path))

    def watch(self, path: str, changed: Callable[[], None]) -> None:
        """`changed()` is called now, and when the node or one below changes."""
        self._watchers.append(changed)
        self._ask(Type.WATCH, strings(path, str(len(self._watchers) - 1)))

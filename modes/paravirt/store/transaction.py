"""A transaction: changes that nobody else sees until they all happen at once, or none of them does.

It remembers the generation of each node that it has looked at or changed. If one of them is another at the end, the
whole transaction has failed, EAGAIN, and whoever made it begins anew.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from modes.paravirt.abi import BACKEND_DOMID
from modes.paravirt.store.nodes import Node, Permissions, StoreError, Tree

MOST_NODES = 1024  # that a transaction may touch
ABSENT = -1  # instead of a generation


class Change(NamedTuple):
    """What watches are told. `exact`: it went with a node above, for which the watches above have their event."""

    path: str
    exact: bool = False
    before: Permissions | None = None


class TransactionState(msgspec.Struct):
    seen: dict[str, int] = msgspec.field(default_factory=dict)  # path -> generation when first looked at
    changed: dict[str, Node | None] = msgspec.field(default_factory=dict)
    fired: dict[str, Change] = msgspec.field(default_factory=dict)  # for the watches, at the end: one for each node


class Transaction:
    """The space as the transaction sees it."""

    def __init__(self, base: Tree, state: TransactionState, domid: int) -> None:
        self.base, self.state, self.domid = base, state, domid

    def get(self, path: str) -> Node | None:
        if path in self.state.changed:
            return self.state.changed[path]
        node = self.base.get(path)
        if path not in self.state.seen:
            if len(self.state.seen) >= MOST_NODES and self.domid != BACKEND_DOMID:
                raise StoreError("ENOSPC")
            self.state.seen[path] = ABSENT if node is None else node.generation
        return node

    def put(self, path: str, node: Node | None) -> None:
        self.get(path)
        self.state.changed[path] = node

    def owned(self, domid: int) -> int:
        count = self.base.owned(domid)
        for path, node in self.state.changed.items():
            old = self.base.get(path)
            count += (node is not None and node.owner == domid) - (old is not None and old.owner == domid)
        return count

    def fire(self, changes: list[Change]) -> None:
        """Watches will be told of these, once for each node, however often it changes."""
        for change in changes:
            known = self.state.fired.get(change.path)
            self.state.fired[change.path] = (
                change if known is None else known._replace(exact=known.exact and change.exact)
            )

    def commit(self) -> None:
        """Make the changes, or raise StoreError(EAGAIN)."""
        for path, generation in self.state.seen.items():
            node = self.base.get(path)
            if generation != (ABSENT if node is None else node.generation):
                raise StoreError("EAGAIN")
        for path, node in self.state.changed.items():
            if node is not None or self.base.get(path) is not None:
                self.base.put(path, node)

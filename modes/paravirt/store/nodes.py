"""The tree of the store: nodes by their paths, who may do what with each, and how much a domain may have.

A node has a value, a list of permissions and the names of its children in the order of their making. The first
permission names the owner, who may do all, and what everybody may whom the others do not name. Domain 0 may do all.
A node that one may not see is EACCES, and so is one that does not exist below a node that one may not see.

Paths, errors and quotas are xenstored's (docs/misc/xenstore.txt; tools/xenstored).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import msgspec

from modes.paravirt.abi import BACKEND_DOMID

NONE, READ, WRITE, OWN = 0, 1, 2, 4
PERMISSION_LETTERS = {"n": NONE, "r": READ, "w": WRITE, "b": READ | WRITE}
LETTERS = {bits: letter for letter, bits in PERMISSION_LETTERS.items()}
MOST_PATH, MOST_RELATIVE_PATH = 3072, 2048
# Quotas, for every domain but 0: nodes that it owns, bytes of one, permissions of one.
MOST_NODES, MOST_SIZE, MOST_PERMISSIONS = 1000, 2048, 5
NODE_HEADER, PERMISSION_SIZE = 24, 8  # what they count for in a node's size
PATH = re.compile(rb"/|(/[A-Za-z0-9_@-]+)+")
HOME = re.compile(rb"/local/domain/[0-9]+")
Permissions = tuple[tuple[int, int], ...]  # (domid, bits)


class StoreError(Exception):
    """A request is refused. `name` is the error's, such as ENOENT."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Node(NamedTuple):
    value: bytes
    permissions: Permissions
    children: tuple[str, ...] = ()
    generation: int = 0  # another one after each change

    @property
    def owner(self) -> int:
        return self.permissions[0][0]

    def rights(self, domid: int) -> int:
        """What a domain may do."""
        if domid in (BACKEND_DOMID, self.owner):
            return READ | WRITE | OWN
        return next((bits for who, bits in self.permissions[1:] if who == domid), self.permissions[0][1])

    @property
    def size(self) -> int:
        names = sum(len(child) + 1 for child in self.children)
        return NODE_HEADER + PERMISSION_SIZE * len(self.permissions) + len(self.value) + names


def canonical(path: bytes, domid: int) -> str:
    """An absolute path; a relative one begins at the domain's own directory. Raises StoreError(EINVAL)."""
    if path.startswith(b"@"):
        raise StoreError("EINVAL")
    absolute = path if path.startswith(b"/") else b"/local/domain/%d/%b" % (domid, path)
    home = HOME.match(absolute)
    relative = len(absolute) - home.end() if home else 0
    if not PATH.fullmatch(absolute) or len(absolute) > MOST_PATH or relative > MOST_RELATIVE_PATH:
        raise StoreError("EINVAL")
    return absolute.decode("ascii")


def parent_of(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


def child_of(path: str, name: str) -> str:
    return f"/{name}" if path == "/" else f"{path}/{name}"


def is_below(path: str, top: str) -> bool:
    """Is it that node, or one below?"""
    return top in (path, "/") or path.startswith(top + "/")


class TreeState(msgspec.Struct):
    nodes: dict[str, Node]
    owned: dict[int, int]  # how many nodes each domain has
    generation: int


class Space(Protocol):
    """Nodes by path: the tree's own, or what a transaction sees of it."""

    def get(self, path: str) -> Node | None: ...

    def put(self, path: str, node: Node | None) -> None:
        """Replace, create or (None) remove one node."""

    def owned(self, domid: int) -> int:
        """How many nodes a domain has."""


class Tree:
    """The nodes themselves."""

    def __init__(self) -> None:
        self.s = TreeState({"/": Node(b"", ((BACKEND_DOMID, NONE),))}, {BACKEND_DOMID: 1}, 0)

    def get(self, path: str) -> Node | None:
        return self.s.nodes.get(path)

    def put(self, path: str, node: Node | None) -> None:
        """The node gets a new generation."""
        old = self.s.nodes.pop(path, None) if node is None else self.s.nodes.get(path)
        self.s.generation += 1
        if old is not None:
            self.s.owned[old.owner] -= 1
        if node is not None:
            self.s.owned[node.owner] = self.s.owned.get(node.owner, 0) + 1
            self.s.nodes[path] = node._replace(generation=self.s.generation)

    def owned(self, domid: int) -> int:
        return self.s.owned.get(domid, 0)


class Nodes:
    """What a domain may do with a space."""

    def __init__(self, tree: Space) -> None:
        self.tree = tree

    def _near(self, path: str) -> Node:
        """The node, or the nearest one above it that exists."""
        while (node := self.tree.get(path)) is None:
            path = parent_of(path)
        return node

    def find(self, path: str, domid: int, needed: int) -> Node:
        """The node, if the domain may do that. Raises StoreError(ENOENT) or EACCES."""
        node = self.tree.get(path)
        if needed & ~(node or self._near(path)).rights(domid):
            raise StoreError("EACCES")
        if node is None:
            raise StoreError("ENOENT")
        return node

    def _put(self, path: str, node: Node, domid: int) -> None:
        if domid != BACKEND_DOMID and node.size >= MOST_SIZE:
            raise StoreError("ENOSPC")
        self.tree.put(path, node)

    def write(self, path: str, value: bytes, domid: int) -> None:
        """Set a value; missing nodes are made, with their parents."""
        try:
            node = self.find(path, domid, WRITE)
        except StoreError as error:
            if error.name != "ENOENT":
                raise
            self._create(path, value, domid)
        else:
            self._put(path, node._replace(value=value), domid)

    def make(self, path: str, domid: int) -> bool:
        """Create an empty node, unless it is there. True: it was made."""
        try:
            self.find(path, domid, WRITE)
        except StoreError as error:
            if error.name != "ENOENT":
                raise
            self._create(path, b"", domid)
            return True
        return False

    def _create(self, path: str, value: bytes, domid: int) -> None:
        """New nodes have their parent's permissions, but belong to whoever makes them."""
        missing = []
        while (parent := self.tree.get(path)) is None:
            missing.append(path)
            path = parent_of(path)
        owner = parent.owner if domid == BACKEND_DOMID else domid
        if domid != BACKEND_DOMID and self.tree.owned(domid) + len(missing) > MOST_NODES:
            raise StoreError("ENOSPC")
        permissions = ((owner, parent.permissions[0][1]), *parent.permissions[1:])
        made = [Node(b"", permissions, (name_of(below),)) for below in missing[:-1]]
        new = [Node(value, permissions), *made]  # from the lowest upwards
        above = parent._replace(children=(*parent.children, name_of(missing[-1])))
        if domid != BACKEND_DOMID and any(node.size >= MOST_SIZE for node in (*new, above)):
            raise StoreError("ENOSPC")
        self.tree.put(path, above)
        for place, node in zip(missing, new, strict=True):
            self.tree.put(place, node)

    def remove(self, path: str, domid: int) -> list[tuple[str, Permissions]]:
        """Remove a node and all below it. Returns what is gone, the node itself first, and who might see it."""
        if path == "/":
            raise StoreError("EINVAL")
        try:
            self.find(path, domid, WRITE)
        except StoreError as error:
            if error.name != "ENOENT" or self.tree.get(parent_of(path)) is None:
                raise
            return []
        parent = self.tree.get(parent_of(path))
        assert parent is not None
        gone = [(each, node.permissions) for each, node in self._below(path)]
        children = tuple(child for child in parent.children if child != name_of(path))
        self.tree.put(parent_of(path), parent._replace(children=children))  # a smaller one breaks no quota
        for each, _ in gone:
            self.tree.put(each, None)
        return gone

    def _below(self, path: str) -> Iterator[tuple[str, Node]]:
        """A node and all below it."""
        todo = [path]
        while todo:
            path = todo.pop()
            node = self.tree.get(path)
            if node is not None:
                yield path, node
                todo += [child_of(path, child) for child in reversed(node.children)]

    def set_permissions(self, path: str, permissions: Permissions, domid: int) -> Permissions:
        """Only the owner may, and only domain 0 may give a node to another. Returns those from before."""
        node = self.find(path, domid, OWN)
        if domid != BACKEND_DOMID:
            if permissions[0][0] != domid:
                raise StoreError("EPERM")
            if len(permissions) > MOST_PERMISSIONS:
                raise StoreError("ENOSPC")
        self._put(path, node._replace(permissions=permissions), domid)
        return node.permissions


def parse_permission(text: bytes) -> tuple[int, int]:
    """ "r5" as (5, READ). Raises StoreError(EINVAL)."""
    letter, digits = text[:1].decode("latin-1"), text[1:]
    if letter not in PERMISSION_LETTERS or not digits.isdigit() or len(digits) > 5 or int(digits) >= 0x7FF0:
        raise StoreError("EINVAL")
    return int(digits), PERMISSION_LETTERS[letter]


def permission_text(permission: tuple[int, int]) -> str:
    return f"{LETTERS[permission[1]]}{permission[0]}"

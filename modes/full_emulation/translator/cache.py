"""The translation cache: what has been translated, where it lies, how jumps find it, and when it is given up.

The cache holds for the address space that is loaded. A page of the guest's code is in it with its frame and its bytes
at the time. While the shadow tables map that frame as code, neither the bytes nor the mapping can change without an
exit; `check` looks again when the pager has given up such a mapping, and when another address space is loaded. The
cache only grows; when it is full it is emptied as a whole.
"""

from __future__ import annotations

from collections.abc import Callable

import capstone
import msgspec

from modes.full_emulation.translator import emit
from modes.full_emulation.translator.targets import Targets
from modes.full_emulation.translator.translate import (
    AT_TARGET,
    BIT_RCX,
    CALL_OUT,
    MISS,
    MOST_BYTES,
    Block,
    Builder,
    Jump,
    Place,
)
from modes.full_emulation.translator.window import CODE, SIZE, Window

ADAPT = 4  # so many faults on page tables, and a store becomes a call-out; each time that was wrong, 4 times as many
REVERT = 2  # so many call-outs in a row that no fault would have been, and it is a plain store again
MOST_STORES = 1024  # that are watched for that


class Page(msgspec.Struct):
    """A page of the guest's code, as it was translated."""

    frame: int
    code: bytes


class Store(msgspec.Struct):
    """A store that has hit page tables."""

    faults: int = 0
    copy: bytes = b""  # as a call-out: the bytes that it replaced in the cache
    vain: int = 0  # call-outs since the last one that was of use
    reverted: int = 0


class Costs(msgspec.Struct):
    """What translating has taken, since the start."""

    blocks: int = 0
    instructions: int = 0  # of the guest
    bytes: int = 0  # written to the cache
    flushes: int = 0
    pages_dropped: int = 0
    adapted: int = 0
    reverted: int = 0


class CacheState(msgspec.Struct):
    """Everything but the code itself, which is in the window's memory."""

    base: int
    next: int  # where the next block goes
    where: dict[int, int] = {}  # the guest's instruction -> its translation
    places: dict[int, Place] = {}  # each instruction in the cache
    linked: dict[int, list[Jump]] = {}  # jumps to a translation, by the guest's target
    waiting: dict[int, list[Jump]] = {}  # jumps to a stub, because there is none yet
    landings: dict[int, int] = {}  # where an indirect branch to an address of the guest lands
    pages: dict[int, Page] = {}  # by linear page
    blocks: dict[int, list[Block]] = {}  # by linear page
    stores: dict[int, Store] = {}
    costs: Costs = msgspec.field(default_factory=Costs)


class Cache:
    """`find` and `translate`; the rest keeps what they find true."""

    def __init__(self, window: Window, inert_port: Callable[[int], bool], size: int) -> None:
        self.window, self.inert_port = window, inert_port
        self.targets = Targets(window)
        self.size = min(size, SIZE - CODE)
        self.s = CacheState(0, 0)
        self.flush()
        self.s.costs = Costs()

    @property
    def used(self) -> int:
        return self.s.next - self.window.base - CODE

    def flush(self) -> None:
        """Empty the cache, at the window's place as it is now."""
        window, costs = self.window, self.s.costs
        costs.flushes += 1
        start = window.base + CODE
        self.s = CacheState(window.base, start + len(emit.CALL_OUT), costs=costs)
        self.targets.empty(start)
        window.write(start, emit.CALL_OUT)  # what a look-up finds that finds nothing
        self.s.places[start] = Place(0, AT_TARGET | BIT_RCX | MISS)

    # --- translating ------------------------------------------------------------------------------------------

    def translate(self, rip: int, fetch: Callable[[int], capstone.CsInsn | None], *, landing: bool) -> int:
        """Translate a block; with `landing`, one that indirect branches find. Returns how many instructions it has."""
        s = self.s
        fetch(rip)  # what this raises, it raises before anything is changed
        b = self._builder(rip)
        if landing:
            b.landing(rip)
        b.translate(fetch)
        self._commit(b)
        pages = sorted({address >> 12 for address in (*b.found, b.next - 1 & (1 << 64) - 1)})
        block = Block(b.origin, len(b.code), list(b.found))
        for page in pages:
            s.blocks.setdefault(page, []).append(block)
        for jump in b.jumps:
            (s.linked if jump.target in s.where else s.waiting).setdefault(jump.target, []).append(jump)
        for found in b.found:
            for jump in s.waiting.pop(found, []):
                self._patch(jump.site, s.where[found])
                s.linked.setdefault(found, []).append(jump)
        s.costs.blocks += 1
        s.costs.instructions += len(b.found)
        return len(b.found)

    def add_landing(self, rip: int) -> None:
        """Let indirect branches find what is translated already."""
        b = self._builder(rip)
        b.landing(rip)
        b.put(emit.JUMP + emit.rel32(b.here + 1, self.s.where[rip]))
        self._commit(b)

    def _builder(self, rip: int) -> Builder:
        return Builder(self.window, self.s.next, rip, self.s.where, self.inert_port, self.s.landings)

    def _commit(self, b: Builder) -> None:
        s = self.s
        self.window.write(s.next, bytes(b.code))
        s.costs.bytes += len(b.code)
        s.next += len(b.code)
        s.where.update(b.found)
        s.places.update(b.places)
        s.landings.update(b.landings)
        for rip, at in b.landings.items():
            self.targets.set(rip, at)

    @property
    def full(self) -> bool:
        return self.used + MOST_BYTES > self.size or self.targets.full

    # --- jumps ------------------------------------------------------------------------------------------------

    def _patch(self, site: int, target: int) -> None:
        self.window.write(site, emit.rel32(site, target))

    # --- what has become untrue -------------------------------------------------------------------------------

    def drop_page(self, page: int) -> None:
        """Give up what was translated from a page. Jumps to it go to their stubs again.

        Its code still lies there, but means nothing any more, whoever jumps to it.
        """
        s = self.s
        del s.pages[page]
        s.costs.pages_dropped += 1
        for block in s.blocks.pop(page, []):
            for at in range(block.at, block.at + block.size):
                s.places.pop(at, None)
            for rip in block.rips:
                if s.where.pop(rip, None) is None:
                    continue
                s.stores.pop(rip, None)
                if s.landings.pop(rip, None) is not None:
                    self.targets.forget(rip)
                for jump in s.linked.pop(rip, []):
                    self._patch(jump.site, jump.stub)
                    s.waiting.setdefault(rip, []).append(jump)

    # --- adaptation -------------------------------------------------------------------------------------------

    def is_adapted(self, rip: int) -> bool:
        store = self.s.stores.get(rip)
        return store is not None and bool(store.copy)

    def faulted(self, rip: int) -> None:
        """A copied store has hit a page table. If it keeps doing so, make it a call-out, where it stands."""
        s = self.s
        if len(s.stores) == MOST_STORES and rip not in s.stores:
            return
        store = s.stores.setdefault(rip, Store())
        store.faults += 1
        if store.faults < ADAPT << 2 * store.reverted:
            return
        at = s.where[rip]
        offset = at - self.window.base
        store.copy, store.vain = bytes(self.window.bytes[offset : offset + len(emit.CALL_OUT)]), 0
        self.window.write(at, emit.CALL_OUT)
        s.places[at] = Place(rip, CALL_OUT)
        s.costs.adapted += 1

    def judge(self, rip: int, *, useful: bool) -> None:
        """An adapted store has been performed. One that is seldom of use becomes a copy again."""
        s = self.s
        store = s.stores.get(rip)
        if store is None:
            return  # it has written over its own code
        store.vain = 0 if useful else store.vain + 1
        if store.vain == REVERT:
            at = s.where[rip]
            self.window.write(at, store.copy)
            s.places[at] = Place(rip, 0)
            store.copy, store.faults = b"", 0
            store.reverted += 1
            s.costs.reverted += 1

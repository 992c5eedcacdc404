"""What belongs to one vCPU: a window of its own, with its translations, and where its CPU is."""

from __future__ import annotations

import msgspec

from modes.full_emulation.translator.cache import Cache, CacheState
from modes.full_emulation.translator.targets import TargetsState
from modes.full_emulation.translator.translate import Place
from modes.full_emulation.translator.window import Window


class DeskState(msgspec.Struct):
    """What is remembered of a desk. The cache is packed, because it is large and seldom looked at."""

    cache: bytes
    targets: TargetsState
    inside: bool
    untranslated: bool
    ready: set[int]


class Desk:
    """The mode writes its fields."""

    def __init__(self, window: Window, cache: Cache) -> None:
        self.window, self.cache = window, cache
        self.inside = False  # the real CPU is in the cache
        self.untranslated = False  # it runs the kernel at its own address
        self.place: Place | None = None  # where it was in the cache, at this exit
        self.ready: set[int] = set()  # shadow roots for which the cache is true
        self.lost = False  # a mapping of code has gone
        self.missed = False  # an indirect branch has not found its target

    def places(self, base: int) -> dict[int, int]:
        """With the window at `base`: what lies where, linear addresses of 2 MiB and their page tables."""
        return {**self.cache.targets.places(base), base: self.window.page_table}

    def state(self) -> DeskState:
        packed = msgspec.msgpack.encode(self.cache.s)
        return DeskState(packed, self.cache.targets.s, self.inside, self.untranslated, self.ready)

    def set_state(self, state: DeskState) -> None:
        self.cache.s = msgspec.msgpack.decode(state.cache, type=CacheState)
        self.cache.targets.s = state.targets
        self.window.base = self.cache.s.base
        self.inside, self.untranslated, self.ready = state.inside, state.untranslated, state.ready

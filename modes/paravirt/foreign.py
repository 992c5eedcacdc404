"""A domain's memory as others see it: by the frame numbers that the domain itself gives out.

A PV domain names machine frames, a domain with nested paging guest-physical ones. Whoever wants to look at such a frame
holds it first: it stays that domain's, and what it is, until it is let go.
"""

from __future__ import annotations

from typing import Protocol

from modes.paravirt.frames import Frames, Kind

PAGE = 0x1000


class ForeignMemory(Protocol):
    """What grant tables and back ends ask of a domain's memory."""

    def hold(self, frame: int, *, write: bool) -> int:
        """Take a reference, to write too. Returns the frame's host-physical address. Raises Refused."""

    def let_go(self, frame: int, *, write: bool) -> None:
        """Give back what hold took."""


class MachineFrames:
    """A PV domain's: what is held for writing cannot become a page table, and one is never held so."""

    def __init__(self, frames: Frames, domid: int) -> None:
        self.frames, self.domid = frames, domid

    def hold(self, frame: int, *, write: bool) -> int:
        if write:
            self.frames.take_as(frame, Kind.WRITABLE, self.domid)
        else:
            self.frames.take(frame, self.domid)
        return frame * PAGE

    def let_go(self, frame: int, *, write: bool) -> None:
        if write:
            self.frames.drop_as(frame)
        else:
            self.frames.drop(frame)

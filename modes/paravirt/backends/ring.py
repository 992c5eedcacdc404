"""A ring between a front end and a back end, from the back end's place (public/io/ring.h).

    0 req_prod   4 req_event   8 rsp_prod   12 rsp_event   16 not used   64 entries, a power of two of them

An entry holds a request, and later a response, not always that request's. Indices count on for ever, modulo 2**32; the
entry is the index modulo the size. Who has put something in need not tell the other side of each: it does when the
index passes the one that the other has written as its `event`.

The page is the guest's as well. An index is read once, a request is copied before anybody looks at it, and the back
end's own indices are not in the page.
"""

from __future__ import annotations

import struct

import msgspec

from modes.paravirt.grants import View

PAGE, HEADER = 0x1000, 64
REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT = 0, 4, 8, 12
MASK = 0xFFFF_FFFF
U32 = struct.Struct("<I")


class RunAway(Exception):
    """An index that no front end in its right mind has written."""


class RingState(msgspec.Struct):
    """The page's handle (grants.py), and the back end's own indices."""

    handle: int = 0
    taken: int = 0  # requests
    answered: int = 0  # responses that are in the page
    shown: int = 0  # responses that the front end may know of


class Ring:
    """`entry`: bytes of the larger of request and response."""

    def __init__(self, page: View, entry: int, state: RingState | None = None) -> None:
        """Without a state: as the front end has left it, new or with requests that nobody has answered."""
        self.page, self.entry = page, entry
        self.size = ring_size(entry)
        if state is None:
            answered = self._get(RSP_PROD)
            state = RingState(page.handle, answered, answered, answered)
        self.state = state

    def _get(self, offset: int) -> int:
        value: int = U32.unpack(self.page.read(offset, 4))[0]
        return value

    def _set(self, offset: int, value: int) -> None:
        self.page.write(offset, U32.pack(value & MASK))

    def _place(self, index: int) -> int:
        return HEADER + (index & self.size - 1) * self.entry

    # --- requests ---------------------------------------------------------------------------------------------

    def waiting(self) -> int:
        """Requests that can be taken. Raises RunAway."""
        s = self.state
        asked, taken = self._get(REQ_PROD) - s.answered & MASK, s.taken - s.answered & MASK
        if not taken <= asked <= self.size:
            raise RunAway
        return asked - taken

    def take(self) -> bytes:
        """A copy of the next request, whether or not there is one: ask `waiting` first."""
        s = self.state
        data = self.page.read(self._place(s.taken), self.entry)
        s.taken = s.taken + 1 & MASK
        return data

    def final_check(self) -> bool:
        """Ask for an event with the next request. True: it is there already, and no event will come."""
        if self.waiting():
            return True
        self._set(REQ_EVENT, self.state.taken + 1)
        return bool(self.waiting())

    # --- responses --------------------------------------------------------------------------------------------

    def answer(self, response: bytes) -> None:
        """Put in a response. There is room for one for each request that was taken."""
        s = self.state
        self.page.write(self._place(s.answered), response)
        s.answered = s.answered + 1 & MASK

    def push(self) -> bool:
        """Show the responses. True: the front end wants to be told of one of them."""
        s = self.state
        new, s.shown = s.answered - s.shown & MASK, s.answered
        self._set(RSP_PROD, s.answered)
        return s.answered - self._get(RSP_EVENT) & MASK < new


def ring_size(entry: int) -> int:
    """How many entries of so many bytes a page has."""
    return 1 << ((PAGE - HEADER) // entry).bit_length() - 1

"""Physical region pages: where a command's data are in the host's memory (NVM Express 1.4, 4.3 and 4.4)."""

from __future__ import annotations

from collections.abc import Callable

from hv.silicon.nvme.spec import PAGE, CommandError, Status


def regions(read: Callable[[int, int], bytes], prp1: int, prp2: int, length: int) -> list[tuple[int, int]]:
    """Address and size of each piece. `read` fetches lists from memory; it may raise BusError."""
    if prp1 & 3:
        raise CommandError(Status.PRP_OFFSET_INVALID)
    out = [(prp1, min(length, PAGE - prp1 % PAGE))]
    left = length - out[0][1]
    if not left:
        return out
    for page in [prp2] if left <= PAGE else _listed(read, prp2, -(-left // PAGE)):
        if page % PAGE:
            raise CommandError(Status.PRP_OFFSET_INVALID)
        out.append((page, min(left, PAGE)))
        left -= PAGE
    return out


def _listed(read: Callable[[int, int], bytes], at: int, count: int) -> list[int]:
    """The first `count` entries of a list. The last entry of a page leads to the next page, if there are more."""
    if at & 7:
        raise CommandError(Status.PRP_OFFSET_INVALID)
    pages: list[int] = []
    while True:
        room, wanted = (PAGE - at % PAGE) // 8, count - len(pages)
        data = read(at, 8 * min(room, wanted))
        pages += [int.from_bytes(data[place : place + 8], "little") for place in range(0, len(data), 8)]
        if wanted <= room:
            return pages
        at = pages.pop()
        if at % PAGE:
            raise CommandError(Status.PRP_OFFSET_INVALID)

"""The messages of a network front end and back end (Xen, public/io/netif.h).

    transmit request    u32 gref   u16 offset   u16 flags   u16 id   u16 size
             response   u16 id   s16 status
    receive request     u16 id   u16 unused   u32 gref
            response    u16 id   u16 offset   u16 flags   s16 status
    extra information   u8 type   u8 flags   6 bytes by type; in the place of a transmit request, behind the first

A packet is one transmit request and those behind it that MORE_DATA announces. The first one's size is the whole
packet's; what is left when the others' are taken away is its own.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

TX_REQUEST, TX_RESPONSE = struct.Struct("<IHHHH"), struct.Struct("<Hh")
RX_REQUEST, RX_RESPONSE = struct.Struct("<HHI"), struct.Struct("<HHHh")
EXTRA = struct.Struct("<BB6s")

# Flags of a transmit request. What a receive response may have, this back end does not use.
CSUM_BLANK, DATA_VALIDATED, MORE_DATA, EXTRA_INFO = 1, 2, 4, 8
# Types of extra information, and its one flag.
EXTRA_GSO, EXTRA_MCAST_ADD, EXTRA_MCAST_DEL, EXTRA_HASH, EXTRA_XDP = 1, 2, 3, 4, 5
EXTRA_MORE = 1
OKAY, ERROR, DROPPED, NULL = 0, -1, -2, 1

MOST_SLOTS = 18  # of one packet (XEN_NETIF_NR_SLOTS_MIN)
FATAL_SLOTS = 20  # no front end that makes so many is believed any more (netback's fatal_skb_slots)


class Slot(NamedTuple):
    """A transmit request."""

    gref: int
    offset: int
    flags: int
    id: int
    size: int

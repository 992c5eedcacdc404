"""What there is to reach of an 82599: registers, rings, messages, effects; written after the data sheet (331520)."""

from __future__ import annotations

from hv.silicon.ixgbe import registers as reg
from hv.silicon.ixgbe import statistics as stat

SIZES = (1, 2, 4, 8)
VIRTUAL = {
    "VTCTRL": 0, "VTSTATUS": 8, "VTLINKS": 0x10, "VTFRTIMER": 0x48, "VTEICR": 0x100, "VTEICS": 0x104, "VTEIMS": 0x108,
    "VTEIMC": 0x10C, "VTEIAC": 0x110, "VTEIAM": 0x114, "VTIVAR": 0x120, "VTIVAR_MISC": 0x140, "VTRSCINT": 0x180,
    "VFMBMEM": 0x200, "VFMAILBOX": 0x2FC, "VFPSRTYPE": 0x300, "VTEITR": 0x820, "VFRDBAL": 0x1000, "VFRDBAH": 0x1004,
    "VFRDLEN": 0x1008, "VFDCA_RXCTRL": 0x100C, "VFRDH": 0x1010, "VFSRRCTL": 0x1014, "VFRDT": 0x1018,
    "VFGPRC": 0x101C, "VFGORC": 0x1020, "VFRXDCTL": 0x1028, "VFRSCCTL": 0x102C, "VFMPRC": 0x1034, "VFTDBAL": 0x2000,
    "VFTDBAH": 0x2004, "VFTDLEN": 0x2008, "VFDCA_TXCTRL": 0x200C, "VFTDH": 0x2010, "VFTDT": 0x2018,
    "VFGPTC": 0x201C, "VFGOTC": 0x2020, "VFTXDCTL": 0x2028, "VFTDWBAL": 0x2038, "VFTDWBAH": 0x203C,
    "VT nothing": 0x3F00,
}  # fmt: skip
QUEUE = {  # of the physical function: a receive queue's, a transmit queue's
    "RDBAL": 0x1000, "RDBAH": 0x1004, "RDLEN": 0x1008, "DCA_RXCTRL": 0x100C, "RDH": 0x1010, "SRRCTL": 0x1014,
    "RDT": 0x1018, "RXDCTL": 0x1028, "RSCCTL": 0x102C, "TDBAL": 0x6000, "TDBAH": 0x6004, "TDLEN": 0x6008,
    "DCA_TXCTRL": 0x600C, "TDH": 0x6010, "TDT": 0x6018, "TXDCTL": 0x6028, "TDWBAL": 0x6038, "TDWBAH": 0x603C,
}  # fmt: skip
# What a counter of the card that counts says was reached.
EFFECTS = {
    "sent": stat.GPTC, "received": stat.GPRC, "broadcast received": stat.BPRC, "multicast sent": stat.MPTC,
    "no descriptors, dropped": stat.QPRDC, "buffer full": stat.MPC, "runt": stat.RUC, "oversize": stat.ROC,
    "forged": stat.SSVPC,
}  # fmt: skip
TX_KINDS = ("legacy", "context", "data", "segmented data", "reserved", "random")
RINGS = ("good", "at the neighbour", "outside", "in a device", "overlapping", "empty", "huge")
MESSAGES = {
    "RESET": 1, "SET_MAC": 2, "SET_MULTICAST": 3, "SET_VLAN": 4, "SET_LPE": 5, "SET_MACVLAN": 6, "NEGOTIATE": 8,
    "GET_QUEUES": 9, "unknown message": 0x55,
}  # fmt: skip
NEVER_GRANTED = ("SET_MACVLAN", "unknown message")
SELDOM_REFUSED = ("RESET", "SET_MULTICAST", "SET_VLAN")  # only if there was no RESET before
EXPECTED = frozenset(
    [
        *(f"{name} {way}" for name in (*VIRTUAL, *QUEUE, "nothing there") for way in ("read", "write")),
        *(f"{register.name} {way}" for register in reg.REGISTERS for way in ("read", "write")),
        *(f"{size} bytes {way}" for size in SIZES for way in ("read", "write")),
        *(f"tx {kind}" for kind in TX_KINDS),
        *(f"{which} ring {shape}" for which in ("tx", "rx") for shape in RINGS),
        *(f"{name} granted" for name in MESSAGES if name not in NEVER_GRANTED),
        *(f"{name} refused" for name in MESSAGES if name not in SELDOM_REFUSED),
        *EFFECTS,
        "blocked", "looped inside", "segmented", "head written back", "frame waits for descriptors", "throttled",
        "masked", "pending in MSI-X", "function reset in flight", "software reset in flight", "taken away in flight",
        "card reset", "card reset in flight", "mailbox locked", "mailbox flood", "functions switched", "snapshot",
        "healthy",
    ]
)  # fmt: skip

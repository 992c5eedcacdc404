"""The Xen platform device: a PCI card that tells a driver that Xen is there, and its ports for unplugging.

    5853:0001    window 0: 256 ports; window 1: 16 MiB where nothing is, for pages of Xen's; INTA for upcalls
    ports 0x10 to 0x13, also at the start of window 0 (docs/misc/hvm-emulated-unplug):

    0x10  u16  read   0x49D2: the protocol is there; 0xD249: this driver is not wanted
               write  what to unplug: bit 0 all emulated IDE disks, bit 1 all emulated network cards
    0x10  u32  write  the driver's build number
    0x12  u8   read   1, the protocol's version        write  a character for the log
    0x12  u16  write  the driver's product number

What has been unplugged is gone from its bus until the machine is built again. A driver is not wanted if its product and
build are in `unwanted`. Simplified: the IDE controller goes with its disks; no bits for some of the disks, or for NVMe.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hv.silicon.pci import Bar, Function, Header

XENSOURCE, PLATFORM_DEVICE, CLASS = 0x5853, 0x0001, 0xFF_8000
PORTS_AT, PORTS = 0x10, 4
PORT_WINDOW, PAGE_WINDOW = 0, 1
MAGIC, UNWANTED_MAGIC, VERSION = 0x49D2, 0xD249, 1
UNPLUG_IDE, UNPLUG_NICS = 1, 2
LONGEST_LINE = 256  # characters of a log line


class CardState(msgspec.Struct):
    product: int = 0
    build: int = 0
    unplugged: int = 0  # bits
    line: bytes = b""  # of the log, so far
    lines: int = 0  # log lines so far


class PlatformCard(Function):
    """`unplug(bits)` takes emulated devices off the board. `unwanted`: products and builds of drivers."""

    def __init__(self, unplug: Callable[[int], None], unwanted: frozenset[tuple[int, int]] = frozenset()) -> None:
        super().__init__(
            Header(
                XENSOURCE, PLATFORM_DEVICE, CLASS, 1, XENSOURCE, PLATFORM_DEVICE, pin=1,
                bars={PORT_WINDOW: Bar(0x100, io=True), PAGE_WINDOW: Bar(16 << 20, prefetchable=True)},
            )
        )  # fmt: skip
        self.unplug, self.unwanted = unplug, unwanted
        self.state = CardState()

    # --- the fixed ports ------------------------------------------------------------------------------------------

    def port_read(self, offset: int, size: int) -> int:
        s = self.state
        if (offset, size) == (0, 2):
            return UNWANTED_MAGIC if (s.product, s.build) in self.unwanted else MAGIC
        if (offset, size) == (2, 1):
            return VERSION
        return (1 << 8 * size) - 1

    def port_write(self, offset: int, size: int, value: int) -> None:
        s = self.state
        if (offset, size) == (0, 2):
            if (s.product, s.build) not in self.unwanted:
                s.unplugged |= value & (UNPLUG_IDE | UNPLUG_NICS)
                self.unplug(s.unplugged)
        elif (offset, size) == (0, 4):
            s.build = value
        elif (offset, size) == (2, 2):
            s.product = value
        elif (offset, size) == (2, 1):
            self._log(value)

    def _log(self, character: int) -> None:
        """Simplified: lines are counted, and not kept."""
        s = self.state
        if character == ord("\n") or len(s.line) == LONGEST_LINE:
            s.line, s.lines = b"", s.lines + 1
        else:
            s.line += bytes((character,))

    # --- the windows ----------------------------------------------------------------------------------------------

    def read(self, bar: int, offset: int, size: int) -> int:
        return self.port_read(offset, size) if bar == PORT_WINDOW else (1 << 8 * size) - 1

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        if bar == PORT_WINDOW:
            self.port_write(offset, size, value)

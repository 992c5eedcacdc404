"""fw_cfg: where a firmware finds what the machine was started with (QEMU, docs/specs/fw_cfg).

Items are numbered; writing a number to the selector (port 0x510) starts reading at its first byte (port 0x511), or the
DMA interface (0x514, a big-endian address in two halves) copies whole pieces into memory. On a machine of metal it
stands for the disk or the network that a kernel comes from. Simplified: nothing can be written; DMA takes no time.
"""

from __future__ import annotations

import struct

import msgspec

from hv.silicon.device import Slot
from hv.silicon.memory import BusError

SELECTOR, DATA, DMA = 0, 1, 4  # offsets from port 0x510
FW_CFG, PORTS = 0x510, 12
ITEM_SIGNATURE, ITEM_ID, ITEM_RAM_SIZE, ITEM_CPUS, ITEM_KERNEL_SIZE, ITEM_KERNEL_DATA = 0, 1, 3, 5, 8, 0x11
ITEM_DIRECTORY, FIRST_FILE = 0x19, 0x20
SIGNATURE, FEATURES, DMA_SIGNATURE = b"QEMU", 3, b"QEMU CFG"  # features: the plain interface, and DMA
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16
CHUNK = 1 << 20  # bytes copied at a time


class FwCfgState(msgspec.Struct):
    """Everything that it remembers; what the items hold is the machine's and never changes."""

    selected: int = 0
    offset: int = 0
    dma_high: int = 0


class FwCfg:
    """`slot` is its way to memory."""

    deadline = None

    def __init__(self, slot: Slot) -> None:
        self.slot, self.state = slot, FwCfgState()
        self.items = {ITEM_SIGNATURE: SIGNATURE, ITEM_ID: struct.pack("<I", FEATURES)}
        self.add_files({})

    def add_files(self, files: dict[str, bytes]) -> None:
        """Put files in, by name, and write the directory."""
        entries = []
        for number, (name, data) in enumerate(sorted(files.items()), FIRST_FILE):
            self.items[number] = data
            entries.append(struct.pack(">IHH56s", len(data), number, 0, name.encode()))
        self.items[ITEM_DIRECTORY] = struct.pack(">I", len(entries)) + b"".join(entries)

    def advance(self, now: int) -> None:
        pass

    def _take(self, size: int) -> bytes:
        """The next bytes of the selected item; zeros behind its end."""
        s = self.state
        data = self.items.get(s.selected, b"")[s.offset : s.offset + size]
        s.offset += size
        return data.ljust(size, b"\0")

    def _select(self, item: int) -> None:
        self.state.selected, self.state.offset = item, 0

    # --- ports ------------------------------------------------------------------------------------------------

    def port_read(self, offset: int, size: int) -> int:
        if offset == DATA and size == 1:
            return self._take(1)[0]
        if offset >= DMA and offset + size <= DMA + 8:
            return int.from_bytes(DMA_SIGNATURE[offset - DMA : offset - DMA + size], "little")
        return (1 << 8 * size) - 1

    def port_write(self, offset: int, size: int, value: int) -> None:
        if (offset, size) == (SELECTOR, 2):
            self._select(value)
        elif size == 4 and offset in (DMA, DMA + 4):
            half = int.from_bytes(value.to_bytes(4, "little"), "big")
            if offset == DMA:
                self.state.dma_high = half
            else:
                address, self.state.dma_high = self.state.dma_high << 32 | half, 0
                self._dma(address)

    def _dma(self, address: int) -> None:
        """A request: control, length and address, all big-endian; control is cleared when it is done."""
        try:
            control, length, target = struct.unpack(">IIQ", self.slot.read(address, 16))
            if control & SELECT:
                self._select(control >> 16)
            good = not control & WRITE
            if good and control & READ:
                good = self._copy(target, length)
            elif good and control & SKIP:
                self.state.offset = self.state.offset + length & 0xFFFF_FFFF
            self.slot.write(address, struct.pack(">I", 0 if good else ERROR))
        except BusError:
            pass  # a request that is nowhere: nobody can be told

    def _copy(self, target: int, length: int) -> bool:
        for done in range(0, length, CHUNK):
            try:
                self.slot.write(target + done, self._take(min(CHUNK, length - done)))
            except BusError:
                return False
        return True

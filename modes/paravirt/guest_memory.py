"""The guest's memory through the guest's own pointers, with the guest's own rights: what hypercalls copy from and to.

A pointer that is not canonical, lies in Xen's part of the address space, or is not mapped for the guest (writable, to
write) is EFAULT. Simplified: the copy sets no accessed or dirty bits.
"""

from __future__ import annotations

import struct

from hv.silicon.memory import Memory
from hv.silicon.x86_64.paging import ADDRESS, PRESENT, USER, WRITABLE
from modes.paravirt.abi import EFAULT, HYPERVISOR_END, Refused


def outside_xen(address: int) -> bool:
    """A canonical address that may be the guest's."""
    return address >> 47 == 0 or HYPERVISOR_END <= address < 1 << 64


class GuestMemory:
    """Addresses are linear ones. Which machine memory is behind them depends on the kind of guest."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def machine_address(self, linear: int, *, write: bool) -> int:
        """Where a byte is, as fetch() and store() take it. Raises Refused(EFAULT)."""
        raise NotImplementedError

    def fetch(self, address: int, size: int) -> bytes:
        """Bytes within one page of machine memory."""
        return self.memory.read(address, size)

    def store(self, address: int, data: bytes) -> None:
        self.memory.write(address, data)

    def read(self, linear: int, size: int) -> bytes:
        out = b""
        while len(out) < size:
            at = linear + len(out)
            chunk = min(size - len(out), 0x1000 - at % 0x1000)
            out += self.fetch(self.machine_address(at, write=False), chunk)
        return out

    def write(self, linear: int, data: bytes) -> None:
        """All of it or nothing."""
        places = []
        done = 0
        while done < len(data):
            at = linear + done
            chunk = min(len(data) - done, 0x1000 - at % 0x1000)
            places.append((self.machine_address(at, write=True), data[done : done + chunk]))
            done += chunk
        for address, part in places:
            self.store(address, part)

    def unpack(self, layout: struct.Struct, linear: int) -> tuple[int, ...]:
        return layout.unpack(self.read(linear, layout.size))

    def pack(self, layout: struct.Struct, linear: int, *values: int) -> None:
        self.write(linear, layout.pack(*values))


class PvMemory(GuestMemory):
    """Of a PV domain: the CPU walks the domain's own tables. `root` is the top one (a machine frame number)."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self.root = 0

    def machine_address(self, linear: int, *, write: bool) -> int:
        if not outside_xen(linear):
            raise Refused(EFAULT)
        needed = PRESENT | USER | (WRITABLE if write else 0)
        table = self.root << 12
        for shift in (39, 30, 21, 12):
            entry = self.memory.read_u64(table + (linear >> shift & 511) * 8)
            if entry & needed != needed:
                raise Refused(EFAULT)
            table = entry & ADDRESS
        return table | linear & 0xFFF

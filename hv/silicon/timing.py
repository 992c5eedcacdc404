"""What the silicon's own events take. The numbers come from a cost model (hv/costs); this file only names them.

All times are integers in millicycles (1/1000 of a CPU cycle), so that sums are exact on every machine.
"""

from __future__ import annotations

import msgspec

MILLI = 1000


class WireTimes(msgspec.Struct, frozen=True):
    """The world at the other end of a network card's wire, in millicycles."""

    latency: int  # from one station's line through the switch to the line of another
    turnaround: int  # the peer: from the arrival of a request to the departure of the answer


class Timing(msgspec.Struct, frozen=True):
    """Times in millicycles, rates in Hz."""

    tsc_hz: int  # rate of the cycle counter and of RDTSC
    apic_hz: int  # rate of the local APIC timer before its divider
    cpi: int  # one plain instruction
    port_io: int  # IN or OUT that reaches a chip
    cr_access: int  # MOV to or from CR0, CR2, CR3, CR4
    cr8_access: int
    invlpg: int
    iret: int
    syscall: int  # SYSCALL and the SYSRET that goes with it
    exception: int  # delivery of an exception or interrupt through the IDT
    walk: int  # one memory reference of a page walk
    walk_levels: int  # references of a native 4-level walk
    walk_nested: int  # references of a two-dimensional walk: (4+1)*(4+1)-1
    pause: int  # PAUSE, the hint that a loop waits
    rdtsc: int
    cpuid: int
    msr: int
    mmio: int  # an uncached access that reaches a chip
    card_read: int  # a read across PCI Express, by the CPU or by the card; a write does not wait
    vmexit: int  # #VMEXIT: guest to hypervisor
    vmentry: int  # VMRUN: hypervisor to guest


class DiskTimes(msgspec.Struct, frozen=True):
    """What a disk takes, in millicycles, whatever interface it has."""

    read: int  # from a command to its first data
    write: int  # from the last data to the completion, with the drive's write cache on
    flush: int  # what is in the write cache goes to the medium
    sector: int  # 512 bytes over the disk's cable
    reset: int  # from a reset to a drive that is ready

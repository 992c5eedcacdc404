"""What every guest of Xen's has, a PV domain as well as one that hardware virtualizes: event channels, time, vCPUs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from hv.silicon.memory import Memory
from hv.silicon.timing import MILLI, Timing
from hv.silicon.x86_64.cpu import Cpu
from modes.paravirt.events import TIME, Events
from modes.paravirt.grants import Grants
from modes.paravirt.guest_memory import GuestMemory
from modes.paravirt.state import VcpuState

VCPU_INFO_SIZE = 64
WALLCLOCK = 0xC00  # offset in shared_info
WALLCLOCK_SECONDS = 1_511_913_600  # 2017-11-29 00:00:00 UTC: when every machine of hv starts
NS = 1_000_000_000


class XenVcpu:
    """What hypercalls work on. `bill(name)` charges for a hypercall inside another, or for a further entry."""

    domain: XenDomain
    memory: GuestMemory
    s: VcpuState

    def __init__(self, index: int, cpu: Cpu) -> None:
        self.index, self.cpu = index, cpu
        self.entries = 0  # of lists, worked on in this exit
        self.bill: Callable[[str], None] = lambda name: None


class XenDomain:
    """`end(cause, report)` stops the machine; `now()` is virtual time; `kick(vcpu)`: an event waits for it."""

    features: int  # XENFEAT_ bits of the first word
    pirqs: range = range(0)  # physical interrupts that it may bind
    vcpus: Sequence[XenVcpu]
    grants: Grants

    def __init__(
        self, domid: int, memory: Memory, timing: Timing, now: Callable[[], int], kick: Callable[[int], None]
    ) -> None:
        self.domid, self.memory, self.timing, self.now = domid, memory, timing, now
        self.states: list[VcpuState] = []
        self.events = Events(memory, self.states, kick)
        self.console = self.store = 0  # mfns of the rings
        self.console_port = self.store_port = 0
        self.assists = 0  # VMASST bits
        self.end: Callable[[str, str], None] = lambda cause, report: None
        self.console_output: Callable[[bytes], None] = lambda data: None

    def add_state(self, index: int, s: VcpuState) -> None:
        """A vCPU's; its vcpu_info begins in shared_info."""
        self.states.append(s)
        s.info = self.events.shared + VCPU_INFO_SIZE * index
        self.memory.write(s.info + TIME, self.clock())

    def move_info(self, vcpu: XenVcpu, mfn: int, offset: int) -> None:
        """vcpu_info goes to a frame of the domain's, once and for ever. Raises Refused."""
        raise NotImplementedError

    # --- time -----------------------------------------------------------------------------------------------------

    def nanoseconds(self) -> int:
        """System time: since the machine was switched on."""
        return self.now() * NS // (self.timing.tsc_hz * MILLI)

    def when(self, nanoseconds: int) -> int:
        """The virtual time, in millicycles, at which system time reaches this."""
        return -(-nanoseconds * self.timing.tsc_hz * MILLI // NS)

    def clock(self) -> bytes:
        """struct vcpu_time_info. The counter never stops and never changes its rate, so one that is never updated."""
        multiplier, shift = clock_scale(self.timing.tsc_hz)
        return struct.pack("<IIQQIbB2x", 2, 0, 0, 0, multiplier, shift, 1)  # flag: TSC stable

    def write_wallclock(self) -> None:
        self.memory.write(self.events.shared + WALLCLOCK, struct.pack("<IIII", 2, WALLCLOCK_SECONDS, 0, 0))


def clock_scale(hz: int) -> tuple[int, int]:
    """(tsc_to_system_mul, tsc_shift), so that ns = (ticks << shift) * mul >> 32 (public/xen.h, vcpu_time_info)."""
    shift = 0
    while hz > 2 * NS:
        hz >>= 1
        shift -= 1
    while hz <= NS:
        hz <<= 1
        shift += 1
    return (NS << 32) // hz, shift

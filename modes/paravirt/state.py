"""What Xen remembers of a domain and of each of its vCPUs, as plain records."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from modes.paravirt.frames import FramesState
from modes.paravirt.grants import GrantsState


class Trap(NamedTuple):
    """An entry of the trap table (struct trap_info)."""

    flags: int
    selector: int
    address: int


class Callback(NamedTuple):
    """An entry point of the guest's kernel. `mask`: it begins with events masked."""

    address: int = 0
    mask: bool = False


class Begin(NamedTuple):
    """The registers that a vCPU starts with."""

    registers: list[int]
    rip: int
    rflags: int
    cs: int
    ss: int
    fs_base: int
    gs_base: int


class VcpuState(msgspec.Struct):
    """Of any vCPU of a guest of Xen's: its part of event channels and time."""

    up: bool = False
    info: int = 0  # machine address of its vcpu_info
    timer: int | None = None  # when VIRQ_TIMER comes, in ns of system time
    period: int = 0  # ns; 0: no periodic timer
    next_period: int = 0
    polled: frozenset[int] = frozenset()  # blocked until one of these ports is pending
    poll_until: int | None = None  # ns of system time
    state_since: int = 0  # ns: when it came up


class PvVcpuState(VcpuState):
    """Of one that runs deprivileged."""

    initialised: bool = False
    begin: Begin | None = None  # how to start, when it comes up for the first time
    kernel_mode: bool = True
    root: int = 0  # mfn of the kernel's top-level table
    user_root: int = 0  # mfn of user programs', or 0
    kernel_sp: int = 0
    traps: dict[int, Trap] = msgspec.field(default_factory=dict)
    event: Callback = Callback()
    failsafe: Callback = Callback()
    syscall: Callback = Callback()
    gdt: list[int] = msgspec.field(default_factory=list)  # machine frames
    gdt_entries: int = 0
    other_gs: int = 0  # the GS base of the mode that does not run: user programs' while the kernel does
    iopl: int = 0
    task_switched: bool = False  # CR0.TS
    debug: list[int] = msgspec.field(default_factory=lambda: [0] * 8)


class Channel(NamedTuple):
    """An event channel: one end. `kind` is the ABI's EVTCHNSTAT number."""

    kind: int = 0
    vcpu: int = 0
    remote_domid: int = 0
    remote_port: int = 0
    virq: int = 0  # or the number of the pirq


class DomainState(msgspec.Struct):
    frames: FramesState
    vcpus: list[PvVcpuState]
    channels: dict[int, Channel]
    shared: int  # machine address of shared_info
    console: int  # mfn of its ring
    store: int
    console_port: int
    store_port: int
    grants: GrantsState
    assists: int
    free: list[int]  # machine frames that the domain has given back, and may have again

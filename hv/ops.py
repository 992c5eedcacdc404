"""The operations: named units of guest work, `column.name`. The guest kernel runs them as `bench NAME N SEED`."""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec

from hv.errors import HvError

BOOT = "boot.boot"  # its window opens at reset


class Op(msgspec.Struct, frozen=True):
    """`headline`: the one that stands for its column in the table's grid. `once`: one cold run, never repeated.
    `burst`: packets or blocks that are handed over together; each is an iteration, and --iterations counts bursts.
    """

    id: str
    meaning: str
    headline: bool = False
    once: bool = False
    burst: int = 1

    @property
    def column(self) -> str:
        return self.id.partition(".")[0]


OPS: dict[str, Op] = {
    op.id: op
    for op in (
        Op("cpu.compute", "integer arithmetic on a small buffer"),
        Op("cpu.syscall", "a system call that does nothing", headline=True),
        Op("cpu.page_fault", "user's first touch of a page"),
        Op("cpu.protection_fault", "user's write to a read-only page"),
        Op("cpu.mmap_unmap", "map, touch and unmap 64 pages"),
        Op("cpu.context_switch", "a switch from one process to another"),
        Op("cpu.fork_exit", "fork, exit and wait"),
        Op("cpu.cpuid", "CPUID"),
        Op("cpu.irq_mask", "CLI and STI"),
        Op("cpu.in", "IN from port 0x80"),
        Op("cpu.cr8wr", "a write to CR8"),
        Op("cpu.callret", "a call and a return"),
        Op("cpu.divzero", "user's division by zero, handled by the kernel"),
        Op("cpu.ptemod", "a page-table entry written"),
        Op("net.tx", "a UDP datagram sent"),
        Op("net.rx", "a UDP datagram received"),
        Op("net.rr", "a UDP datagram sent and its echo received", headline=True),
        Op("net.tx_burst", "a datagram of 32 that are sent with one doorbell", burst=32),
        Op("local.read4k", "4 KiB read from the local disk", headline=True),
        Op("local.write4k", "4 KiB written to the local disk"),
        Op("local.read_qd32", "4 KiB read, of 32 that are asked for together", burst=32),
        Op("local.flush", "the disk's cache written to its medium"),
        Op("remote.read4k", "4 KiB read from the remote disk", headline=True),
        Op("remote.write4k", "4 KiB written to the remote disk"),
        Op("remote.read_qd32", "4 KiB read, of 32 that are asked for together", burst=32),
        Op("remote.flush", "the disk's cache written to its medium"),
        Op("interrupts.timer_tick", "arm the timer, take its interrupt, end it", headline=True),
        Op("interrupts.device_irq", "from one interrupt of the network card to the next"),
        Op("interrupts.ipi", "an interrupt to another CPU, and its answer"),
        Op("interrupts.eoi", "end of interrupt, with none in service"),
        Op("interrupts.hlt_wake", "arm the timer, halt, be woken"),
        Op(BOOT, "from reset to the kernel's first process", headline=True, once=True),
        Op("boot.pci_scan", "find the PCI functions", once=True),
        Op("boot.timer_calibration", "measure the clocks against the 8254", once=True),
    )
}


def find_op(name: str) -> Op:
    """The operation with this id."""
    if name not in OPS:
        raise HvError(f"no operation is called {name!r}; hv ops lists them")
    return OPS[name]


def select(patterns: str | None) -> list[Op]:
    """The operations that match a comma-separated list of globs, in the table's order; None: the headlines."""
    if patterns is None:
        return [op for op in OPS.values() if op.headline]
    chosen = set()
    for pattern in patterns.split(","):
        matched = {id for id in OPS if fnmatchcase(id, pattern.strip())}
        if not matched:
            raise HvError(f"no operation matches {pattern.strip()!r}; hv ops lists them")
        chosen |= matched
    return [op for op in OPS.values() if op.id in chosen]

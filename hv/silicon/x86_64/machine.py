"""The x86-64 machine without a hypervisor: CPUs, RAM, the physical board, and the loop that lets time pass.

`run()` interleaves the CPUs' slices by their virtual time and lets the chips act when they are due. An exit calls the
hypervisor's handler (`Cpu.on_exit`). The end of a slice is nobody's business and leaves no trace in any count.

Time is divided into quanta. All CPUs that run go through one quantum, in the order of their numbers, before any begins
the next. So a CPU may see what another one writes up to a quantum too early or too late. After a message between CPUs
quanta are short for a while, because then they wait for each other. Where a run is paused makes no difference.

The physical board (bare metal only): a local APIC a CPU, an I/O APIC, a 16550 on its pin 4, the power-off register of
the PIIX4 (ACPI PM1a control) and QEMU's pvpanic port. Simplified: RAM begins at 0 and has a hole from 3 to 4 GiB.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgspec

from hv.silicon.bus import PortBus
from hv.silicon.memory import Memory, Region, anonymous
from hv.silicon.probe import Probe, ProbeState
from hv.silicon.timing import MILLI, Timing
from hv.silicon.uart16550 import Uart
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.apic_bus import ApicBus
from hv.silicon.x86_64.cpu import NEVER, Cpu, CpuRecord, Exit, Shutdown
from hv.silicon.x86_64.engine import VOID_BASE, Engine, native_hooks
from hv.silicon.x86_64.ioapic import Ioapic
from hv.silicon.x86_64.lapic import TPR, Lapic
from hv.silicon.x86_64.startup import startup_state, take_startup
from hv.silicon.x86_64.svm import Vmcb

GIB = 1 << 30
HOLE, HOLE_END = 3 * GIB, 4 * GIB  # chips live here
IOAPIC_BASE, LAPIC_BASE = 0xFEC0_0000, 0xFEE0_0000
COM1, COM1_PIN, PANIC_PORT, POWER_PORT = 0x3F8, 4, 0x505, 0x604
SLEEP_ENABLE = 1 << 13  # PM1a control, SLP_EN
SLICE = 100_000_000 * MILLI  # longest time between two looks at the world outside
QUANTUM, SHORT_QUANTUM = 20_000 * MILLI, 200 * MILLI  # the first is a multiple of the second
CONVERSATION = 20_000 * MILLI  # so long after a message quanta are short
WATCHDOG = 400_000_000  # so many instructions with interrupts off, whenever one looks, and a guest is dead


class Idle(msgspec.Struct):
    """All CPUs wait, and nothing in the machine will ever wake them: only the outside world can."""


class Paused(msgspec.Struct):
    """The budget is used up, or somebody asked for a pause."""


class Ended(msgspec.Struct):
    """The machine has stopped for good. `cause` is "power-off", "panic" or "crash"."""

    cause: str
    report: str


Outcome = Idle | Paused | Ended


class PowerButton:
    """PM1a control: setting SLP_EN ends the machine."""

    def __init__(self, end: Callable[[str, str], None]) -> None:
        self.end = end

    def port_read(self, offset: int, size: int) -> int:
        return 0

    def port_write(self, offset: int, size: int, value: int) -> None:
        if value & SLEEP_ENABLE:
            self.end("power-off", "the guest powered the machine off")


class PanicPort:
    """pvpanic: bit 0 says that the guest's kernel has panicked."""

    def __init__(self, end: Callable[[str, str], None]) -> None:
        self.end = end

    def port_read(self, offset: int, size: int) -> int:
        return 1

    def port_write(self, offset: int, size: int, value: int) -> None:
        if value & 1:
            self.end("panic", "the guest's kernel panicked")


class Machine:
    """RAM at `ram_base` for one guest, and CPUs. On metal the board is the machine's own."""

    def __init__(
        self, timing: Timing, ram_size: int, *, ram_base: int = 0, cpus: int = 1, portable: bool = False
    ) -> None:
        self.timing = timing
        self.memory = Memory()
        self.engine = Engine(self.memory)
        self.ram = anonymous(ram_size)
        self.ram_base, self.ram_size = ram_base, ram_size
        self.memory.add(Region("RAM", ram_base, min(ram_size, HOLE), self.ram, 0))
        if ram_size > HOLE:
            self.memory.add(Region("RAM above 4 GiB", ram_base + HOLE_END, ram_size - HOLE, self.ram, HOLE))
        self.probe = Probe()
        self.ports = PortBus()
        self.engine.set_ports(self.ports.read, self.ports.write)
        self.ended: Ended | None = None
        self.pause_requested = False
        root = self._identity_tables()
        kind: type[Cpu] = Cpu
        if portable:
            from hv.silicon.x86_64.portable import PortableCpu, PortableHooks

            kind = PortableCpu
            self.hooks = PortableHooks(self.engine)
        else:
            native_hooks(self.engine)
        self.portable = portable
        self.cpus = [kind(self.engine, timing, 0, root, cpus)]
        for index in range(1, cpus):
            self.cpus[-1].park()
            self.cpus.append(kind(self.engine, timing, index, root, cpus))
        self.cpus[-1].park()
        self._unpark(self.cpus[0])
        self.lapics: list[Lapic] = []
        self.bus = ApicBus(self.lapics)
        self.ioapic: Ioapic | None = None
        self._uart: Uart | None = None
        self._conversation_until = 0

    # --- building ---------------------------------------------------------------------------------------------

    def _identity_tables(self) -> int:
        """Second-level tables for a guest on metal: RAM where it is, the chips, and the void everywhere else."""
        engine, memory = self.engine, self.memory
        pml4, void_pdpt, pdpt = engine.alloc(), engine.alloc(), engine.alloc()
        for i in range(512):
            memory.write_u64(pml4 + 8 * i, void_pdpt | 7)
            memory.write_u64(void_pdpt + 8 * i, VOID_BASE | 0x87)
            memory.write_u64(pdpt + 8 * i, VOID_BASE | 0x87)
        memory.write_u64(pml4, pdpt | 7)
        for region in memory.regions[1:]:
            first = region.base - self.ram_base
            for gib in range(first // GIB, -(-(first + region.size) // GIB)):
                memory.write_u64(pdpt + 8 * gib, self._gib_table(gib * GIB, region, first) | 7)
        chips = engine.alloc()
        for i in range(512):
            memory.write_u64(chips + 8 * i, VOID_BASE + (i << 21) | 0x87)
        memory.write_u64(pdpt + 8 * 3, chips | 7)
        for base in (IOAPIC_BASE, LAPIC_BASE):
            table = engine.alloc()
            for i in range(512):
                memory.write_u64(table + 8 * i, VOID_BASE + (i << 12) | 7)
            memory.write_u64(table, base | 7)
            memory.write_u64(chips + 8 * (base >> 21 & 511), table | 7)
        return pml4

    def _gib_table(self, start: int, region: Region, first: int) -> int:
        """A page directory for the GiB at guest-physical `start`, with what `region` has of it."""
        engine, memory = self.engine, self.memory
        directory = engine.alloc()
        for i in range(512):
            at = start + (i << 21)
            inside = min(first + region.size - at, 1 << 21)
            if at < first or inside <= 0:
                memory.write_u64(directory + 8 * i, VOID_BASE + (i << 21) | 0x87)
            elif inside == 1 << 21:
                memory.write_u64(directory + 8 * i, self.ram_base + at | 0x87)
            else:
                table = engine.alloc()
                for page in range(512):
                    ram = page << 12 < inside
                    base = self.ram_base + at if ram else VOID_BASE
                    memory.write_u64(table + 8 * page, base + (page << 12) | 7)
                memory.write_u64(directory + 8 * i, table | 7)
        return directory

    def build_board(self, sink: Callable[[int], None]) -> Uart:
        """The board of a machine without hypervisor. Returns the serial port, whose output goes to `sink`."""
        tick = self.timing.tsc_hz * MILLI // self.timing.apic_hz
        self.ioapic = ioapic = Ioapic(self._send)
        for cpu in self.cpus:
            self.lapics.append(
                Lapic(cpu.index, tick, lambda: self.now, self._send_ipi, self._changed, ioapic.end_of_interrupt)
            )
        self.engine.map_chip(LAPIC_BASE, self._lapic_read, self._lapic_write)
        self.engine.map_chip(IOAPIC_BASE, self._ioapic_read, self._ioapic_write)
        uart = Uart(lambda level: ioapic.pin(COM1_PIN, level), sink)
        self._uart = uart
        self.ports.add(COM1, 8, uart)
        self.ports.add(POWER_PORT, 2, PowerButton(self.end))
        self.ports.add(PANIC_PORT, 1, PanicPort(self.end))
        return uart

    def start_on_metal(self, cpu: Cpu, prepare: Callable[[Vmcb], None]) -> None:
        """Give a CPU to a guest that owns it. `prepare` writes the state to start in."""
        cpu.leave()
        vmcb = self._metal_vmcb(cpu)
        prepare(vmcb)
        cpu.load(vmcb, on_metal=True)

    def _metal_vmcb(self, cpu: Cpu) -> Vmcb:
        if cpu.vmcb is not None:
            return cpu.vmcb
        region, at = self.memory.find(self.engine.alloc(), 0x1000)
        return Vmcb.from_buffer(region.data, at)

    # --- the chips' wires -------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """A chip's state may have made an interrupt deliverable or moved a deadline: look again at once."""
        self._loaded.stop_soon()

    def _send_ipi(self, icr: int) -> None:
        """Carry the running CPU's interrupt command."""
        if self.bus.send(icr, self.now, sender=self._loaded.index):
            self._converse()

    def _send(self, entry: int) -> None:
        """Carry a message of the I/O APIC."""
        if self.bus.send(entry, self.now, here=self._loaded.index):
            self._converse()

    def _converse(self) -> None:
        """Somebody else has to hear of something: the running CPU's slice ends, and quanta are short for a while."""
        self._conversation_until = self.now + CONVERSATION
        self._changed()

    def kick(self, target: Cpu) -> None:
        """A physical interrupt from the hypervisor on the running CPU to the one on another, which gets it in time."""
        target.ipis.append(self.now)
        self._converse()

    def _mmio(self) -> None:
        self._loaded.assists["mmio"] += 1
        self._loaded.charge(self.timing.mmio)
        self._loaded.keep_deadline()

    def _lapic_read(self, offset: int, size: int) -> int:
        self._mmio()
        lapic = self.lapics[self._loaded.index]
        lapic.set_priority_class(self._loaded.tpr)
        return lapic.read(offset)

    def _lapic_write(self, offset: int, size: int, value: int) -> None:
        self._mmio()
        lapic = self.lapics[self._loaded.index]
        lapic.set_priority_class(self._loaded.tpr)
        lapic.write(offset, value)
        if offset == TPR:
            self._loaded.state.v_tpr = value >> 4 & 0xF

    def _ioapic_read(self, offset: int, size: int) -> int:
        self._mmio()
        assert self.ioapic is not None
        return self.ioapic.read(offset)

    def _ioapic_write(self, offset: int, size: int, value: int) -> None:
        self._mmio()
        assert self.ioapic is not None
        self.ioapic.write(offset, value)

    def end(self, cause: str, report: str) -> None:
        """Stop for good; the first cause counts."""
        if self.ended is None:
            self.ended = Ended(cause, report)
        self._loaded.stop_soon()

    # --- running ----------------------------------------------------------------------------------------------

    def _load(self, cpu: Cpu) -> None:
        if cpu is not self._loaded:
            self._loaded.park()
            self._unpark(cpu)

    def _unpark(self, cpu: Cpu) -> None:
        """Put a CPU's guest into the engine, which holds nobody's."""
        cpu.unpark()
        self._loaded = cpu
        self.engine.on_exit = cpu.take_exit
        if self.portable:
            self.hooks.cpu = cpu
            cpu.hooks = self.hooks  # type: ignore[attr-defined]

    @property
    def running(self) -> Cpu:
        """The CPU whose guest is in the engine."""
        return self._loaded

    @property
    def now(self) -> int:
        """Virtual time, in millicycles, of the CPU that runs."""
        return self._loaded.now

    def run(self, budget: int = NEVER) -> Outcome:
        """Let the machine run, at most until `budget` (virtual time, in millicycles, of the slowest CPU)."""
        while self.ended is None:
            halfway = self._loaded.m.stepping  # an instruction that the silicon lets through between two exits
            cpu = self._next_cpu() if len(self.cpus) > 1 and not halfway else self._loaded
            if cpu is None or (cpu.halted and self._next_event(cpu) == NEVER):
                for waiting in self.cpus:
                    waiting.irq_off_since = None  # who waits does not spin
                return Idle()
            if cpu is not self._loaded:
                self._load(cpu)
            now = cpu.now
            if (now >= budget or self.pause_requested) and not halfway:
                self.pause_requested = False
                return Paused()
            self._run_one(cpu, now, budget)
        return self.ended

    def _next_cpu(self) -> Cpu | None:
        """The CPU whose quantum ends first; of several, the one with the lowest number."""
        best: Cpu | None = None
        best_end = NEVER
        for cpu in self.cpus:
            when = self._next_instant(cpu)
            end = self._quantum_end(when) if when < NEVER else NEVER
            if end < best_end:
                best, best_end = cpu, end
        return best

    def _next_instant(self, cpu: Cpu) -> int:
        """When a CPU next does something: now, if it runs."""
        return self._next_event(cpu) if cpu.halted else self._time(cpu)

    def _quantum(self, when: int) -> int:
        return SHORT_QUANTUM if when < self._conversation_until else QUANTUM

    def _quantum_end(self, when: int) -> int:
        quantum = self._quantum(when)
        return when - when % quantum + quantum

    def _turn_end(self, cpu: Cpu, now: int) -> int:
        """When another CPU's turn comes."""
        first = min((self._next_instant(other) for other in self.cpus if other is not cpu), default=NEVER)
        if first == NEVER:
            return NEVER
        return max(self._quantum_end(now), first - first % self._quantum(first))

    def _time(self, cpu: Cpu) -> int:
        return cpu.now if cpu is self._loaded else cpu.parked_now

    def _next_event(self, cpu: Cpu) -> int:
        """When something will happen to this CPU by itself."""
        now = self._time(cpu)
        if not self._has_own_apic(cpu):
            if cpu.host_interrupt:
                return now
            when = NEVER if cpu.host_timer is None else cpu.host_timer
            if cpu.ipis:
                when = min(when, *cpu.ipis)
            return NEVER if when == NEVER else max(when, now)
        lapic = self.lapics[cpu.index]
        mail = self.bus.next(cpu.index)
        when = NEVER if mail is None else mail
        if not cpu.halted or cpu.interruptible:  # HLT with interrupts off sleeps on when one comes
            if cpu.halted and lapic.pending() is not None:
                return now
            if lapic.state.expiry is not None:
                when = min(when, lapic.state.expiry)
        return NEVER if when == NEVER else max(when, now)

    def _has_own_apic(self, cpu: Cpu) -> bool:
        """On metal, and there is a board. Otherwise only the hypervisor is ever interrupted."""
        return cpu.on_metal and bool(self.lapics)

    def _run_one(self, cpu: Cpu, now: int, budget: int) -> None:
        """One slice of one CPU, with the interrupts that are due before it."""
        if cpu.halted:
            when = self._next_event(cpu)
            if when > now:
                cpu.charge(when - now)  # the CPU slept
                now = when
        if self._has_own_apic(cpu):
            self._interrupt_on_metal(cpu)
        elif (
            cpu.host_interrupt
            or (cpu.host_timer is not None and cpu.host_timer <= now)
            or (cpu.ipis and min(cpu.ipis) <= now)
        ):
            self._interrupt_hypervisor(cpu, now)
            return
        if cpu.halted or self.ended is not None:
            return
        deadline = min(budget, self._next_event(cpu), now + SLICE)
        if len(self.cpus) > 1:
            # An instruction that is halfway belongs to the turn that it began in.
            deadline = now if cpu.m.stepping else min(deadline, self._turn_end(cpu, now))
        cpu.set_deadline(deadline)
        try:
            cpu.run_slice()
            if cpu.m.retired >= cpu.watch_at:
                self._watch(cpu)
        except Shutdown as crash:
            self.end("crash", str(crash))
            return
        m = cpu.m
        if m.mark_hit:
            self.probe.hit(m.mark_hit, m.retired, cpu.now, cpu.assist_counts())
            m.mark_pass = 1

    def _interrupt_hypervisor(self, cpu: Cpu, now: int) -> None:
        """A physical interrupt for the hypervisor: its timer, or a line from outside."""
        if cpu.host_timer is not None and cpu.host_timer <= now:
            cpu.host_timer = None
        if cpu.ipis:
            cpu.ipis = [sent for sent in cpu.ipis if sent > now]
        cpu.host_interrupt = False
        if cpu.halted:
            cpu.on_wake()
        else:
            cpu.charge(self.timing.vmexit + self.timing.vmentry)
            cpu.on_exit(Exit(svm.INTR, 0, 0))

    def _interrupt_on_metal(self, cpu: Cpu) -> None:
        """What has come for the local APIC, its timer, and the interrupt that it has for the CPU."""
        lapic = self.lapics[cpu.index]
        self.bus.receive(cpu.index, cpu.now)
        if lapic.state.init or lapic.state.startup is not None or lapic.state.nmi:
            self._signal_on_metal(cpu, lapic)
        if cpu.waits:
            return
        cpu.assists["timer"] += lapic.advance(cpu.now)
        lapic.set_priority_class(cpu.tpr)
        if lapic.pending() is None:
            cpu.m.watch_tpr = bool(lapic.state.irr)
            return
        cpu.m.watch_tpr = 0
        if cpu.interruptible and not cpu.event_pending:
            cpu.halted = False
            cpu.inject(svm.EVENT_INTR | lapic.acknowledge())
        elif not cpu.halted:
            cpu.open_window()

    def _signal_on_metal(self, cpu: Cpu, lapic: Lapic) -> None:
        """INIT, a start-up message, an NMI. The NMI waits for the end of the one before it."""

        def start(page: int) -> None:
            vmcb = self._metal_vmcb(cpu)
            startup_state(vmcb, page)
            cpu.load(vmcb, on_metal=True)
            cpu.start_over()

        try:
            take_startup(cpu, lapic, start)
        except Shutdown as reset:
            self.end("crash", str(reset))
        if cpu.waits:
            return
        cpu.m.watch_iret = lapic.state.nmi and cpu.nmi_masked
        if lapic.state.nmi and not cpu.nmi_masked and not cpu.event_pending:
            lapic.state.nmi = cpu.halted = False
            cpu.inject_nmi()

    def _watch(self, cpu: Cpu) -> None:
        """End a guest that spins with interrupts off for ever. Looks once in a while only."""
        retired = cpu.m.retired
        cpu.watch_at = retired + WATCHDOG // 16
        if cpu.interruptible or cpu.halted:
            cpu.irq_off_since = None
        elif cpu.irq_off_since is None:
            cpu.irq_off_since = retired
        elif retired - cpu.irq_off_since > WATCHDOG:
            raise Shutdown(f"CPU {cpu.index} ran {WATCHDOG} instructions with interrupts off, at RIP {cpu.rip:#x}")

    def watch_marks(self, begin: int, end: int) -> None:
        """Let the probe look at two addresses."""
        self._loaded.m.mark[0], self._loaded.m.mark[1] = begin, end

    # --- snapshots --------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The whole machine as plain records. Restoring them and running on is as if nothing had happened."""
        loaded = self._loaded
        for cpu in self.cpus:
            self._load(cpu)
            cpu.park()
        saved = Snapshot(
            memory=self.memory.save(),
            cpus=[cpu.save() for cpu in self.cpus],
            chips=[copy.deepcopy(chip.state) for chip in self._chips()],
            probe=copy.deepcopy(self.probe.state),
            ended=self.ended,
            loaded=loaded.index,
            conversation_until=self._conversation_until,
        )
        self._unpark(loaded)
        return saved

    def restore(self, saved: Snapshot) -> None:
        """Go back to a snapshot, also one of another machine that was built the same way."""
        self._loaded.leave()
        self.memory.load(saved.memory)
        self.engine.forget_code()
        for cpu, record in zip(self.cpus, saved.cpus, strict=True):
            cpu.load_saved(record)
        for chip, state in zip(self._chips(), saved.chips, strict=True):
            chip.state = copy.deepcopy(state)
        self.probe.state = copy.deepcopy(saved.probe)
        self.ended, self._conversation_until = saved.ended, saved.conversation_until
        self._unpark(self.cpus[saved.loaded])

    def _chips(self) -> list[Any]:
        chips: list[Any] = [*self.lapics, self.bus]
        return chips + [chip for chip in (self.ioapic, self._uart) if chip is not None]

    def close(self) -> None:
        """Give the engine's memory back."""
        self.engine.close()


class Snapshot(msgspec.Struct):
    """A machine's state: RAM by region and page, CPUs, chips. Only the same build of Unicorn can restore it."""

    memory: list[dict[int, bytes]]
    cpus: list[CpuRecord]
    chips: list[msgspec.Struct]
    probe: ProbeState
    ended: Ended | None
    loaded: int  # the CPU whose guest was in the engine
    conversation_until: int

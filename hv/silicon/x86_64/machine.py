"""The x86-64 machine without a hypervisor: CPUs, RAM, the physical board, and the loop that lets time pass.

`run()` interleaves the CPUs' slices by their virtual time and lets the chips act when they are due. An exit calls the
hypervisor's handler (`Cpu.on_exit`). The end of a slice is nobody's business and leaves no trace in any count.

Time is divided into quanta. All CPUs that run go through one quantum, in the order of their numbers, before any begins
the next. So a CPU may see what another one writes up to a quantum too early or too late. After a message between CPUs
quanta are short for a while, because then they wait for each other. Where a run is paused makes no difference.

The physical board (pc.py) is there on bare metal only; under a hypervisor there may be a root complex with cards that
it gives to its guest (root_complex.py). Simplified: RAM begins at 0 and has a hole from 3 to 4 GiB.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import msgspec

from hv.silicon.bus import PortBus
from hv.silicon.memory import BusError, Memory, Region, anonymous
from hv.silicon.posted import Descriptor
from hv.silicon.probe import Probe, ProbeState
from hv.silicon.timing import MILLI, Timing
from hv.silicon.x86_64 import svm
from hv.silicon.x86_64.cpu import NEVER, Cpu, CpuRecord, Exit, Shutdown
from hv.silicon.x86_64.engine import BUS_BASE, Engine, native_hooks
from hv.silicon.x86_64.identity import GIB, identity_tables
from hv.silicon.x86_64.lapic import TPR, Lapic
from hv.silicon.x86_64.pc import IOAPIC_BASE, LAPIC_BASE, Pc
from hv.silicon.x86_64.root_complex import RootComplex
from hv.silicon.x86_64.startup import startup_state, take_startup
from hv.silicon.x86_64.svm import Vmcb

HOLE, HOLE_END = 3 * GIB, 4 * GIB  # chips live here
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


class Companion(Protocol):
    """Who acts by himself beside the guest's CPUs, and does not interrupt them by that alone."""

    deadline: int  # virtual time in millicycles; NEVER: nothing to do

    def advance(self, now: int) -> None:
        """Do what is due by now."""


class MetalBoard(Pc):
    """The board as hardware: a change makes the machine look again at once."""

    def __init__(self, machine: Machine, sink: Callable[[int], None]) -> None:
        self.machine = machine
        super().__init__(machine.timing, len(machine.cpus), machine, lambda: machine.now, sink, machine.end)

    def changed(self) -> None:
        self.machine.stop_soon()

    def reschedule(self, number: int) -> None:
        """The slice goes on until the deadline; another CPU's ends, since devices act in the first one's time."""
        self._note_deadline(number)
        if self.machine.running.index == 0:
            self.machine.look_by(self.deadline)
        else:
            self.changed()

    def here(self) -> int:
        return self.machine.running.index

    def sent(self, targets: list[int]) -> None:
        if targets:
            self.machine.converse()


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
        self._low_size = min(ram_size, HOLE)  # of what is below the hole
        self.memory.add(Region("RAM", ram_base, self._low_size, self.ram, 0))
        if ram_size > HOLE:
            self.memory.add(Region("RAM above 4 GiB", ram_base + HOLE_END, ram_size - HOLE, self.ram, HOLE))
        self.probe = Probe()
        self.ports = PortBus()
        self.engine.set_ports(self.ports.read, self.ports.write)
        self.dma_written: Callable[[int, int], None] = lambda address, size: None  # who wants to know of a DMA write
        self._marks = 0, 0
        self.place_of_mark: Callable[[int], int] = lambda mark: mark
        self.ended: Ended | None = None
        self.pause_requested = False
        root = identity_tables(self.engine, ram_base)
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
        for cpu in self.cpus:
            cpu.send = self.interrupt
        self._unpark(self.cpus[0])
        self.board: MetalBoard | None = None
        self.cards: RootComplex | None = None
        self.beside: list[Companion] = []  # the cards, and other CPUs of the host: they act in the first CPU's time
        self._conversation_until = 0
        self._runs = False

    # --- building ---------------------------------------------------------------------------------------------

    def build_board(self, sink: Callable[[int], None]) -> MetalBoard:
        """The board of a machine without hypervisor. What is sent on its serial port goes to `sink`."""
        self.board = board = MetalBoard(self, sink)
        for cpu in self.cpus:
            region, at = self.memory.find(self.engine.alloc(), 0x1000)
            cpu.load(Vmcb.from_buffer(region.data, at), on_metal=True)
        self.ports = board.ports
        self.engine.set_ports(board.ports.read, board.ports.write)
        chips = (LAPIC_BASE, 0x1000, LAPIC_BASE), (IOAPIC_BASE, 0x1000, IOAPIC_BASE), (BUS_BASE, GIB, HOLE)
        for place, size, address in chips:  # where the CPU finds it, and which bus address that is
            self.engine.map_chip(place, size, partial(self._read_chip, address), partial(self._write_chip, address))
        return board

    def build_root_complex(self) -> RootComplex:
        """The cards of a machine with a hypervisor; it has them all to itself at first."""
        if self.cards is None:
            self.cards = RootComplex(self)
            self.beside.append(self.cards)
            self.engine.map_chip(BUS_BASE, GIB, self._read_card, self._write_card)
        return self.cards

    def start_on_metal(self, cpu: Cpu, prepare: Callable[[Vmcb], None]) -> None:
        """Give a CPU to a guest that owns it. `prepare` writes the state to start in."""
        cpu.leave()
        prepare(cpu.vmcb)
        cpu.halted = cpu.waits = False

    # --- DMA --------------------------------------------------------------------------------------------------

    def ram_ranges(self) -> list[tuple[int, int]]:
        """Where the guest has RAM: bus address and size."""
        high = [(HOLE_END, self.ram_size - HOLE)] if self.ram_size > HOLE else []
        return [(0, self._low_size), *high]

    def is_ram(self, address: int, size: int) -> bool:
        """Is all of this bus address range the guest's RAM?"""
        low = self._low_size
        return 0 <= address <= low - size or HOLE_END <= address <= HOLE_END + self.ram_size - low - size

    def dma_read(self, address: int, size: int) -> bytes:
        """What a device reads at a bus address. Raises BusError where there is no RAM of the guest."""
        if not self.is_ram(address, size):
            raise BusError(f"no RAM at bus address {address:#x}")
        return self.memory.read(self.ram_base + address, size)

    def dma_write(self, address: int, data: bytes) -> None:
        """What a device writes. Raises BusError, and writes nothing, where part of it is no RAM of the guest."""
        if not self.is_ram(address, len(data)):
            raise BusError(f"no RAM at bus address {address:#x}")
        self.memory.write(self.ram_base + address, data)
        self.dma_written(address, len(data))

    # --- the metal board's registers --------------------------------------------------------------------------

    def stop_soon(self) -> None:
        """A chip's state may have made an interrupt deliverable or moved a deadline: look again at once."""
        self._loaded.stop_soon()

    def converse(self) -> None:
        """Another CPU has to hear of something: the running one's slice ends, and quanta are short for a while."""
        self._conversation_until = self.now + CONVERSATION
        self.stop_soon()

    def kick(self, target: Cpu) -> None:
        """A physical interrupt from the hypervisor on the running CPU to the one on another, which gets it in time."""
        target.ipis.append(self.now)
        self.converse()

    def post(self, descriptor: Descriptor, vector: int, urgent: bool = False) -> None:
        """Post an interrupt. The microcode takes it between two instructions if it is for the CPU that runs now."""
        if self.engine.post(descriptor, vector, urgent):
            self.interrupt(*descriptor.notification)

    def interrupt(self, destination: int, vector: int) -> None:
        """A physical interrupt for the CPU with this number, sent now. One that posts stays in its guest."""
        if destination < len(self.cpus):
            target = self.cpus[destination]
            target.vectors.append((self.now, vector))
            if target is self._loaded:
                self.stop_soon()
            else:
                self.converse()

    def _touch(self, cost: int) -> MetalBoard:
        """The CPU that runs touches a register in memory."""
        board, cpu = self.board, self._loaded
        assert board is not None
        cpu.assists["mmio"] += 1
        self.engine.pass_time(cost)
        board.lapics[cpu.index].set_priority_class(cpu.tpr)
        return board

    def _read_chip(self, base: int, offset: int, size: int) -> int:
        cost = self.timing.card_read if base == HOLE else self.timing.mmio
        return self._touch(cost).mmio_read(self._loaded.index, base + offset, size)

    def _write_chip(self, base: int, offset: int, size: int, value: int) -> None:
        self._touch(self.timing.mmio).mmio_write(self._loaded.index, base + offset, size, value)
        if base + offset == LAPIC_BASE + TPR:
            self._loaded.state.v_tpr = value >> 4 & 0xF

    def _touch_card(self, cost: int) -> RootComplex:
        """The CPU that runs touches a register of a card that its guest has been given."""
        cards, cpu = self.cards, self._loaded
        assert cards is not None
        cpu.assists["mmio"] += 1
        self.engine.pass_time(cost)
        return cards

    def _read_card(self, offset: int, size: int) -> int:
        return self._touch_card(self.timing.card_read).mmio.read(HOLE + offset, size)

    def _write_card(self, offset: int, size: int, value: int) -> None:
        self._touch_card(self.timing.mmio).mmio.write(HOLE + offset, size, value)

    def look_by(self, when: int) -> None:
        """Something will happen by itself at a time that may be earlier than anything so far."""
        cpu = self._loaded
        if when < cpu.m.deadline:
            cpu.set_deadline(when)

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
        self.engine.on_exit, self.engine.on_apic_write = cpu.take_exit, cpu.apic_written
        if self.portable:
            self.hooks.cpu = cpu
            cpu.hooks = self.hooks  # type: ignore[attr-defined]

    @property
    def running(self) -> Cpu:
        """The CPU whose guest is in the engine."""
        return self._loaded

    @property
    def now(self) -> int:
        """Virtual time, in millicycles, of the CPU that runs; between two runs, of the one that has come furthest."""
        if self._runs or len(self.cpus) == 1:
            return self._loaded.now
        return max(self._time(cpu) for cpu in self.cpus)

    def run(self, budget: int = NEVER) -> Outcome:
        """Let the machine run, at most until `budget` (virtual time, in millicycles, of the slowest CPU)."""
        self._runs = True
        try:
            return self._run(budget)
        finally:
            self._runs = False

    def _run(self, budget: int) -> Outcome:
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

    def sleep(self, until: int) -> None:
        """All CPUs wait, as run() has just said: let time pass for them."""
        for cpu in self.cpus:
            if cpu.halted and not cpu.waits:
                self._load(cpu)
                cpu.charge(max(0, until - cpu.now))

    def outlive(self, until: int) -> None:
        """The guest has ended: only the cards, which other guests may share, go on."""
        cards, cpu = self.cards, self.cpus[0]
        while cards is not None and cards.deadline <= until:
            self._load(cpu)
            cpu.charge(max(0, cards.deadline - cpu.now))
            cards.advance(cpu.now)

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
        first = NEVER
        for other in self.cpus:
            if other is not cpu:
                first = min(first, self._next_instant(other))
        if first == NEVER:
            return NEVER
        return max(self._quantum_end(now), first - first % self._quantum(first))

    def _time(self, cpu: Cpu) -> int:
        return cpu.now if cpu is self._loaded else cpu.parked_now

    def _next_event(self, cpu: Cpu) -> int:
        """When something will happen to this CPU by itself."""
        first = self._next_on_metal(cpu) if cpu.on_metal else self._next_under_hypervisor(cpu)
        return NEVER if first == NEVER else max(first, self._time(cpu))

    def _next_under_hypervisor(self, cpu: Cpu) -> int:
        """The same, or a time that has passed."""
        if cpu.host_interrupt:
            return 0
        first = NEVER if cpu.host_timer is None else cpu.host_timer
        if cpu.ipis:
            first = min(first, *cpu.ipis)
        if cpu.vectors:
            first = min(first, min(cpu.vectors)[0])
        if cpu.index == 0:  # what stands beside acts in the first CPU's time
            for companion in self.beside:
                first = min(first, companion.deadline)
        return first

    def _next_on_metal(self, cpu: Cpu) -> int:
        """The same where the guest has the board."""
        board = self.board
        if board is None:
            return NEVER
        first = board.next_event(cpu.index)
        if not cpu.halted or (first == NEVER and not board.lapics[cpu.index].interrupts):
            return first
        if not cpu.interruptible:  # HLT with interrupts off sleeps on, unless somebody sends an NMI
            return board.bus.next(cpu.index)
        return 0 if board.lapics[cpu.index].interrupts else first

    def _run_one(self, cpu: Cpu, now: int, budget: int) -> None:
        """One slice of one CPU, with the interrupts that are due before it."""
        if cpu.halted:
            when = self._next_event(cpu)
            if when > now:
                cpu.charge(when - now)  # the CPU slept
                now = when
        if cpu.index == 0:
            for companion in self.beside:
                companion.advance(now)
        if cpu.vectors:
            cpu.take_vectors(now)
        if cpu.on_metal:
            self._interrupt_on_metal(cpu, now)
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
        if cpu.nmi_waits:
            deadline = now
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
            cpu.charge(cpu.switch)
            cpu.on_exit(Exit(svm.INTR, 0, 0))

    def _interrupt_on_metal(self, cpu: Cpu, now: int) -> None:
        """What the chips have to do by now, and the interrupt that the local APIC has for the CPU."""
        board = self.board
        if board is None:
            return
        lapic = board.lapics[cpu.index]
        board.receive(cpu.index, now)
        if cpu.index == 0:
            board.advance(now)  # a frame that has come to a card is the card's to store, at this very moment
        if lapic.signalled:
            self._signal_on_metal(cpu, lapic)
        if cpu.waits:
            return
        cpu.assists["timer"] += lapic.advance(now)
        lapic.set_priority_class(cpu.tpr)
        if not lapic.interrupts:
            cpu.m.watch_tpr = bool(lapic.state.irr)
            return
        cpu.m.watch_tpr = 0
        if cpu.interruptible and not cpu.event_pending:
            cpu.halted = False
            cpu.inject(svm.EVENT_INTR | lapic.accept())
        elif not cpu.halted:
            cpu.open_window()

    def _signal_on_metal(self, cpu: Cpu, lapic: Lapic) -> None:
        """INIT, a start-up message, an NMI. The NMI waits for the end of the one before it."""

        def start(page: int) -> None:
            startup_state(cpu.vmcb, page)
            cpu.start_over()

        try:
            take_startup(cpu, lapic, start)
        except Shutdown as reset:
            self.end("crash", str(reset))
        if cpu.waits:
            return
        cpu.m.watch_iret = lapic.state.nmi and cpu.nmi_masked
        if lapic.state.nmi and not cpu.nmi_masked:
            cpu.nmi_waits = cpu.event_pending  # behind what is delivered already
            if not cpu.nmi_waits:
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
        """Let the probe look at two addresses of the guest's."""
        self._marks = begin, end
        self.renew_marks()

    def renew_marks(self) -> None:
        """Ask again where the instructions at the marks are; a binary translator moves them."""
        self._loaded.m.mark[0], self._loaded.m.mark[1] = map(self.place_of_mark, self._marks)

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
            chips=[] if self.board is None else self.board.save(),
            cards=[] if self.cards is None else self.cards.save(),
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
        if self.board is not None:
            self.board.load(saved.chips)
        if self.cards is not None:
            self.cards.load(saved.cards)
        self.probe.state = copy.deepcopy(saved.probe)
        self.ended, self._conversation_until = saved.ended, saved.conversation_until
        self._unpark(self.cpus[saved.loaded])

    def close(self) -> None:
        """Give the engine's memory back."""
        self.engine.close()


class Snapshot(msgspec.Struct):
    """A machine's state: RAM by region and page, CPUs, chips. Only the same build of Unicorn can restore it."""

    memory: list[dict[int, bytes]]
    cpus: list[CpuRecord]
    chips: list[Any]
    cards: list[Any]
    probe: ProbeState
    ended: Ended | None
    loaded: int  # the CPU whose guest was in the engine
    conversation_until: int

"""The Intel 82599, a 10-gigabit Ethernet controller of 2009, as PCI Express functions: a physical one with SR-IOV, and
virtual ones (data sheet, 7.10.2 and 9).

Windows of the physical function: 0 registers, 4 MSI-X; of a virtual one: 0 registers, 3 MSI-X. The MSI-X table has a
page of its own, and so have its pending bits.
Simplified: one port; 4 of 63 virtual functions; 32-bit windows, no window in I/O space; no flash, firmware, wake-up or
management; the link is always up, at 10 Gb/s, through an SFP+ module; no security offload, storage over Ethernet, time
stamps or data center bridging; accesses of less than a register write nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from hv.silicon.ethernet.register import read_part, write_whole
from hv.silicon.ixgbe import registers as reg
from hv.silicon.ixgbe import virtual
from hv.silicon.ixgbe.chip import Chip, ChipState
from hv.silicon.ixgbe.eeprom import contents
from hv.silicon.ixgbe.interrupts import Interrupts, InterruptState
from hv.silicon.ixgbe.mailbox import Mailboxes
from hv.silicon.ixgbe.module import RELEASED, Module
from hv.silicon.ixgbe.physical import PhysicalRegisters
from hv.silicon.ixgbe.receive import Receiver, ReceiveState
from hv.silicon.ixgbe.rings import CONTROL, TAIL, Ring, RxRing, write_ring
from hv.silicon.ixgbe.statistics import Statistics
from hv.silicon.ixgbe.switch import Switch
from hv.silicon.ixgbe.transmit import TransmitState, Transmitter
from hv.silicon.pci import Bar, Header
from hv.silicon.pcie import ExpressFunction, Msix, MsixState, msix_state
from hv.silicon.sriov import PhysicalFunction, Virtual, VirtualFunction

VENDOR, DEVICE, VIRTUAL_DEVICE = 0x8086, 0x10FB, 0x10ED
CLASS = 0x02_0000
REGISTERS, MSIX_BAR, VIRTUAL_MSIX_BAR = 0, 4, 3
PENDING = 0x2000
VIRTUAL_FUNCTIONS, FIRST, STRIDE = 4, 128, 2
VIRTUAL_VECTORS = 3
HEADER = Header(
    VENDOR, DEVICE, CLASS, revision=1, subsystem_vendor=VENDOR, subsystem=0x0003, pin=1,
    bars={REGISTERS: Bar(128 << 10), MSIX_BAR: Bar(16 << 10)},
)  # fmt: skip
VIRTUAL = Virtual(
    VIRTUAL_FUNCTIONS, VIRTUAL_DEVICE, {REGISTERS: Bar(16 << 10), VIRTUAL_MSIX_BAR: Bar(16 << 10)}, FIRST, STRIDE
)


class FunctionState(msgspec.Struct):
    """Everything that a function remembers; the physical one's also what they have in common."""

    msix: MsixState
    interrupts: InterruptState = msgspec.field(default_factory=InterruptState)
    transmit: TransmitState = msgspec.field(default_factory=TransmitState)
    receive: ReceiveState = msgspec.field(default_factory=ReceiveState)
    registers: dict[int, int] = {}  # a virtual function's own
    chip: ChipState | None = None


class IxgbeFunction(ExpressFunction):
    """What both kinds of function are: registers, rings and interrupts."""

    msix: Msix
    card: IxgbePhysical
    chip: Chip
    statistics: Statistics
    switch: Switch
    mailboxes: Mailboxes
    registers: PhysicalRegisters | virtual.VirtualRegisters

    def build(self, vectors: int, bar: int) -> None:
        self.vectors = vectors
        self.state = FunctionState(msix_state(vectors))
        self.msix = Msix(self, vectors, bar, 0, PENDING)
        self.interrupts = Interrupts(self, self.misc_vector)
        self.transmitter, self.receiver = Transmitter(self), Receiver(self)
        self.chip.functions.append(self)

    @property
    def state(self) -> FunctionState:
        return self._state

    @state.setter
    def state(self, state: FunctionState) -> None:
        self._state = state
        if state.chip is not None:
            self.chip.restore(state.chip)

    # --- windows ----------------------------------------------------------------------------------------------

    def read(self, bar: int, offset: int, size: int) -> int:
        if bar == self.msix.bar:
            return self.msix.read(offset, size) if self.msix.claims(offset) else 0
        return read_part(self.registers.read, offset, size)

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        if bar == REGISTERS:
            if size == 4 and not offset & 3:
                self.registers.write(offset, value)
            else:
                write_whole(self.registers.write, offset, size, value)
        elif self.msix.claims(offset):
            self.msix.write(offset, size, value)

    def write_ring(self, ring: Ring, at: int, value: int) -> None:
        """A register of one of its queues."""
        write_ring(ring, at, value)
        if at in (TAIL, CONTROL):
            if isinstance(ring, RxRing):
                self.receiver.refill()
            elif ring.head != ring.tail:
                self.transmitter.ring()

    def configured(self, offset: int, size: int) -> None:
        """MSI-X may be on or off now."""
        self.interrupts.update(self.slot.now)

    # --- queues and interrupts --------------------------------------------------------------------------------

    def queues(self) -> Sequence[int]:
        """The numbers of its queues."""
        raise NotImplementedError

    def misc_vector(self) -> int | None:
        """The vector of what is no queue's."""
        raise NotImplementedError

    def vector(self, queue: int, *, sent: bool) -> int | None:
        """The vector of a queue."""
        raise NotImplementedError

    def queue_event(self, queue: int, now: int, *, sent: bool) -> None:
        """A queue has something to tell."""
        vector = self.vector(queue, sent=sent)
        if vector is not None:
            self.interrupts.raise_vector(vector, now)

    def allocated(self, entry: int) -> int | None:
        """A byte of IVAR as a vector."""
        vector = entry & 0x3F
        return vector if entry & reg.IVAR_VALID and vector < self.vectors else None

    # --- time -------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> int | None:
        state = self._state
        first, look, over = state.transmit.fetch, state.receive.look, self.interrupts.deadline
        if first is None or (look is not None and look < first):
            first = look
        return over if first is None or (over is not None and over < first) else first

    def advance(self, now: int) -> None:
        """Do what is due by now, first things first, each at its own time."""
        while (due := self.deadline) is not None and due <= now:
            if self.state.receive.look == due:
                self.receiver.work(due)
            elif self.state.transmit.fetch == due:
                self.transmitter.work(due)
            else:
                self.interrupts.update(due)

    def forget_work(self) -> None:
        """A reset: what is under way is gone, nothing interrupts."""
        self.receiver.forget()
        self.transmitter.forget()
        self.state.interrupts = InterruptState()
        self.slot.interrupt(False)
        self.slot.reschedule()


class IxgbeVirtual(IxgbeFunction, VirtualFunction):
    """A virtual function: a pool of queues, a mailbox, three vectors."""

    def __init__(self, physical: IxgbePhysical, index: int) -> None:
        VirtualFunction.__init__(self, physical, index)
        self.chip, self.statistics, self.switch = physical.chip, physical.statistics, physical.switch
        self.mailboxes = physical.mailboxes
        self.card = physical
        self.build(VIRTUAL_VECTORS, VIRTUAL_MSIX_BAR)
        self.registers = virtual.VirtualRegisters(self)

    def queues(self) -> Sequence[int]:
        each = self.chip.virtual_queues
        return range(each * self.index, each * (self.index + 1))

    def misc_vector(self) -> int | None:
        return self.allocated(self.state.registers.get(virtual.IVAR_MISC, 0))

    def vector(self, queue: int, *, sent: bool) -> int | None:
        queues = self.queues()
        if queue not in queues:
            return None  # they were shared out differently since
        number = queue - queues[0]
        entries = self.state.registers.get(virtual.IVAR + 4 * (number >> 1), 0)
        return self.allocated(entries >> 8 * (2 * (number & 1) + sent) & 0xFF)

    def software_reset(self) -> None:
        """VTCTRL.RST: its queues and interrupts; the owner lets it send and receive again (4.2.2.3).

        Heads, tails and SRRCTL too, which the chip keeps (specification update 331521, software clarification 5).
        """
        self.forget_work()
        self.state.registers = {}
        for queue in self.queues():
            drop = self.chip.rx(queue).drop
            self.chip.state.rx[queue] = RxRing(drop=drop)
            self.chip.state.tx.pop(queue, None)
        for array in (reg.VFRE, reg.VFTE):
            self.chip[array] &= ~(1 << self.index)
        self.mailboxes.forget(self.index)

    def reset(self) -> None:
        """A function level reset, of which the physical function hears."""
        self.software_reset()
        self.state.msix = msix_state(self.vectors)
        if self.present:
            self.chip.state.resets |= 1 << self.index
            self.card.interrupts.raise_other(reg.MAILBOX)


class IxgbePhysical(IxgbeFunction, PhysicalFunction):
    """The physical function. `mac` is the card's own address; `fetch_time` what a read across PCI Express takes."""

    registers: PhysicalRegisters
    virtual_functions: Sequence[IxgbeVirtual] = ()

    def __init__(self, tsc_hz: int, fetch_time: int, mac: bytes) -> None:
        PhysicalFunction.__init__(self, HEADER, VIRTUAL)
        self.card, self.mac, self.eeprom, self.module = self, mac, contents(mac), Module()
        self.chip = Chip(tsc_hz, fetch_time)
        self.statistics = Statistics(self.chip)
        self.switch = Switch(self.chip, self.statistics)
        self.mailboxes = Mailboxes(self)
        self.build(reg.VECTORS, MSIX_BAR)
        self.state.chip = self.chip.state
        self.registers = PhysicalRegisters(self)
        self.virtual_functions = [IxgbeVirtual(self, index) for index in range(VIRTUAL_FUNCTIONS)]
        self._load_address()

    def connect(self, send: Callable[[bytes, int], None]) -> None:
        """Plug in the cable: `send(frame, at)` takes a frame, without FCS, that has left at a moment of time."""
        self.chip.send = send

    def receive(self, frame: bytes, at: int) -> None:
        """A frame, without its FCS, has come in from the wire."""
        self.switch.receive(frame, at)

    def queues(self) -> Sequence[int]:
        return [queue for queue in sorted(self.chip.state.tx) if self.chip.owner(queue) is self]

    def misc_vector(self) -> int | None:
        return self.allocated(self.chip[reg.IVAR_MISC] >> 8)

    def vector(self, queue: int, *, sent: bool) -> int | None:
        entries = self.chip[reg.IVAR + 4 * (queue >> 1)]
        return self.allocated(entries >> 8 * (2 * (queue & 1) + sent) & 0xFF)

    # --- resets -----------------------------------------------------------------------------------------------

    def _load_address(self) -> None:
        """After a reset the card's address comes from the EEPROM."""
        self.chip[reg.RAL] = int.from_bytes(self.mac[:4], "little")
        self.chip[reg.RAL + 4] = int.from_bytes(self.mac[4:], "little") | reg.ADDRESS_VALID
        self.chip.tables_changed()

    def reset_registers(self) -> None:
        """CTRL.RST and CTRL.LRST: the card as after power-on, but for some tables (4.2.1.6)."""
        for function in self.chip.functions:
            function.receiver.forget()
            function.transmitter.forget()
        self.chip.forget()
        self.module.write(self.chip.state.module, RELEASED)
        self._load_address()
        self.forget_work()
        self.mailboxes.reset_begins()

    def reset(self) -> None:
        self.reset_registers()
        self.state.msix = msix_state(self.vectors)

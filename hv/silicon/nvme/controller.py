"""One NVMe controller: its doorbells, and the life of a command (NVM Express 1.4, 3.1.16, 4.1 and 7.2).

A doorbell makes the controller fetch, one command from each queue in turn. An admin command is carried out at once, an
I/O command when the medium has had the time for it; until then it is in flight, and its data have not moved. A queue,
doorbell or address that makes no sense gives the host what the specification says, and never anybody else's memory.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.silicon.memory import BusError
from hv.silicon.nvme import admin, features, io
from hv.silicon.nvme.prp import regions
from hv.silicon.nvme.queues import (
    CQ_ENTRY_BYTES,
    SQ_ENTRY_BYTES,
    Command,
    Completion,
    CompletionQueue,
    parse,
)
from hv.silicon.nvme.registers import Registers
from hv.silicon.nvme.spec import (
    DO_NOT_RETRY,
    EVENT_TYPE,
    FATAL,
    MORE,
    READY,
    TRANSIENT,
    CommandError,
    Event,
    Status,
)
from hv.silicon.nvme.state import ErrorEntry, InFlight
from hv.silicon.nvme.subsystem import NAMESPACE_CHANGED_LIMIT, QUEUES, VECTORS, Subsystem

if TYPE_CHECKING:
    from hv.silicon.nvme.card import NvmeFunction

MOST_IN_FLIGHT = 256
MOST_EVENTS = 16  # that wait for somebody to ask
ERROR_ENTRIES = 64


class Controller(Registers):
    """Controller `id` of a subsystem, behind a function of the card."""

    def __init__(self, function: NvmeFunction, id: int, subsystem: Subsystem) -> None:
        super().__init__(function, id, subsystem)
        subsystem.controllers.append(self)

    @property
    def queue_limit(self) -> int:
        """Highest queue identifier."""
        return self.subsystem.resources(self.id, QUEUES) - 1

    @property
    def vector_limit(self) -> int:
        """So many interrupt vectors it has."""
        return self.subsystem.resources(self.id, VECTORS)

    # --- doorbells --------------------------------------------------------------------------------------------

    @property
    def working(self) -> bool:
        return self.state.csts & (READY | FATAL) == READY

    def _doorbell(self, number: int, value: int) -> None:
        s, queue = self.state, number >> 1
        if s.csts & (READY | FATAL) != READY:
            return
        if number & 1:
            cq = s.cqs.get(queue)
            if cq is None:
                self.event(Event.INVALID_DOORBELL)
            elif value >= cq.size or (value - cq.head) % cq.size > cq.used():
                self.event(Event.INVALID_DOORBELL_VALUE)
            else:
                cq.head = value
                if cq.held:
                    self._post_held(cq)
                    self._look_at_queues()
                self._drive_pin()
            return
        sq = s.sqs.get(queue)
        if sq is None:
            self.event(Event.INVALID_DOORBELL)
        elif value >= sq.size or (value - sq.tail) % sq.size > sq.size - 1 - sq.waiting():
            self.event(Event.INVALID_DOORBELL_VALUE)
        else:
            sq.tail = value
            if s.fetch is None:
                self._look_at_queues()

    def _look_at_queues(self) -> None:
        if self.state.fetch is None:
            self.state.fetch = self.slot.now + self.subsystem.fetch_time
            self.slot.reschedule()

    # --- the life of a command --------------------------------------------------------------------------------

    @property
    def deadline(self) -> int | None:
        s = self.state
        due = s.flight[0].due if s.flight else None
        for time in (s.fetch, s.settle):
            if time is not None and (due is None or time < due):
                due = time
        return due

    def advance(self, now: int) -> None:
        """Do what is due by now, first things first."""
        while (due := self.deadline) is not None and due <= now:
            s = self.state
            if s.settle == due:
                self._settle()
            elif s.flight and s.flight[0].due == due:
                self._carry_out(heapq.heappop(s.flight))
                if s.fetch is None and self._to_fetch():
                    s.fetch = now
            else:
                s.fetch = None
                self._fetch(now)

    def _to_fetch(self) -> list[int]:
        """Queues with commands that can be taken: their completions must not have to be held."""
        s = self.state
        return sorted(n for n, sq in s.sqs.items() if sq.waiting() and not s.cqs[sq.completions].held)

    def _fetch(self, now: int) -> None:
        """Take commands, one from each queue in turn (4.13, round robin), while there is room for them."""
        s = self.state
        while self.working and len(s.flight) < MOST_IN_FLIGHT:
            waiting = self._to_fetch()
            if not waiting:
                return
            number = next((queue for queue in waiting if queue > s.last_queue), waiting[0])
            s.last_queue = number
            sq = s.sqs[number]
            try:
                entry = self.slot.read(sq.base + SQ_ENTRY_BYTES * sq.head, SQ_ENTRY_BYTES)
            except BusError:
                self.fail()
                return
            sq.head = (sq.head + 1) % sq.size
            command = parse(entry)
            if number == 0:
                self._perform(0, command, admin.carry_out)
            else:
                due = io.finish_time(self, command, now)
                s.order += 1
                heapq.heappush(s.flight, InFlight(due, s.order, number, entry))

    def _carry_out(self, flight: InFlight) -> None:
        self._perform(flight.queue, parse(flight.entry), io.carry_out)

    def _perform(self, queue: int, command: Command, carry_out: Callable[[Controller, Command], int | None]) -> None:
        """Carry a command out and say how it went. No answer: it comes later."""
        try:
            result = carry_out(self, command)
        except CommandError as error:
            self._refuse(queue, command, error.status)
        except BusError:
            self._refuse(queue, command, Status.DATA_TRANSFER_ERROR)
        else:
            if result is not None:
                self.complete(Completion(queue, command.id, Status.SUCCESS, result))

    def _refuse(self, queue: int, command: Command, status: Status) -> None:
        """It ends with an error, of which the error log has more."""
        flags = MORE | (0 if status in TRANSIENT else DO_NOT_RETRY)
        self._log_error(queue, command, status | flags)
        self.complete(Completion(queue, command.id, status | flags))

    def complete(self, completion: Completion) -> None:
        """Put an entry into the completion queue, or keep it until there is room."""
        s = self.state
        sq = s.sqs.get(completion.queue)
        if sq is None or not self.working:
            return
        cq = s.cqs[sq.completions]
        if cq.held or cq.full():
            cq.held.append(completion)
        else:
            self._post(cq, completion)

    def _post(self, cq: CompletionQueue, completion: Completion) -> None:
        sq = self.state.sqs.get(completion.queue)
        head = 0 if sq is None else sq.head
        status = completion.status << 1 | cq.phase
        entry = struct.pack("<IIHHHH", completion.result, 0, head, completion.queue, completion.id, status)
        try:
            self.slot.write(cq.base + CQ_ENTRY_BYTES * cq.tail, entry)
        except BusError:
            self.fail()
            return
        cq.tail += 1
        if cq.tail == cq.size:
            cq.tail, cq.phase = 0, cq.phase ^ 1
        if cq.interrupts:
            self.function.msix.fire(cq.vector)
            self._drive_pin()

    def _post_held(self, cq: CompletionQueue) -> None:
        while cq.held and not cq.full() and self.working:
            self._post(cq, cq.held.pop(0))

    def fail(self) -> None:
        """It cannot even talk to the host: until a reset nothing happens any more (9.5)."""
        s = self.state
        s.csts |= FATAL
        s.flight.clear()
        s.fetch = None

    # --- data -------------------------------------------------------------------------------------------------

    def send(self, command: Command, data: bytes) -> None:
        """Data to the host. Raises CommandError and BusError."""
        at = 0
        for address, size in regions(self.slot.read, command.prp1, command.prp2, len(data)):
            self.slot.write(address, data[at : at + size])
            at += size

    def receive(self, command: Command, size: int) -> bytes:
        """Data from the host. Raises CommandError and BusError."""
        places = regions(self.slot.read, command.prp1, command.prp2, size)
        return b"".join(self.slot.read(address, part) for address, part in places)

    # --- queues come and go -----------------------------------------------------------------------------------

    def delete_submissions(self, queue: int) -> None:
        """Everything of a queue that is in flight or not fetched is aborted (5.6); what is not fetched, silently."""
        s = self.state
        mine = sorted(flight for flight in s.flight if flight.queue == queue)
        s.flight = [flight for flight in s.flight if flight.queue != queue]
        heapq.heapify(s.flight)
        for flight in mine:
            self.complete(Completion(queue, parse(flight.entry).id, Status.ABORTED_SQ_DELETION))
        s.sqs.pop(queue, None)

    def abort(self, queue: int, id: int) -> bool:
        """Take a command out of flight, or a request for an event back. False: it is not there (any more)."""
        s = self.state
        if queue == 0 and id in s.asked:
            s.asked.remove(id)
            self.complete(Completion(0, id, Status.ABORT_REQUESTED))
            return True
        for flight in s.flight:
            if flight.queue == queue and parse(flight.entry).id == id:
                s.flight.remove(flight)
                heapq.heapify(s.flight)
                self.complete(Completion(queue, id, Status.ABORT_REQUESTED))
                return True
        return False

    # --- events and errors ------------------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Something happened that no command asked for (5.2). Many kinds are reported only where the host wants it."""
        s = self.state
        if not features.event_wanted(self, event):
            return
        if event in (Event.INVALID_DOORBELL, Event.INVALID_DOORBELL_VALUE):
            self._log(ErrorEntry(0, 0xFFFF, 0xFFFF, 0))
        if s.quiet >> (event & EVENT_TYPE) & 1 or event in s.events or len(s.events) >= MOST_EVENTS:
            return
        s.events.append(event)
        self.report_events()

    def report_events(self) -> None:
        s = self.state
        while s.asked and s.events:
            event = s.events.pop(0)
            s.quiet |= 1 << (event & EVENT_TYPE)
            self.complete(Completion(0, s.asked.pop(0), Status.SUCCESS, event))

    def namespaces_changed(self, namespace: int) -> None:
        """It sees a namespace more, or one less."""
        s = self.state
        if namespace not in s.changed and len(s.changed) < NAMESPACE_CHANGED_LIMIT:
            s.changed.append(namespace)
        if self.working:
            self.event(Event.NAMESPACES_CHANGED)

    def _log_error(self, queue: int, command: Command, status: int) -> None:
        lba = command.words[0] | command.words[1] << 32 if queue else 0
        self._log(ErrorEntry(0, queue, command.id, status, lba, command.namespace))

    def _log(self, entry: ErrorEntry) -> None:
        s = self.state
        s.error_count += 1
        entry.count = s.error_count
        s.errors.insert(0, entry)
        del s.errors[ERROR_ENTRIES:]

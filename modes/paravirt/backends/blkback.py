"""The block back end: a front end's requests go to a disk's block store, in the time that the disk takes.

After Xen's and Linux's blkback. A request's frames stay mapped from when it is taken until it is answered; what is to
be written is read from them when the disk takes it. Offered: flushing (feature-flush-cache). Not offered, and refused
as unsupported when used all the same: barriers, discard, indirect segments. Simplified: the front end's layout is that
of 64-bit x86; grants are not kept mapped (feature-persistent).
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping

import msgspec

from hv.host.store import SECTOR, Store, StoreError
from hv.silicon.timing import DiskTimes
from modes.paravirt.abi import EINVAL, Refused
from modes.paravirt.backends.backend import BackendState, RingBackend
from modes.paravirt.backends.blkif import (
    ERROR,
    MOST_SEGMENTS,
    OKAY,
    PROTOCOL,
    REQUEST_SIZE,
    RESPONSE,
    SECTORS_A_PAGE,
    UNSUPPORTED,
    Operation,
    Request,
    Segment,
    parse,
)
from modes.paravirt.backends.cpu import BackendCpu
from modes.paravirt.backends.ring import Ring, RingState, RunAway
from modes.paravirt.bus import FrontEnd
from modes.paravirt.grants import GrantRefused

FEATURES = {"feature-flush-cache": "1", "feature-barrier": "0", "feature-discard": "0", "feature-persistent": "0"}
READ_ONLY_INFO = 4  # VDISK_READONLY of the node `info`


class InFlight(msgspec.Struct, frozen=True):
    """A request that the disk works on until `due`. `handles`: its segments' frames."""

    due: int
    order: int
    id: int
    operation: int
    sector: int
    segments: list[Segment]
    handles: list[int]


class BlkbackState(BackendState):
    ring: RingState = msgspec.field(default_factory=RingState)
    flight: list[InFlight] = []  # by time
    taken: int = 0  # requests
    link_free: int = 0  # when the disk has moved everything that was asked of it


class Blkback(RingBackend[BlkbackState]):
    """A worker of domain 0, and a device of xenbus. `number`: 51712 for the first disk, xvda; 51728 for xvdb."""

    kind = "vbd"

    def __init__(self, cpu: BackendCpu, store: Store, times: DiskTimes, number: int) -> None:
        super().__init__(cpu)
        self.store, self.times, self.number = store, times, number
        self.front_nodes: Mapping[str, str] = {"virtual-device": str(number), "device-type": "disk"}
        self.ring: Ring  # while connected
        self.s = BlkbackState()

    # --- xenbus -----------------------------------------------------------------------------------------------

    def offer(self) -> Mapping[str, str]:
        return {
            **FEATURES, "mode": "r" if self.store.read_only else "w", "device-type": "disk", "removable": "0",
            "hotplug-status": "connected",
        }  # fmt: skip

    def connect(self, front: FrontEnd) -> Mapping[str, str]:
        if front.text("protocol") not in (None, PROTOCOL):
            raise Refused(EINVAL)
        self.front = front
        self.ring = Ring(front.grants.map(front.number("ring-ref"), write=True), REQUEST_SIZE)
        self.s = BlkbackState(True, ring=self.ring.state, link_free=self.s.link_free)
        self.kicked()  # it may have put something into the ring before it said that it is there
        info = READ_ONLY_INFO if self.store.read_only else 0
        return {
            "sectors": str(self.store.sectors), "sector-size": str(SECTOR), "physical-sector-size": str(SECTOR),
            "info": str(info),
        }  # fmt: skip

    def disconnect(self) -> None:
        """What the disk has not done yet it will not do; the front end was not told that it was done."""
        for request in self.s.flight:
            self._unmap(request.handles)
        self.front.grants.unmap(self.ring.state.handle)
        self.s = BlkbackState(link_free=self.s.link_free)
        self.cpu.reschedule()

    def set_state(self, state: BlkbackState, front: FrontEnd | None) -> None:
        self.s = state
        if front is not None:
            self.front = front
            self.ring = Ring(front.grants.view(state.ring.handle), REQUEST_SIZE, state.ring)

    # --- a worker of domain 0 ---------------------------------------------------------------------------------

    def next_done(self) -> int | None:
        return self.s.flight[0].due if self.s.flight else None

    def advance(self, now: int) -> None:
        s = self.s
        while s.flight and s.flight[0].due <= now:
            self._finish(s.flight.pop(0))
        if s.wake is not None and s.wake <= now:
            s.wake = None
            self._take_requests(now)
        if self.ring.push():
            self.front.notify()

    def _answer(self, id: int, operation: int, status: int) -> None:
        self.ring.answer(RESPONSE.pack(id, operation, status))

    # --- requests ---------------------------------------------------------------------------------------------

    def _take_requests(self, now: int) -> None:
        """Everything that is in the ring, which has room for no more than 32."""
        try:
            while self.ring.waiting() or self.ring.final_check():
                request = parse(self.ring.take())
                status = self._start(request, now)
                if status != OKAY:
                    self._answer(request.id, request.operation, status)
        except RunAway:
            self.refused["run away"] += 1
            self.s.broken = True

    def _start(self, request: Request, now: int) -> int:
        """Check a request and give it to the disk. Returns OKAY, or the status with which it is refused."""
        if request.operation not in list(Operation):
            self.refused["unsupported"] += 1
            return UNSUPPORTED
        segments = request.segments[: request.segment_count]
        wrong = self._what_is_wrong(request, segments)
        if wrong is not None:
            self.refused[wrong] += 1
            return ERROR
        handles: list[int] = []
        try:
            for segment in segments:
                view = self.front.grants.map(segment.gref, write=request.operation == Operation.READ)
                handles.append(view.handle)
        except GrantRefused:
            self._unmap(handles)
            self.refused["grant"] += 1
            return ERROR
        self._give(request, segments, handles, now)
        return OKAY

    def _what_is_wrong(self, request: Request, segments: list[Segment]) -> str | None:
        if request.segment_count > MOST_SEGMENTS or not (segments or request.operation == Operation.FLUSH):
            return "number of segments"
        if any(not segment.first <= segment.last < SECTORS_A_PAGE for segment in segments):
            return "segment"
        if request.sector + _sectors(segments) > self.store.sectors and segments:
            return "sector"
        if self.store.read_only and request.operation != Operation.READ:
            return "read-only"
        return None

    def _give(self, request: Request, segments: list[Segment], handles: list[int], now: int) -> None:
        """Latencies pass side by side, data one after the other. Then domain 0 hears of it."""
        s = self.s
        latency = {
            Operation.READ: self.times.read, Operation.WRITE: self.times.write, Operation.FLUSH: self.times.flush,
        }[Operation(request.operation)]  # fmt: skip
        s.link_free = max(now + latency, s.link_free) + _sectors(segments) * self.times.sector
        s.taken += 1
        entry = InFlight(
            s.link_free + self.cpu.delay, s.taken, request.id, request.operation, request.sector, segments, handles
        )
        bisect.insort(s.flight, entry, key=lambda flight: (flight.due, flight.order))

    def _finish(self, request: InFlight) -> None:
        """The disk has done it."""
        status = OKAY
        try:
            if request.operation == Operation.READ:
                self._read(request)
            else:
                self._write(request)
        except StoreError:
            self.refused["medium"] += 1
            status = ERROR
        self._unmap(request.handles)
        self._answer(request.id, request.operation, status)

    def _read(self, request: InFlight) -> None:
        data = self.store.read(request.sector, _sectors(request.segments))
        at = 0
        for segment, handle in zip(request.segments, request.handles, strict=True):
            size = (segment.last - segment.first + 1) * SECTOR
            self.front.grants.view(handle).write(segment.first * SECTOR, data[at : at + size])
            at += size

    def _write(self, request: InFlight) -> None:
        """A flush may have data: what was written before is safe first, then the data are written."""
        if request.operation == Operation.FLUSH:
            self.store.flush()
        if request.segments:
            data = b"".join(
                self.front.grants.view(handle).read(segment.first * SECTOR, (segment.last - segment.first + 1) * SECTOR)
                for segment, handle in zip(request.segments, request.handles, strict=True)
            )
            self.store.write(request.sector, data)

    def _unmap(self, handles: list[int]) -> None:
        for handle in handles:
            self.front.grants.unmap(handle)


def _sectors(segments: list[Segment]) -> int:
    return sum(segment.last - segment.first + 1 for segment in segments)

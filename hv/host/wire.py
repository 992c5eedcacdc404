"""The wire: an Ethernet switch with the guest's cards and the embedded peer at its ports, in virtual time.

A frame is wholly in the switch `latency` after it left; then the line to each port that it is for carries one frame
after the other. The switch learns who is where from source addresses. Simplified: no spanning tree, no VLANs; all lines
have one speed, which a card that negotiates less does not change.

The peer acts on nothing but the frames that it gets, so it is given them at once, with the time at which they will have
arrived. Only a frame that reaches a card is an event of the machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from hv.host.pcap import Capture
from hv.silicon.timing import WireTimes

GIGABIT, TEN_GIGABIT = 1000, 10_000  # speeds, in Mb/s
LINE_OVERHEAD = 24  # bytes: preamble, FCS, gap
QUEUE = 512  # frames that may wait for one port at a time; more are lost
ADDRESSES = 1024  # that the switch remembers


class Station(Protocol):
    """Somebody who answers frames: `receive` may `send` at that time or later."""

    state: Any

    def receive(self, frame: bytes, at: int) -> None: ...

    @property
    def due(self) -> int | None:
        """When it next sends a frame by itself."""

    def emit(self) -> None:
        """Send that frame."""


class InFlight(msgspec.Struct, frozen=True):
    at: int  # when it arrives, in millicycles
    port: int
    frame: bytes


class WireState(msgspec.Struct):
    """Everything that is on its way, and what the switch has learnt."""

    in_flight: list[InFlight] = []  # by time of arrival
    line_free: list[int] = []  # by port
    addresses: dict[bytes, int] = {}
    stations: list[Any] = []


class Wire:
    """A device of the machine: `deadline` is the next arrival of a frame at one of the machine's cards."""

    def __init__(self, tsc_hz: int, times: WireTimes, clock: Callable[[], int], speed: int = GIGABIT) -> None:
        self.tsc_hz, self.times, self.clock, self.speed = tsc_hz, times, clock, speed
        self.reschedule: Callable[[], None] = lambda: None
        self.capture: Capture | None = None
        self.cards: dict[int, Callable[[bytes, int], None]] = {}
        self.stations: dict[int, Station] = {}  # in the order of their ports
        self._state = WireState()

    # --- plugging in ------------------------------------------------------------------------------------------

    def plug_card(self, receive: Callable[[bytes, int], None]) -> Callable[[bytes, int], None]:
        """A card's port: `receive(frame, at)` when a frame has arrived. Returns what the card sends with."""
        port = self._new_port()
        self.cards[port] = receive
        return lambda frame, at: self.send(port, frame, at)

    def plug_station(self, make: Callable[[Callable[[bytes, int], None]], Station]) -> None:
        """A port for somebody of the outside world."""
        port = self._new_port()
        self.stations[port] = make(lambda frame, at: self.send(port, frame, at))

    def _new_port(self) -> int:
        self._state.line_free.append(0)
        return len(self._state.line_free) - 1

    # --- frames -----------------------------------------------------------------------------------------------

    def frame_time(self, frame: bytes) -> int:
        """How long a line carries it, in millicycles."""
        return (len(frame) + LINE_OVERHEAD) * 8 * self.tsc_hz // (self.speed * 1000)

    def send(self, port: int, frame: bytes, at: int) -> None:
        """A frame, without its FCS, has left a port's station at a time."""
        s = self._state
        if self.capture is not None:
            self.capture.add(frame, at, self.clock())
        destination, source = frame[:6], frame[6:12]
        if not source[0] & 1 and (source in s.addresses or len(s.addresses) < ADDRESSES):
            s.addresses[source] = port
        known = None if destination[0] & 1 else s.addresses.get(destination)
        for target in range(len(s.line_free)) if known is None else [known]:
            if target != port:
                self._carry(target, frame, at + self.times.latency)
        self._look_ahead()

    def _carry(self, port: int, frame: bytes, at: int) -> None:
        """From the switch to a port."""
        s = self._state
        if len(s.in_flight) >= QUEUE:
            waiting = itertools.takewhile(lambda flight: flight.at > at, reversed(s.in_flight))
            if sum(flight.port == port for flight in waiting) >= QUEUE:
                return
        arrival = max(at, s.line_free[port]) + self.frame_time(frame)
        s.line_free[port] = arrival
        if port in self.stations:
            self.stations[port].receive(frame, arrival)
            return
        index = len(s.in_flight)
        while index and s.in_flight[index - 1].at > arrival:
            index -= 1
        s.in_flight.insert(index, InFlight(arrival, port, frame))
        self.reschedule()

    def _look_ahead(self) -> None:
        """Stations send what could arrive before the first frame that is on its way."""
        s = self._state
        for station in self.stations.values():
            while (due := station.due) is not None and (not s.in_flight or due <= s.in_flight[0].at):
                station.emit()

    # --- a device of the machine ------------------------------------------------------------------------------

    @property
    def deadline(self) -> int | None:
        flights = self._state.in_flight
        return flights[0].at if flights else None

    def advance(self, now: int) -> None:
        """Deliver what has arrived."""
        flights = self._state.in_flight
        while flights and flights[0].at <= now:
            flight = flights.pop(0)
            self.cards[flight.port](flight.frame, flight.at)
            self._look_ahead()

    @property
    def state(self) -> WireState:
        self._state.stations = [station.state for station in self.stations.values()]
        return self._state

    @state.setter
    def state(self, state: WireState) -> None:
        self._state = state
        for station, saved in zip(self.stations.values(), state.stations, strict=True):
            station.state = saved

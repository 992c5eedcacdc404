"""The guests of event_guest.py in their machines. What comes from outside is noted with what must follow from it."""

from __future__ import annotations

from collections import Counter

from hv.x86_64.board import Board
from modes.hw_assist.mode import HwAssist
from modes.paravirt.common import XenDomain
from modes.paravirt.events import MASK, PENDING, SELECTOR, UPCALL_MASK
from modes.paravirt.hvm.platform import XenPlatform
from modes.paravirt.mode import Paravirt
from tests.event_guest import CHANNELS, ECHO, ECHO_BACKEND, FROM_OUTSIDE, HVM, LENGTH, LOG, OUTSIDE, OUTSIDE_BACKEND, PV
from tests.guests.test_pv_on_hvm import VECTOR
from tests.pv_support import DATA as PV_DATA
from tests.pv_support import PvGuest
from tests.support import DATA, RawGuest, Where


class Guest:
    """A guest with all channels, as the domain's builder could make them; `data` is where its DATA is."""

    def __init__(self, domain: XenDomain) -> None:
        self.domain, self.events = domain, domain.events
        self.events.channels.update(CHANNELS)
        self.events.backends[ECHO_BACKEND] = lambda: self.events.notify(ECHO, ECHO_BACKEND)
        self.raised: Counter[int] = Counter()  # ports from outside, as often as they were clear
        self.next: dict[int, set[int]] = {}  # place in the log -> what may be there, and nothing else
        self._raise, self.events.raise_port = self.events.raise_port, self.spy  # type: ignore[method-assign]

    def read(self, offset: int, size: int) -> bytes:
        raise NotImplementedError

    def lets_in(self) -> bool:
        raise NotImplementedError

    def raise_from_outside(self) -> None:
        self.events.notify(OUTSIDE, OUTSIDE_BACKEND)

    def log(self) -> bytes:
        return self.read(LOG, int.from_bytes(self.read(LENGTH, 4), "little"))

    def spy(self, port: int) -> None:
        """Raise a port, and note what must come of it if it is from outside."""
        before, place = self.deliverable(), len(self.log())
        clear = not self.events.is_pending(port)
        self._raise(port)
        if port in FROM_OUTSIDE and clear:
            self.raised[port] += 1
            if place in self.next:  # a handler has begun, and may see this one too
                self.next[place].add(port)
            elif port not in self.ports(MASK) and self.lets_in():
                self.next[place] = {min(before | {port})}

    def word(self, address: int, number: int) -> int:
        return self.domain.memory.read_u64(address + 8 * number)

    def ports(self, offset: int) -> set[int]:
        """Whose bits are set."""
        return {port for port in CHANNELS if self.word(self.events.shared + offset, port // 64) >> port % 64 & 1}

    def deliverable(self) -> set[int]:
        """Ports that the next upcall finds."""
        selector = self.word(self.domain.states[0].info + SELECTOR, 0)
        return {port for port in self.ports(PENDING) - self.ports(MASK) if selector >> port // 64 & 1}


class PvDomain(Guest):
    def __init__(self, portable: bool, memory: dict[int, bytes]) -> None:
        self.guest = PvGuest(PV, portable=portable)
        self.run, self.vm, self.close = self.guest.run, self.guest.vm, self.guest.close
        for offset, data in memory.items():
            self.guest.v.memory.write(PV_DATA + offset, data)
        super().__init__(self.guest.domain)

    def read(self, offset: int, size: int) -> bytes:
        return self.guest.v.memory.read(PV_DATA + offset, size)

    def lets_in(self) -> bool:
        return not self.domain.memory.read(self.domain.states[0].info + UPCALL_MASK, 1)[0]


class PvOnHvm(Guest):
    def __init__(self, portable: bool, memory: dict[int, bytes]) -> None:
        where = Where(HwAssist, portable, Paravirt)
        self.guest = RawGuest(HVM, where, gates={VECTOR: ("event", {})},
                              memory={DATA + offset: data for offset, data in memory.items()})  # fmt: skip
        self.run, self.vm, self.close = self.guest.run, self.guest.vm, self.guest.close
        assert isinstance(self.vm.board, Board)
        assert isinstance(self.vm.board.platform, XenPlatform)
        super().__init__(self.vm.board.platform.domain)

    def read(self, offset: int, size: int) -> bytes:
        return self.guest.read(DATA + offset, size)

    def lets_in(self) -> bool:
        return self.guest.cpu.interruptible

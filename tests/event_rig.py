"""The guests of event_guest.py in their machines. What comes from outside is noted with what must follow from it."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from hv.silicon.x86_64.machine import Ended, Idle, Paused
from hv.vm import Vm
from hv.x86_64.board import Board
from modes.paravirt.common import XenDomain
from modes.paravirt.events import MASK, PENDING, SELECTOR, UPCALL_MASK
from modes.paravirt.hvm.platform import XenPlatform
from modes.paravirt.state import Channel
from tests.event_guest import PV, hvm
from tests.event_script import ARMED, BLOCK, CAME, DONE, EARLY, LATE, LENGTH, LOG, NOTED, SENT, STRAY
from tests.hvm_rig import ARGUMENTS, BY_LINE, BY_VECTOR, VECTOR
from tests.pv_support import DATA as PV_DATA
from tests.pv_support import PvGuest
from tests.support import DATA, RawGuest, Where, two_cpus


class Guest:
    """A guest with `channels`, as the domain's builder could make them."""

    vm: Vm
    run: Callable[..., Ended | Idle | Paused]
    close: Callable[[], None]

    def __init__(self, domain: XenDomain, channels: Mapping[int, Channel]) -> None:
        self.domain, self.events, self.channels = domain, domain.events, channels
        self.events.channels.update(channels)

    def read(self, offset: int, size: int) -> bytes:
        """Of the guest's memory, behind its DATA."""
        raise NotImplementedError

    def lets_in(self) -> bool:
        """Does the guest take an upcall just now?"""
        raise NotImplementedError

    def notify(self, port: int) -> None:
        """Domain 0 raises a port of the guest's."""
        self.events.notify(port, self.channels[port].remote_port)

    def log(self) -> bytes:
        return self.read(LOG, self._word(LENGTH))

    def alarms(self, vcpu: int = 0) -> tuple[int, int, int]:
        """How many were set, came, and came too early."""
        armed, noted, early = struct.unpack("<3I", self.read(BLOCK * vcpu + ARMED, 12))
        assert (ARMED + 4, NOTED + 4) == (NOTED, EARLY)
        return armed, noted, early

    def late(self, vcpu: int) -> int:
        """How many events came too late to a vCPU that did nothing else."""
        return self._word(BLOCK * vcpu + LATE)

    def strays(self, vcpu: int) -> int:
        """How many events of the other vCPU's came to this one."""
        return self._word(BLOCK * vcpu + STRAY)

    def done(self, vcpu: int = 0) -> bool:
        """Is its script over?"""
        return bool(self._word(BLOCK * vcpu + DONE))

    def sent(self, port: int) -> int:
        return self._word(SENT + 4 * port)

    def came(self, port: int) -> int:
        return self._word(CAME + 4 * port)

    def _word(self, offset: int) -> int:
        return int.from_bytes(self.read(offset, 4), "little")

    def ports(self, offset: int) -> set[int]:
        """Whose bits are set."""
        return {port for port in self.channels if self._bits(self.events.shared + offset, port // 64) >> port % 64 & 1}

    def deliverable(self) -> set[int]:
        """Ports that the next upcall of vCPU 0 finds."""
        selector = self._bits(self.domain.states[0].info + SELECTOR, 0)
        return {port for port in self.ports(PENDING) - self.ports(MASK) if selector >> port // 64 & 1}

    def _bits(self, address: int, number: int) -> int:
        return self.domain.memory.read_u64(address + 8 * number)


class Spy:
    """Notes what must come of ports that are raised from outside: how often, and when it is their turn."""

    def __init__(self, guest: Guest, outside: tuple[int, ...]) -> None:
        self.guest, self.outside = guest, outside
        self.raised: Counter[int] = Counter()  # as often as they were clear
        self.next: dict[int, set[int]] = {}  # place in the log -> what may be there, and nothing else
        events = guest.events
        self._raise, events.raise_port = events.raise_port, self.raise_port  # type: ignore[method-assign]

    def raise_port(self, port: int) -> None:
        guest = self.guest
        before, place = guest.deliverable(), len(guest.log())
        clear = not guest.events.is_pending(port)
        self._raise(port)
        if port in self.outside and clear:
            self.raised[port] += 1
            if place in self.next:  # a handler has begun, and may see this one too
                self.next[place].add(port)
            elif port not in guest.ports(MASK) and guest.lets_in():
                self.next[place] = {min(before | {port})}


class PvDomain(Guest):
    def __init__(
        self, portable: bool, channels: Mapping[int, Channel], memory: Mapping[int, bytes], cpus: int = 1
    ) -> None:  # fmt: skip
        self.guest = PvGuest(PV, portable=portable, smp=cpus)
        self.run, self.vm, self.close = self.guest.run, self.guest.vm, self.guest.close
        for offset, data in memory.items():
            self.guest.v.memory.write(PV_DATA + offset, data)
        super().__init__(self.guest.domain, channels)

    def read(self, offset: int, size: int) -> bytes:
        return self.guest.v.memory.read(PV_DATA + offset, size)

    def lets_in(self) -> bool:
        return not self.domain.memory.read(self.domain.states[0].info + UPCALL_MASK, 1)[0]


class PvOnHvm(Guest):
    """With a PC for a board; its upcalls come in one of FORMS."""

    def __init__(
        self, where: Where, form: str, channels: Mapping[int, Channel], memory: Mapping[int, bytes], cpus: int = 1
    ) -> None:
        code, vectors = hvm(form, cpus=cpus), (struct.pack("<IB3x", vcpu, VECTOR) for vcpu in range(2))
        self.guest = RawGuest(
            two_cpus(code) if cpus > 1 else code, where, gates={VECTOR: ("event", {})}, cpus=cpus,
            memory={ARGUMENTS + 64: b"".join(vectors), **{DATA + offset: data for offset, data in memory.items()}},
        )  # fmt: skip
        self.run, self.vm, self.close = self.guest.run, self.guest.vm, self.guest.close
        assert isinstance(self.vm.board, Board)
        assert isinstance(self.vm.board.platform, XenPlatform)
        super().__init__(self.vm.board.platform.domain, channels)

    def read(self, offset: int, size: int) -> bytes:
        return self.guest.read(DATA + offset, size)

    def lets_in(self) -> bool:
        return self.guest.cpu.interruptible


Make = Callable[..., Guest]  # channels, memory, and how many CPUs
TECHNIQUES: Mapping[str, Make] = {
    "pv": partial(PvDomain, False), "pv-portable": partial(PvDomain, True),
    "vector": partial(PvOnHvm, BY_VECTOR, "vector"),
    "vector-portable": partial(PvOnHvm, BY_VECTOR._replace(portable=True), "vector"),
    "own vector": partial(PvOnHvm, BY_VECTOR, "own vector"), "line": partial(PvOnHvm, BY_LINE, "line"),
}  # fmt: skip

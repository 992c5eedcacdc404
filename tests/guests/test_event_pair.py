"""Two vCPUs of a guest of Xen's that send each other events, mask, bind them elsewhere, wait and poll.

Who takes an event when is chance, so there is no model: what was sent, and not before the last one of that port had
come, has come once in the end; each alarm once and not early. A vCPU that only runs hears of the other's event soon.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hv.silicon.x86_64.machine import Idle
from modes.paravirt.abi import BACKEND_DOMID, GUEST_DOMID, VIRQ_TIMER
from modes.paravirt.events import INTERDOMAIN, IPI, PENDING, VIRQ
from modes.paravirt.state import Channel
from tests.event_rig import TECHNIQUES, Guest, Make
from tests.event_script import BODIES, MAIN, Op, script

LIMIT = 20_000_000  # cycles
MOST_TO_WAKE = 100

# Words 0 and 1 are of ports that stay with vCPU 0 and 1; those of words 2 and 3 can be bound elsewhere.
IPIS = {0: 20, 1: 71}  # each vCPU's to itself
HASTY = {0: 72, 1: 22}  # and to the other
TIMERS = (30, 90)
PAIRS = {0: (130, 201), 1: (131, 200)}  # whose other end the next number is
ECHOES = {0: 140, 1: 210}  # which domain 0 answers at once
OUTSIDE = (150, 220)
CHANNELS = {
    20: Channel(IPI, 0), 22: Channel(IPI, 0), 30: Channel(VIRQ, 0, virq=VIRQ_TIMER),
    71: Channel(IPI, 1), 72: Channel(IPI, 1), 90: Channel(VIRQ, 1, virq=VIRQ_TIMER),
    130: Channel(INTERDOMAIN, 0, GUEST_DOMID, 131), 131: Channel(INTERDOMAIN, 1, GUEST_DOMID, 130),
    200: Channel(INTERDOMAIN, 1, GUEST_DOMID, 201), 201: Channel(INTERDOMAIN, 0, GUEST_DOMID, 200),
    140: Channel(INTERDOMAIN, 0, BACKEND_DOMID, 50), 210: Channel(INTERDOMAIN, 0, BACKEND_DOMID, 51),
    150: Channel(INTERDOMAIN, 0, BACKEND_DOMID, 52), 220: Channel(INTERDOMAIN, 1, BACKEND_DOMID, 53),
}  # fmt: skip
BINDABLE = (130, 131, 200, 201, 140, 210, *OUTSIDE)
MASKABLE = (20, 71, 130, 131, 200, 201, 140, 210)
COMES_AS = {port: port ^ 1 for ports in PAIRS.values() for port in ports}  # other ports as themselves
BODIES_OF = (
    {port: [Op("here", vcpu)] for vcpu, port in IPIS.items()}
    | {port: [Op("in_time"), Op("here", 1 - vcpu)] for vcpu, port in HASTY.items()}
    | {port: [Op("note"), Op("here", vcpu)] for vcpu, port in enumerate(TIMERS)}
)


def scripts(vcpu: int) -> st.SearchStrategy[list[Op]]:
    """What a vCPU may do. In the end it unmasks everything, so that nothing is left, and is there for the other."""
    op = st.one_of(
        st.sampled_from([Op("ring", IPIS[vcpu]), Op("ring", ECHOES[vcpu]), Op("hasten", HASTY[vcpu])]),
        st.just(Op("hasten", HASTY[vcpu])),
        st.sampled_from(PAIRS[vcpu]).map(lambda port: Op("ring_other", port)),
        st.builds(Op, st.sampled_from(["mask", "unmask", "unmask_by_memory"]), st.sampled_from(MASKABLE)),
        st.builds(Op, st.sampled_from(["bind_to_0", "bind_to_1"]), st.sampled_from(BINDABLE)),
        st.sampled_from([Op("on"), Op("off"), Op("blink"), Op("call"), Op("linger"), Op("doze")]),
        st.builds(Op, st.sampled_from(["alarm", "nap"]), st.integers(0, 120)),
        st.sampled_from([*BINDABLE, HASTY[1 - vcpu]]).map(lambda port: Op("poll", port)),
        st.integers(1, 60).map(lambda n: Op("spin", n)),
    )
    last = [*(Op("unmask", port) for port in MASKABLE), Op("linger"), Op("linger")]
    return st.lists(op, min_size=8, max_size=30).map(lambda ops: ops + last)


class Cut(NamedTuple):
    """After so many cycles: events from outside; a snapshot, or none."""

    cycles: int
    events: frozenset[int]
    snapshot: bool


class Case(NamedTuple):
    scripts: tuple[list[Op], list[Op]]
    cuts: list[Cut]


cuts = st.builds(Cut, st.integers(1, 20_000), st.frozensets(st.sampled_from(OUTSIDE)), st.booleans())
cases = st.builds(Case, st.tuples(scripts(0), scripts(1)), st.lists(cuts, max_size=8))


def from_outside(guest: Guest, sent: dict[int, int], ports: frozenset[int]) -> None:
    """Domain 0 raises ports, those whose last event has come."""
    for port in sorted(ports):
        if guest.came(port) == sent[port]:
            sent[port] += 1
            guest.notify(port)


def play(guest: Guest, case: Case) -> dict[int, int]:
    """Until both scripts are over. Returns how often each port of OUTSIDE was raised."""
    sent = dict.fromkeys(OUTSIDE, 0)
    assert isinstance(guest.run(), Idle)
    for cut in [Cut(1, frozenset(OUTSIDE), False), *case.cuts]:
        from_outside(guest, sent, cut.events)
        if cut.snapshot:
            guest.vm.restore(guest.vm.snapshot())
        guest.run(cut.cycles)
    for _ in range(MOST_TO_WAKE):
        assert isinstance(guest.run(LIMIT), Idle)
        assert all(guest.came(port) == guest.sent(port) for port in HASTY.values())  # or one would not sleep
        if guest.done(0) and guest.done(1):
            return sent
        for vcpu, port in enumerate(OUTSIDE):  # one dozes
            guest.events.bind_vcpu(port, vcpu)
        from_outside(guest, sent, frozenset(OUTSIDE))
    raise AssertionError("it sleeps for ever")


def check(make: Make, case: Case) -> None:
    bodies = {BODIES + 16 * port: script(ops) for port, ops in BODIES_OF.items()}
    guest = make(CHANNELS, {MAIN[vcpu]: script(ops) for vcpu, ops in enumerate(case.scripts)} | bodies, 2)
    for port in ECHOES.values():
        guest.events.backends[CHANNELS[port].remote_port] = lambda port=port: guest.notify(port)  # type: ignore[misc]
    try:
        sent = play(guest, case)
        for port in (*IPIS.values(), *HASTY.values(), *ECHOES.values(), *COMES_AS):
            sent[port] = guest.sent(port)
        assert {port: guest.came(COMES_AS.get(port, port)) for port in sent} == sent
        assert not guest.ports(PENDING)
        for vcpu in range(2):
            armed, noted, early = guest.alarms(vcpu)
            assert (noted, early) == (armed, 0)
            assert not guest.late(vcpu)
            assert not guest.strays(vcpu)
    finally:
        guest.close()


TWO = {name: TECHNIQUES[name] for name in ("pv", "vector", "own vector")}  # a line is for vCPU 0 alone


@pytest.mark.parametrize("make", TWO.values(), ids=TWO)
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(case=cases)
def test_what_was_sent_has_come_once(make: Make, case: Case) -> None:
    check(make, case)

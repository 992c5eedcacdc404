"""The models of interrupts and events find bugs that are planted in the silicon and in the hypervisors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hv.silicon.posted import Descriptor
from hv.silicon.x86_64.avic import DOORBELL
from hv.silicon.x86_64.ioapic import REMOTE_IRR, Ioapic
from hv.silicon.x86_64.lapic import Lapic
from hv.silicon.x86_64.machine import Machine
from hv.silicon.x86_64.virtual_apic import VirtualApic
from modes.paravirt.events import Events
from modes.posted_interrupts.delivery import WAKE
from tests.event_rig import TECHNIQUES
from tests.guests import test_event_model as event_model
from tests.guests import test_event_pair as event_pair
from tests.guests import test_interrupt_model as interrupt_model
from tests.guests import test_interrupt_pair as interrupt_pair
from tests.support import NATIVE_AVIC, NATIVE_HW, NATIVE_METAL, NATIVE_POSTED, PORTABLE_POSTED

MOST_CASES = 40  # in which a planted bug must be found
Patch = pytest.MonkeyPatch


def found(check: Callable[[Any, Any], None], cases: st.SearchStrategy[Any], where: Any) -> bool:
    """Does a check fail for one of some cases?"""

    @settings(
        max_examples=MOST_CASES, phases=[Phase.generate], database=None, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=cases)
    def attempt(case: Any) -> None:
        check(where, case)

    try:
        attempt()
    except Exception:  # noqa: BLE001 - whatever it is, it is not what should be
        return True
    return False


# --- in a local APIC --------------------------------------------------------------------------------------------------


def lower_posts_dropped(patch: Patch) -> None:
    take_posted = VirtualApic.take_posted

    def take(self: VirtualApic) -> None:
        if self.descriptor.requests.bit_length() - 1 < self.vmcb.rvi:
            self.descriptor.take()
        take_posted(self)

    patch.setattr(VirtualApic, "take_posted", take)


def suppression_ignored(patch: Patch) -> None:
    post = Descriptor.post
    patch.setattr(Descriptor, "post", lambda self, vector, urgent=False: post(self, vector, urgent=True))


def end_of_the_lowest(patch: Patch) -> None:
    def end(self: Lapic) -> None:
        s = self.state
        vector = (s.isr & -s.isr).bit_length() - 1
        if s.isr:
            s.isr &= ~(1 << vector)
        if s.tmr >> vector & 1:
            self.broadcast(vector)
        self.changed()

    patch.setattr(Lapic, "_eoi", end)


def line_heard_once(patch: Patch) -> None:
    def end_of_interrupt(self: Ioapic, vector: int) -> None:
        s = self.state
        s.entries = [entry & ~REMOTE_IRR if entry & 0xFF == vector else entry for entry in s.entries]

    patch.setattr(Ioapic, "end_of_interrupt", end_of_interrupt)


@pytest.mark.parametrize(
    ("plant", "where"),
    [
        (lower_posts_dropped, PORTABLE_POSTED), (suppression_ignored, PORTABLE_POSTED),
        (end_of_the_lowest, NATIVE_METAL), (end_of_the_lowest, NATIVE_HW), (line_heard_once, NATIVE_POSTED),
    ],
)  # fmt: skip
def test_a_bug_in_a_local_apic_is_found(plant: Callable[[Patch], None], where: Any, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    assert found(interrupt_model.check, interrupt_model.cases, where)


# --- between two ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "lost"), [(NATIVE_AVIC, DOORBELL), (NATIVE_POSTED, WAKE), (NATIVE_AVIC, WAKE)])
def test_a_lost_message_between_cpus_is_found(where: Any, lost: int, monkeypatch: Patch) -> None:
    interrupt = Machine.interrupt

    def lose(self: Machine, destination: int, vector: int) -> None:
        if vector != lost:
            interrupt(self, destination, vector)

    monkeypatch.setattr(Machine, "interrupt", lose)
    assert found(interrupt_pair.check, interrupt_pair.cases, where)


# --- in event channels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("technique", ["pv", "vector", "own vector", "line"])
def test_a_timer_that_is_lost_while_an_upcall_is_due_is_found(technique: str, monkeypatch: Patch) -> None:
    raise_virq = Events.raise_virq

    def lose(self: Events, virq: int, vcpu: int) -> None:
        if not self.upcall_due(self.vcpus[vcpu]):
            raise_virq(self, virq, vcpu)

    monkeypatch.setattr(Events, "raise_virq", lose)
    assert found(event_model.check, event_model.cases, TECHNIQUES[technique])


def unmasked_where_it_was(patch: Patch) -> None:
    def unmask(self: Events, port: int) -> None:
        self._clear(self.shared + 0xA00, port)
        if self.is_pending(port) and self._set(self.vcpus[0].info + 8, port // 64):
            self.mark_pending(0)

    patch.setattr(Events, "unmask", unmask)


def told_only_if_asleep(patch: Patch) -> None:
    kick = Machine.kick
    patch.setattr(Machine, "kick", lambda self, target: kick(self, target) if target.halted else None)


@pytest.mark.parametrize("technique", ["pv", "vector"])
@pytest.mark.parametrize("plant", [unmasked_where_it_was, told_only_if_asleep])
def test_a_bug_between_two_vcpus_is_found(plant: Callable[[Patch], None], technique: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    assert found(event_pair.check, event_pair.cases, TECHNIQUES[technique])

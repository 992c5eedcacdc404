"""The fuzzer of a guest with Xen beside its PC finds bugs planted in modes/paravirt/hvm, and none where none is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from modes.paravirt.calls import events as event_calls
from modes.paravirt.common import XenVcpu
from modes.paravirt.hvm.physmap import HvmMemory, Physmap
from modes.paravirt.hvm.upcall import Upcall
from modes.shadow.pager import Pager
from tests.fuzz.xen_hvm import case

MOST_CASES = 40  # in which a planted bug must be found
Patch = Callable[[pytest.MonkeyPatch], None]


def test_nothing_is_found_and_all_calls_are_reached() -> None:
    reached: Counter[str] = Counter()
    for seed in range(4):
        reached.update(case(seed))
    for name in ("memory_op ok", "hvm_op ok", "event_channel_op ok", "physdev_op ok", "vcpu_op ok", "memory_op -14"):
        assert reached[name], name


def two_places(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Physmap, "put", lambda self, gfn, page: self._set(gfn, page))


def shadow_not_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pager, "forget_frames", lambda self, gpa, size: None)


def mapping_not_forgotten(patch: pytest.MonkeyPatch) -> None:
    def _set(self: Physmap, gfn: int, page: int) -> None:
        self.placed[gfn] = page

    patch.setattr(Physmap, "_set", _set)


def frames_of_nobody_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Physmap, "hold", lambda self, frame, *, write: self.machine.ram_base + frame * 0x1000)


def pointers_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HvmMemory, "_host", lambda self, gpa: self.physmap.machine.ram_base + gpa)


def line_left_high(patch: pytest.MonkeyPatch) -> None:
    def set_via(self: Upcall, via: int) -> None:
        self.s.via = via
        self.follow()

    patch.setattr(Upcall, "set_via", set_via)


def any_pirq(patch: pytest.MonkeyPatch) -> None:
    def _bind_pirq(v: XenVcpu, at: int) -> None:
        (pirq,) = v.memory.unpack(event_calls.U32, at)
        v.memory.pack(event_calls.U32, at + 8, v.domain.events.bind_pirq(pirq))

    patch.setitem(event_calls.OPERATIONS, 2, _bind_pirq)


@pytest.mark.parametrize(
    "plant",
    [two_places, mapping_not_forgotten, shadow_not_forgotten, frames_of_nobody_held, pointers_not_checked,
     line_left_high, any_pirq],
)  # fmt: skip
def test_a_planted_bug_is_found(plant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for seed in range(MOST_CASES):
        try:
            case(seed)
        except Exception:  # noqa: BLE001 - whatever it is, it is not what should be
            return
    pytest.fail(f"{MOST_CASES} cases did not find it")

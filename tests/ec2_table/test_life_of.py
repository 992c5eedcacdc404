"""The life of one packet and of one disk block, exit by exit, with emulated devices and with split drivers.

ARCHITECTURE.md shows these traces side by side. `python -m tests.ec2_table.test_life_of` prints them.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from hv.costs import load
from hv.loader import default_guest, load_guest
from hv.measure import RowRunner, Settings
from hv.mode import find_modes
from hv.ops import OPS
from hv.silicon.timing import MILLI
from tests.ec2_table.measuring import row_named

DOMAIN_0 = "domain 0"
KICK, EVENT, RETURN = "hypercall.event_channel_op", "external_interrupt", "hypercall.iret"
ECHO, BLOCK = "net.rr", "local.read4k"
LIVES = {
    ("emulated", ECHO): ["mmio", "mmio", "mmio", "iret", EVENT, "mmio", "mmio", "iret", "mmio"],
    ("xen-pv", ECHO): [KICK, DOMAIN_0, DOMAIN_0, EVENT, RETURN, DOMAIN_0, DOMAIN_0, EVENT, RETURN],
    ("emulated", BLOCK): [*9 * ["ioio"], EVENT, *4 * ["ioio"], "mmio", "iret"],
    ("xen-pv", BLOCK): [KICK, DOMAIN_0, DOMAIN_0, EVENT, RETURN],
}


def trace(row: str, op: str) -> list[tuple[int, str]]:
    """What happens in one operation: cycles since its begin mark; an exit's reason, or domain 0 at work beside it."""
    happened: list[tuple[int, str]] = []
    settings = Settings(load_guest(default_guest()), load(), iterations=1)
    with closing(RowRunner(row_named(row), find_modes(), settings)) as runner:
        vm = runner.vm
        machine, ledger = vm.machine, vm.ledger
        count = ledger.count

        def counted(vcpu: int, reason: str, time: int) -> None:
            note(vm.now - time, reason)
            count(vcpu, reason, time)

        def note(when: int, what: str) -> None:
            if machine.probe.state.window == 5:  # the second round; behind the boot's own and the first
                happened.append((when, what))

        ledger.count = counted  # type: ignore[method-assign]
        for companion in machine.beside:
            watch(companion, note)
        runner.run(OPS[op])
        window = machine.probe.windows[2]
    begin = happened[0][0]
    assert window.time > happened[-1][0] - begin
    return [((when - begin) // MILLI, what) for when, what in happened]


def watch(companion: Any, note: Any) -> None:
    """Hear of each of its acts."""
    for worker in getattr(companion, "workers", []):

        def advance(now: int, original: Any = worker.advance) -> None:
            note(now, DOMAIN_0)
            original(now)

        worker.advance = advance


@pytest.mark.parametrize(("row", "op"), LIVES)
def test_a_life_is_as_the_documentation_has_it(row: str, op: str) -> None:
    happened = trace(row, op)
    assert [what for _, what in happened] == LIVES[row, op]
    assert happened == sorted(happened, key=lambda event: event[0])


if __name__ == "__main__":
    for row, op in LIVES:
        print(row, op)
        for when, what in trace(row, op):
            print(f"{when:8d}  {what}")

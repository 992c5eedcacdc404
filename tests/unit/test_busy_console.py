"""The console of a guest that never waits: what is typed reaches it all the same."""

from __future__ import annotations

from contextlib import closing

import pytest

from hv.costs import load
from hv.loader import default_guest, load_guest
from hv.measure import RowRunner, Settings
from hv.mode import find_modes
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Paused
from hv.table import find_row

SLICE = 5_000_000 * MILLI


@pytest.mark.parametrize("row", ["metal", "nitro"])
def test_a_guest_that_computes_in_the_background_hears_the_console(row: str) -> None:
    settings = Settings(load_guest(default_guest()), load())
    with closing(RowRunner(find_row(row), find_modes(), settings)) as runner:
        vm = runner.vm
        vm.console.feed(b"spin\n")
        assert isinstance(vm.run(vm.now + SLICE), Paused)
        vm.console.feed(b"echo still here\n")
        for _ in range(20):
            vm.console.pump(vm.serial)  # as Session does
            vm.run(vm.now + SLICE)
        assert "\nstill here" in vm.console.take()

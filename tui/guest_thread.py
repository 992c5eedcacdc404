"""A guest that runs at full speed in a thread of its own while a screen watches.

The screen polls: `totals`, `stream`, `take_output`. It types by `feed`. Nothing is sent for an exit. Between two short
slices the thread looks whether it should stop and hands over what was typed; a guest that waits costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from hv.crash import report
from hv.ledger import Stream
from hv.measure import Settings
from hv.mode import Mode
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Ended, Idle
from hv.table import Row, machine_modes
from hv.vm import Vm
from tui.measuring import one_line

SLICE, PORTABLE_SLICE = 5_000_000 * MILLI, 100_000 * MILLI  # virtual time between two looks at the world
STREAM = 512  # exits that the stream remembers
UNREAD = 1 << 16  # bytes of output that wait at most for the screen


class GuestThread(threading.Thread):
    """`ended` is a line that says why the guest no longer runs, `details` the report behind it."""

    def __init__(self, row: Row, modes: Mapping[str, type[Mode]], settings: Settings) -> None:
        super().__init__(name=f"guest {row.id}", daemon=True)
        self.row, self.modes, self.settings = row, modes, settings
        self.vm: Vm | None = None
        self.ended: str | None = None
        self.details = ""
        self.waits = False  # for input that nobody has typed
        self.stream = Stream(STREAM)
        self._typed = bytearray()
        self._stopping = False
        self._wake = threading.Event()

    def run(self) -> None:
        try:
            vm = self._build()
            try:
                self._loop(vm)
            finally:
                vm.close()
        except Exception as trouble:  # noqa: BLE001 - a mode from outside may fail in any way
            self.ended = f"the guest stopped: {one_line(trouble)}"

    def _build(self) -> Vm:
        settings, modes = self.settings, machine_modes(self.row, self.modes)
        vm = Vm(modes, settings.guest, settings.costs, portable=settings.portable)
        vm.ledger.stream = self.stream
        self.vm = vm
        return vm

    def _loop(self, vm: Vm) -> None:
        slice = PORTABLE_SLICE if self.settings.portable else SLICE
        while not self._stopping:
            outcome = vm.run(vm.now + slice)
            if isinstance(outcome, Ended):
                if outcome.cause != "power-off":
                    self.details = report(vm)
                self.ended = outcome.report
                return
            typed = bytes(self._typed)
            del self._typed[: len(typed)]
            vm.console.feed(typed)
            if isinstance(outcome, Idle):
                if not vm.console.input:
                    self.waits = True
                    self._wake.wait()
                    self._wake.clear()
                    self.waits = False
            elif vm.console.input:
                vm.console.pump(vm.serial)  # a guest that computes is interrupted
            if len(vm.console.output) > UNREAD:
                del vm.console.output[:-UNREAD]

    # --- for the screen ---------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Type."""
        self._typed += data
        self.waits = False
        self._wake.set()

    def take_output(self) -> str:
        """What the guest has printed since the last call."""
        if self.vm is None:
            return ""
        output = self.vm.console.output
        data = bytes(output)
        del output[: len(data)]  # what has come meanwhile stays
        return data.decode("utf-8", "replace")

    def totals(self) -> dict[str, int]:
        """All exits so far, by reason."""
        return {} if self.vm is None else self.vm.ledger.totals()

    def stop(self) -> None:
        """End the thread, and wait until it has."""
        self._stopping = True
        self._wake.set()
        if self.vm is not None:
            self.vm.machine.pause_requested = True
        self.join(timeout=10)

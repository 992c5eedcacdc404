"""Measures rows in a thread of its own, one after the other, and tells a screen by messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing

from textual.message import Message

from hv.measure import Measured, NotThere, RowRunner, Settings
from hv.mode import Mode
from hv.ops import OPS
from hv.table import Row


class Progress(Message):
    """The operation with this index runs now."""

    def __init__(self, row: str, op: str, index: int) -> None:
        super().__init__()
        self.row, self.op, self.index = row, op, index


class Filled(Message):
    """An operation has been measured, is not there, or has failed with a message."""

    def __init__(self, row: str, op: str, outcome: Measured | NotThere | str) -> None:
        super().__init__()
        self.row, self.op, self.outcome = row, op, outcome


class Finished(Message):
    """A row is done; `error` says why it did not even begin."""

    def __init__(self, row: str, error: str | None) -> None:
        super().__init__()
        self.row, self.error = row, error


class Measuring:
    """The queue of rows. `work` is the thread's body; `stop` may be called from any thread."""

    def __init__(self, modes: Mapping[str, type[Mode]], settings: Settings, tell: Callable[[Message], object]) -> None:
        self.modes, self.settings, self.tell = modes, settings, tell
        self.waiting: deque[Row] = deque()
        self.stopping = False
        self._runner: RowRunner | None = None

    def work(self) -> None:
        """Measure until nothing waits any more."""
        while self.waiting and not self.stopping:
            row, error = self.waiting[0], None
            try:
                self._row(row)
            except Exception as trouble:  # noqa: BLE001 - a mode from outside may fail in any way
                error = one_line(trouble)
            self.waiting.popleft()
            self.tell(Finished(row.id, error))

    def _row(self, row: Row) -> None:
        self.tell(Progress(row.id, "boot", 0))
        with closing(RowRunner(row, self.modes, self.settings)) as runner:
            self._runner = runner
            for index, op in enumerate(OPS.values()):
                if self.stopping:
                    return
                if not runner.has(op):
                    continue
                self.tell(Progress(row.id, op.id, index))
                outcome: Measured | NotThere | str
                try:
                    outcome = runner.run(op)
                except Exception as trouble:  # noqa: BLE001 - the next operation starts afresh from the prompt
                    outcome = one_line(trouble)
                self.tell(Filled(row.id, op.id, outcome))
            self._runner = None

    def stop(self) -> None:
        """End soon, also in the middle of an operation."""
        self.stopping = True
        if self._runner is not None:
            self._runner.vm.machine.pause_requested = True


def one_line(trouble: BaseException) -> str:
    """An exception as one line for a user."""
    return " ".join(str(trouble).split()) or type(trouble).__name__

"""Worker processes: the rows of a table side by side, each row measured wholly in one of them.

A worker is a new interpreter and no fork, which not every library of macOS survives. Through a socket it gets one row
after the other and says what it is doing. It ends with that socket, whatever it is in the middle of, so nobody outlives
the process that started it, however that one ends. Ctrl-C is for that process alone.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, Pipe, wait

import msgspec

from hv.errors import HvError
from hv.measure import Progress, RowResult, Settings, measure_row
from hv.mode import find_modes
from hv.ops import Op
from hv.table import Row

WORTH = 20  # so many operations take about as long as a worker's start
YOUNG = 50_000  # objects that Python makes between two looks for cycles: nearly all of a guest's die without
COMMAND = "import sys; from hv.workers import serve; serve(int(sys.argv[1]))"


class Failed(msgspec.Struct, frozen=True):
    """An HvError on its way from a worker."""

    message: str
    status: int


def worthwhile(rows: int, ops: int) -> int:
    """How many workers such a table is worth: no more than there are rows and CPUs, and at least one."""
    return max(1, min(rows, _cpus(), rows * ops // WORTH))


def expected_time(row: Row) -> int:
    """About how long a row takes, where most take 1: a CPU in software and a disk behind the network are dear."""
    return 4 if row.cells.get("cpu") == "VS" else 2 if row.modes.get("remote") == "commodity" else 1


def _cpus() -> int:
    """Those that this process may use, where the host tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- the process that wants a table -------------------------------------------------------------------------------


class Worker:
    """A worker as its starter sees it."""

    def __init__(self, ops: Sequence[Op], settings: Settings) -> None:
        self.pipe, theirs = Pipe()
        # The worker inherits this, and keeps it: a Ctrl-C at the terminal is meant for it too, but not its to handle.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", COMMAND, str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.task = (tuple(ops), settings)
        self.number, self.row = -1, ""  # what it measures

    def give(self, number: int, row: Row) -> None:
        """Let it measure a row, number so and so of the table."""
        self.number, self.row = number, row.id
        with self._lives():
            self.pipe.send((row, *self.task))

    def hear(self) -> str | RowResult:
        """What it does now, or the row when that is done. Raises HvError when the row cannot be measured."""
        with self._lives():
            said: str | RowResult | Failed = self.pipe.recv()
        if isinstance(said, Failed):
            raise HvError(said.message, said.status)
        return said

    @contextmanager
    def _lives(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            status = self.process.wait()
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise HvError(f"row {self.row}: the process that measured it has died ({how})", 1) from None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()


def measure_rows(
    rows: Sequence[Row], ops: Sequence[Op], settings: Settings, progress: Progress, workers: int
) -> list[RowResult]:
    """Measure rows of installed modes, `workers` at a time, the dearest first. The first error ends them all."""
    waiting, done = sorted(enumerate(rows), key=lambda numbered: -expected_time(numbered[1])), {}
    with ExitStack() as stack:
        busy: dict[Connection, Worker] = {}
        for _ in range(min(workers, len(rows))):
            worker = Worker(ops, settings)
            stack.callback(worker.end)
            busy[worker.pipe] = worker
        for worker in busy.values():
            worker.give(*waiting.pop(0))
        while busy:
            for pipe in wait([*busy]):
                assert isinstance(pipe, Connection)
                worker = busy[pipe]
                said = worker.hear()
                if isinstance(said, str):
                    progress(worker.row, said)
                    continue
                progress(worker.row, None)
                done[worker.number] = said
                if waiting:
                    worker.give(*waiting.pop(0))
                else:
                    del busy[pipe]
    return [done[number] for number in range(len(rows))]


# --- the worker ---------------------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """A worker's life. It does not return."""
    gc.set_threshold(YOUNG)
    pipe = Connection(descriptor)
    tasks: queue.SimpleQueue[tuple[Row, Sequence[Op], Settings]] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                tasks.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)  # nobody waits for a result any more

    threading.Thread(target=listen, daemon=True).start()
    while True:
        row, ops, settings = tasks.get()
        pipe.send(_measure(row, ops, settings, lambda _, what: pipe.send(what) if what is not None else None))


def _measure(row: Row, ops: Sequence[Op], settings: Settings, progress: Progress) -> RowResult | Failed:
    try:
        return measure_row(row, ops, find_modes(), settings, progress)
    except HvError as error:
        return Failed(str(error), error.status)
    except Exception as error:  # noqa: BLE001 - a mode from outside may fail in any way
        text = " ".join(str(error).split()) or type(error).__name__
        return Failed(f"row {row.id}: {type(error).__name__}: {text}", 1)

"""`hv run`: a guest's console in the user's terminal, or in a pipe.

On a terminal the keys go to the guest one by one, Ctrl-C too; a guest that says nothing to three of them is left, and
Ctrl-] leaves any. In a pipe the lines go in, but not into a measurement, and the end of the input powers the guest off;
Ctrl-C, a signal there, ends hv. While the guest waits and nobody types, the host sleeps.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator, Sequence

from hv.crash import report
from hv.measure import PROMPT
from hv.neighbours import Neighbours
from hv.report import number
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.engine import check_interrupt
from hv.silicon.x86_64.machine import Ended, Idle
from hv.vm import Vm

LEAVE = 0x1D  # Ctrl-]
INTERRUPT = 0x03  # Ctrl-C
PATIENCE = 3  # so many of them without an answer leave too
END_OF_INPUT = 0x04  # Ctrl-D: the guest's shell powers off
SLICE = 20_000_000 * MILLI  # virtual time between two looks at the keyboard


@contextlib.contextmanager
def _raw(terminal: int | None) -> Iterator[None]:
    """The terminal in raw mode, and back again whatever happens."""
    if terminal is None:
        yield
        return
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def say(text: str) -> None:
    """A line for the user besides the guest's console. A terminal may be in raw mode."""
    end = "\r\n" if sys.stderr.isatty() else "\n"
    sys.stdout.flush()
    sys.stderr.write(f"hv: {text}{end}")
    sys.stderr.flush()


class Left(Exception):
    """The user has typed Ctrl-]."""


class Keyboard:
    """What the user types: on a terminal, or into a pipe; nothing when a command is all that there is."""

    def __init__(self, *, piped: bool) -> None:
        self.input = sys.stdin.fileno() if piped else None
        self.terminal = self.input if self.input is not None and os.isatty(self.input) else None
        self.typed = b""  # while hv was waiting for somebody else

    def look(self) -> None:
        """For somebody who waits for the world outside: raise what should end that."""
        check_interrupt()
        if self.terminal is not None and _has_input(self.terminal):
            self.typed += self._take(self.terminal)

    def ready(self) -> bool:
        return bool(self.typed) or (self.input is not None and _has_input(self.input))

    def read(self) -> bytes:
        """Some bytes, waiting for them if need be; none at the end of the input. Raises Left."""
        assert self.input is not None
        data, self.typed = self.typed or self._take(self.input), b""
        return data

    def _take(self, input: int) -> bytes:
        data = os.read(input, 4096)
        if self.terminal is not None and LEAVE in data:
            raise Left
        return data


def _has_input(file: int) -> bool:
    return bool(select.select([file], [], [], 0)[0])


class Session:
    """One guest with one user. After each operation a line in brackets says what it exited for."""

    def __init__(self, vm: Vm, keyboard: Keyboard, command: str | None) -> None:
        self.vm = vm
        self.command = command
        self.keyboard = keyboard
        self.windows = vm.machine.probe.window  # 1: the boot's own, which nobody asked for
        self.unanswered = 0  # how often the user has typed Ctrl-C since the guest last said something

    def run(self) -> int:
        """Run to the end. Returns the exit status of hv."""
        self.vm.console.on_output = self._show
        if self.command is not None:
            self.vm.console.feed(self.command.encode() + b"\n" + bytes([END_OF_INPUT]))
        try:
            with _raw(self.keyboard.terminal):
                if self.keyboard.terminal is not None:
                    say("Ctrl-C interrupts the guest's command, Ctrl-] leaves")
                ended = self._loop()
        except Left:
            ended = None
        except KeyboardInterrupt:
            sys.stdout.flush()
            return 130
        sys.stdout.flush()
        return self._finish(ended)

    def _show(self, data: bytes) -> None:
        self.vm.console.output.clear()  # nobody reads it here, and a session may be long
        self.unanswered = 0
        sys.stdout.buffer.write(data)
        if data == b"\n":
            self._report_windows()  # behind the line with which the guest itself reports the operation
        if data == b"\n" or self.keyboard.terminal is not None:
            sys.stdout.buffer.flush()

    def _loop(self) -> Ended | None:
        """None: the user left."""
        unended = False  # the last line has no end: Ctrl-D would not be taken as one
        while True:
            if self.keyboard.terminal is not None or not self.vm.machine.probe.window & 1:
                self.vm.console.pump(self.vm.serial)  # a busy guest never waits for input, and gets it all the same
            outcome = self.vm.run(self.vm.now + SLICE)
            if isinstance(outcome, Ended):
                return outcome
            wait = isinstance(outcome, Idle) and not self.vm.console.input
            if wait:
                sys.stdout.flush()
            if self.keyboard.input is None:
                if wait:
                    return None
                continue
            if wait or self.keyboard.ready():
                data = self.keyboard.read()
                if data:
                    unended = not data.endswith(b"\n")
                else:
                    data, self.keyboard.input = (b"\n" if unended else b"") + bytes([END_OF_INPUT]), None
                if self.keyboard.terminal is not None and self._gives_up(data):
                    return None
                self.vm.console.feed(data)

    def _gives_up(self, keys: bytes) -> bool:
        """The user has asked a guest to stop, again and again, and it has said nothing."""
        if INTERRUPT not in keys:
            return False
        self.unanswered += 1
        if self.unanswered == PATIENCE - 1:
            say("the guest does not answer; Ctrl-C once more leaves, as Ctrl-] does")
        return self.unanswered >= PATIENCE

    def _report_windows(self) -> None:
        """After an operation: what it exited for, in its last round."""
        windows = self.vm.machine.probe.windows
        if len(windows) > self.windows:
            line = last_window(self.vm)
            sys.stdout.buffer.write((line + "\r\n" if self.keyboard.terminal is not None else line + "\n").encode())
        self.windows = max(self.windows, len(windows))

    def _finish(self, ended: Ended | None) -> int:
        if self.keyboard.terminal is not None:
            sys.stdout.write("\n")
        if ended is None or ended.cause == "power-off":
            for note in self.vm.mode.notes():
                print(f"[hv: {note}]")
            return 0
        print(f"hv: {ended.report}", file=sys.stderr)
        print(report(self.vm), file=sys.stderr)
        return 1


def run_commands(neighbours: Neighbours, commands: Sequence[str]) -> int:
    """Type its line to each guest and print what each answers, with its number. Returns the exit status of hv.

    They are powered off when all have answered, so that each may ask the others for something. A guest has answered
    when it waits for input, or shows its prompt once more while programs of its go on in the background.
    """
    boots = [vm.machine.probe.window for vm in neighbours.vms]
    for vm, command in zip(neighbours.vms, commands, strict=True):
        vm.console.feed(command.encode() + b"\n")
    while not neighbours.run(_later(neighbours)) and not all(map(_has_answered, neighbours.vms)):
        pass
    for vm in neighbours.vms:
        vm.console.feed(bytes([END_OF_INPUT]))
        vm.console.pump(vm.serial)
    neighbours.run()
    status = 0
    for place, (vm, boot) in enumerate(zip(neighbours.vms, boots, strict=True), 1):
        for line in vm.console.take().replace("\r", "").splitlines():
            print(f"{place}| {line}")
        if len(vm.machine.probe.windows) > boot:
            print(f"{place}| {last_window(vm)}")
        ended = vm.machine.ended
        if ended is not None and ended.cause != "power-off":
            print(f"hv: guest {place}: {ended.report}", file=sys.stderr)
            status = 1
    return status


def _later(neighbours: Neighbours) -> int:
    """When to look again whether all have answered."""
    return min((vm.now for vm in neighbours.vms if vm.machine.ended is None), default=0) + SLICE


def _has_answered(vm: Vm) -> bool:
    said = vm.console.output
    return vm.machine.ended is not None or (said.endswith(PROMPT.encode()) and said.count(PROMPT.encode()) > 1)


def last_window(vm: Vm) -> str:
    """What the last operation, in its last round, exited for."""
    windows = vm.machine.probe.windows
    tallies = vm.ledger.tallies(2 * len(windows) - 1)
    total = sum(tally.count for tally in tallies.values())
    parts = ", ".join(f"{reason} {tally.count}" for reason, tally in tallies.items()) or "none"
    return f"[hv: {total} exits in {number(windows[-1].time / MILLI)} cycles: {parts}]"

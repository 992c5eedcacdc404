"""The command line. Errors are one line on stderr: `hv: what is wrong, and what would be right`.

Exit status: 0 success, 1 a failed run, 2 bad usage.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import cyclopts
import msgspec
from cyclopts import App
from cyclopts.exceptions import RepeatArgumentError

from hv import __version__
from hv.commands import terminal
from hv.commands.lists import doctor, exits, modes, ops, rows
from hv.commands.options import CostModel, Document, Portable, make_settings
from hv.commands.run import run
from hv.commands.table import stat, table
from hv.commands.terminal import print_list, progress_line
from hv.costs import DEFAULT
from hv.documents import check_target, write_document
from hv.errors import HvError
from hv.mode import find_modes
from hv.silicon.x86_64.engine import interrupt
from hv.silicon.x86_64.layout import SiliconError
from hv.workers import YOUNG

WELCOME = """hv, the teaching hypervisor: one guest kernel under every virtualization technique, its exits counted.

Three commands to try next:
  hv table                            the EC2 table, with exits per operation
  hv run nitro                        a guest's console; type bench cpu.syscall 100, leave with Ctrl-]
  hv tui                              the table on the screen, each cell's exits, a guest watched live

hv --help lists all commands."""

app = App(
    name="hv",
    suppress_keyboard_interrupt=False,
    version=f"hv {__version__}",
    version_flags=["--version"],
    help=WELCOME.split("\n", maxsplit=1)[0],
)
COMMANDS = "hv.commands"  # the entry-point group of commands from elsewhere

# As --help lists them; the screen and the labs lie between.
app.command(table, sort_key=0)
app.command(run, sort_key=1)
app.command(stat, sort_key=2)
app.command(rows, sort_key=5)
app.command(ops, sort_key=6)
app.command(modes, sort_key=7)
app.command(exits, sort_key=8)
app.command(doctor, sort_key=9)


@app.default
def welcome() -> None:
    """Say what hv is, and what to try."""
    print(WELCOME)


@app.command(sort_key=3)
def tui(*, cost_model: CostModel = DEFAULT, portable: Portable = False) -> int:
    """Open the table on the screen: run rows, look at their exits, watch a guest live. F1 helps."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise HvError("hv tui needs a terminal; hv table prints the same table anywhere")
    if terminal.out.is_dumb_terminal:
        raise HvError(f"hv tui needs a terminal that draws, not TERM={os.environ['TERM']}; hv table prints the table")
    from tui.app import HvApp

    settings = make_settings(100, 0, False, cost_model, portable, None)
    return asyncio.run(HvApp(find_modes(), settings).run_on_terminal())


@app.command(sort_key=10)
def bench(*, json: Document = None) -> int:
    """Measure how fast hv is, as ratios within this run.

    Parameters
    ----------
    json
        Write the ratios as JSON to a file, or - for stdout.
    """
    from hv.benchmark import Bench
    from tui.bench import screen_ratios

    if json is not None:
        check_target(json)
    settings, modes = make_settings(100, 0, False, DEFAULT, False, None), find_modes()
    with progress_line() as progress:
        ratios = Bench(modes, settings).run(lambda what: progress("bench", what))
        progress("bench", "the screen")
        ratios += screen_ratios(modes, settings)
    if json is not None:
        write_document(json, msgspec.json.format(msgspec.json.encode(ratios), indent=1).decode() + "\n")
    if json != "-":
        lines = [
            [r.name, f"{r.value:.2f} {r.unit}", f"{'at most' if r.at_most else 'at least'} {r.bound:g}",
             "ok" if r.good else "MISSED"]
            for r in ratios
        ]  # fmt: skip
        print_list(["ratio", "measured", "bound", ""], lines)
    return 0 if all(ratio.good for ratio in ratios) else 1


def _one_line(error: cyclopts.CycloptsError) -> str:
    """A message of the command-line parser as one plain line."""
    command = " ".join(error.command_chain or ())
    match error:
        case cyclopts.UnusedCliTokensError(unused_tokens=tokens):
            extra = " ".join(tokens or [])
            text = f"{command} has no use for {extra!r}" if command else f"no command is called {extra!r}"
        case cyclopts.MissingArgumentError(argument=argument, root_input_tokens=tokens) if argument is not None:
            given = not set(tokens or []).isdisjoint(argument.names)
            text = f"{command} needs {'a value for ' if given else ''}{argument.name}"
        case RepeatArgumentError(token=token):
            text = f"{command} takes {token.keyword} once"
        case _:
            text = " ".join(str(error).split()).rstrip(".?").replace(". Did you mean", ", did you mean")
            text = text[:1].lower() + text[1:]
    return f"{text}; {' '.join(['hv', *(error.command_chain or ())])} --help lists what there is"


@functools.cache
def _join_commands() -> None:
    """Take in the commands that other packages bring: each entry point of the group names a cyclopts App."""
    for point in sorted(entry_points(group=COMMANDS), key=lambda point: point.name):
        try:
            app.command(point.load(), name=point.name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody else's code; hv itself goes on
            app.command(_broken(point, error), name=point.name)


def _broken(point: EntryPoint, error: BaseException) -> Callable[[], None]:
    """A command that cannot be loaded says so when it is called."""

    def broken(*_: str) -> None:
        """(cannot be loaded)"""
        text = " ".join(str(error).split()) or type(error).__name__
        raise HvError(f"command {point.name} ({point.value}) cannot be loaded: {text}", 1)

    return broken


def main(arguments: list[str] | None = None) -> None:
    """Run a command, and end the process with its status. All errors become one line."""
    gc.set_threshold(YOUNG)
    _mend_streams()
    try:
        if threading.current_thread() is threading.main_thread():
            _heed_signals()
        _join_commands()
        status = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value",
            console=terminal.out, error_console=terminal.err,
        )  # fmt: skip
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except cyclopts.CycloptsError as error:
        _fail(_one_line(error), 2)
    except HvError as error:
        _fail(str(error), error.status)
    except SiliconError as error:
        _fail(f"{error}; hv doctor says more", 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        _drop_output()  # whoever read has gone: say nothing more
        sys.exit(1)
    except OSError as error:
        _drop_output()
        _fail(f"cannot write the output: {error.strerror}", 1)


def _heed_signals() -> None:
    """A signal that ends hv does so by an exception, also out of a running guest, so that the terminal is put right."""
    signal.signal(signal.SIGINT, lambda *_: interrupt(KeyboardInterrupt()))
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, lambda number, _: interrupt(SystemExit(128 + number)))


def _drop_output() -> None:
    """Let what is still in stdout's buffer go nowhere, so that the interpreter's last flush is silent."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _mend_streams() -> None:
    """A closed stream becomes an empty one; a character that the terminal's encoding lacks becomes a question mark."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123 - stays open as long as the process
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
        else:
            stream.reconfigure(errors="replace")


def _fail(message: str, status: int) -> None:
    print(f"hv: {message}", file=sys.stderr)
    sys.exit(status)

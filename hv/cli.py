"""The command line. Errors are one line on stderr: `hv: what is wrong, and what would be right`.

Exit status: 0 success, 1 a failed run, 2 bad usage.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TextIO

import cyclopts
import msgspec
from cyclopts import App
from cyclopts.exceptions import RepeatArgumentError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as ProgressBar
from rich.progress import SpinnerColumn, TextColumn
from rich.table import Table

from hv import __version__
from hv.costs import DEFAULT, load
from hv.documents import check_target, write_document
from hv.errors import HvError
from hv.exits import REASONS
from hv.host.outside import Outside
from hv.loader import Guest, default_guest, load_guest
from hv.measure import NotThere, Progress, RowRunner, Settings, run_table, table_of
from hv.mode import Mode, find_modes
from hv.neighbours import MOST_GUESTS, Neighbours
from hv.ops import OPS, find_op, select
from hv.options import (
    Changes,
    Cpus,
    Document,
    File,
    Flag,
    Function,
    Globs,
    Image,
    Lines,
    Mib,
    Model,
    Operation,
    Rows,
    Url,
    Whole,
)
from hv.silicon.x86_64.engine import interrupt
from hv.silicon.x86_64.layout import SiliconError
from hv.table import COLUMNS, ROWS, SHORT, Impossible, Row, customize, find_row, machine_modes, missing_mode
from hv.vm import DEFAULT_MIB, Vm, check_size, count_cpus
from hv.workers import measure_rows, worthwhile

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
WIDE = 140  # columns, where there is no terminal that says how wide it is
MOST_ITERATIONS = 10_000
COMMANDS = "hv.commands"  # the entry-point group of commands from elsewhere


def _console(stream: TextIO | None, *, stderr: bool = False) -> Console:
    wide = stream is None or not (stream.isatty() or "COLUMNS" in os.environ)
    return Console(stderr=stderr, highlight=False, width=WIDE if wide else None)


out = _console(sys.stdout)
err = _console(sys.stderr, stderr=True)


@app.default
def welcome() -> None:
    """Say what hv is, and what to try."""
    print(WELCOME)


def _list(heading: list[str], lines: list[list[str]]) -> None:
    drawn = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for index, title in enumerate(heading):
        drawn.add_column(title, no_wrap=index == 0, overflow="fold")
    for line in lines:
        drawn.add_row(*line)
    out.print(drawn)


def _show(drawn: Table) -> None:
    """Print a table of numbers. One that needs more columns than the terminal has is not cut off."""
    from hv.report import needed_width

    out.width = max(out.width, needed_width(drawn))
    out.print(drawn)


@app.command(sort_key=5)
def rows() -> None:
    """List the rows of the table, and the technique in each cell."""
    modes = find_modes()
    lines = []
    for row in ROWS.values():
        missing = missing_mode(row, modes)
        state = "" if missing is None else f"not built yet (mode {missing})"
        lines.append([row.id, row.label, *row.cells.values(), state or row.drivers])
    _list(["row", "tech", *(SHORT[column] for column in COLUMNS), "with"], lines)


@app.command(sort_key=6)
def ops() -> None:
    """List the operations."""
    _list(["operation", "meaning"], [[op.id, op.meaning] for op in OPS.values()])


@app.command(sort_key=7)
def modes() -> None:
    """List the installed modes."""
    lines = [
        [mode.id, " ".join(f"{column}={cell}" for column, cell in mode.cells.items()), mode.summary]
        for mode in find_modes().values()
    ]
    _list(["mode", "provides", "technique"], lines)


@app.command(sort_key=8)
def exits() -> None:
    """List the reasons for which a guest exits to its hypervisor."""
    if out.width >= WIDE:
        _list(["reason", "AMD", "Intel", "meaning"], [[r.id, r.amd, r.intel, r.meaning] for r in REASONS.values()])
    else:
        names = {r.id: r.amd if r.amd == r.intel else f"{r.amd}; {r.intel}" for r in REASONS.values()}
        _list(["reason", "meaning (AMD; Intel)"], [[r.id, f"{r.meaning} ({names[r.id]})"] for r in REASONS.values()])


@app.command(sort_key=9)
def doctor() -> int:
    """Check that hv can run here: Unicorn, both paths, the guest, the terminal, optional tools."""
    from hv.doctor import examine

    findings = list(examine())
    _list(["", "what", "detail"], [[finding.state, finding.what, finding.detail] for finding in findings])
    return 1 if any(finding.state == "bad" for finding in findings) else 0


@contextmanager
def _progress() -> Iterator[Progress]:
    """A line on stderr that says what runs, of each row that does; only on a terminal."""
    running: dict[str, str] = {}
    with ProgressBar(
        SpinnerColumn(), TextColumn("{task.description}"), console=err, transient=True, disable=not err.file.isatty()
    ) as bar:
        task = bar.add_task("")

        def show(row: str, what: str | None) -> None:
            if what is None:
                running.pop(row, None)
            else:
                running[row] = what
            bar.update(task, description="  ".join(f"{row}: {what}" for row, what in running.items()))

        yield show


def _settings(iterations: int, seed: int, cold: bool, cost_model: str, portable: bool, kernel: Path | None) -> Settings:
    if not 1 <= iterations <= MOST_ITERATIONS:
        raise HvError(f"--iterations takes 1 to {MOST_ITERATIONS}, not {iterations}")
    if not 0 <= seed < 1 << 63:
        raise HvError(f"--seed takes 0 to 2^63-1, not {seed}")
    guest = load_guest(kernel or default_guest())
    return Settings(guest, load(cost_model), iterations, seed, cold, portable)


def _choose(names: str | None, changes: list[str], installed: Mapping[str, type[Mode]]) -> list[Row]:
    """The rows named, each once; all rows when none are.

    A row that a change makes impossible stays as it is if it was named, to be compared with, and is left out if not.
    """
    wanted = list(ROWS) if names is None else list(dict.fromkeys(name.strip() for name in names.split(",")))
    chosen, refused = [], []
    for row in map(find_row, wanted):
        try:
            chosen.append(customize(row, changes, installed))
        except Impossible as error:
            refused.append(error)
            if names is not None:
                chosen.append(row)
    if len(refused) == len(wanted):
        raise refused[0]
    if names is not None:
        for why in refused:
            sys.stderr.write(f"hv: {why}; it is measured as it is\n")
    return chosen


@app.command(sort_key=0)
def table(
    *, rows: Rows = None, ops: Globs = None, set: Changes = None, iterations: Whole = 100, seed: Whole = 0,
    cold: Flag = False, cost_model: Model = DEFAULT, portable: Flag = False, kernel: File = None,
    json: Document = None, csv: Document = None, html: Document = None,
) -> None:  # fmt: skip
    """Run operations on rows and print exits per operation.

    Parameters
    ----------
    rows
        Row ids, comma-separated. Without it: all.
    ops
        Operations, comma-separated globs, e.g. 'cpu.*'. Without it: the article's grid.
    iterations
        How often each operation runs, 1 to 10000; of those that go in bursts, how many bursts of 32.
    seed
        Seed of the operations' payload.
    cold
        Count the first round instead of the second.
    cost_model
        A built-in cost model, or a TOML file.
    portable
        Use the path without compiled microcode: the same numbers, slowly.
    kernel
        Another guest ELF file.
    json
        Write the results as JSON to a file, or - for stdout.
    csv
        Write the results as CSV to a file, or - for stdout.
    html
        Write the tables as one HTML page to a file, or - for stdout.
    """
    from hv import report

    installed = find_modes()
    settings = _settings(iterations, seed, cold, cost_model, portable, kernel)
    documents = [target for target in (json, csv, html) if target is not None]
    if documents.count("-") > 1:
        raise HvError("only one of --json, --csv and --html can go to stdout")
    for target in documents:
        check_target(target)  # now, and not after all that measuring
    chosen = _choose(rows, set or [], installed)
    unbuilt = {row.id: mode for row in chosen if (mode := missing_mode(row, installed)) is not None}
    if rows is not None and unbuilt:
        row, mode = next(iter(unbuilt.items()))
        raise HvError(f"row {row} is not built yet: it needs mode {mode}", 1)
    # A document carries every operation unless some are named; the grid needs the headlines only.
    wanted = select("*" if ops is None and documents else ops)
    built = [row for row in chosen if row.id not in unbuilt]
    workers = worthwhile(len(built), len(wanted))
    with _progress() as progress:
        if workers > 1:
            result = table_of(measure_rows(built, wanted, settings, progress, workers), settings)
        else:
            result = run_table(built, wanted, installed, settings, progress)
    if json is not None:
        write_document(json, msgspec.json.format(msgspec.json.encode(result), indent=1).decode() + "\n")
    if csv is not None:
        write_document(csv, report.as_csv(result))
    if html is not None:
        write_document(html, report.as_html(chosen, wanted, result, unbuilt))
    if "-" not in documents:
        if ops is None:
            _show(report.grid(chosen, result, unbuilt, out.width))
        else:
            out.print(report.operations(wanted, result, out.width))


@app.command(sort_key=2)
def stat(
    row: str, /, *, op: Operation, set: Changes = None, iterations: Whole = 100, seed: Whole = 0,
    cold: Flag = False, cost_model: Model = DEFAULT, portable: Flag = False, kernel: File = None,
) -> None:  # fmt: skip
    """Show one operation's exits by reason, as perf kvm stat does.

    Parameters
    ----------
    row
        A row id; hv rows lists them.
    op
        An operation; hv ops lists them.
    iterations
        How often the operation runs, 1 to 10000; of one that goes in bursts, how many bursts of 32.
    seed
        Seed of the operation's payload.
    cold
        Count the first round instead of the second.
    cost_model
        A built-in cost model, or a TOML file.
    portable
        Use the path without compiled microcode.
    kernel
        Another guest ELF file.
    """
    from hv import report

    installed = find_modes()
    settings = _settings(iterations, seed, cold, cost_model, portable, kernel)
    operation = find_op(op)
    chosen = customize(find_row(row), set or [], installed)
    with closing(RowRunner(chosen, installed, settings)) as runner:
        measured = runner.run(operation)
    if isinstance(measured, NotThere):
        raise HvError(f"row {chosen.id} has no {op}: {measured.na}", 1)
    _show(report.stat(chosen.id, operation, measured, cold))


@app.command(sort_key=1)
def run(
    row: str, /, *, set: Changes = None, m: Mib = DEFAULT_MIB, smp: Cpus = None, guests: Whole = 1,
    commands: Lines = None, pcap: File = None, drive: Image = None, nbd: Url = None,
    show_translation: Function = None, cost_model: Model = DEFAULT, portable: Flag = False, kernel: File = None,
) -> int:  # fmt: skip
    """Boot a row and give the guest's console. Ctrl-] leaves; the end of piped input powers the guest off.

    Ctrl-C goes to the guest, which ends its command; three that it does not answer leave. In a pipe Ctrl-C ends hv.

    Parameters
    ----------
    row
        A row id; hv rows lists them.
    m
        Memory in MiB.
    smp
        Number of CPUs: 2, or as many as the row can have.
    guests
        So many guests side by side, which share the row's cards, each with a function of its own; takes -c, once for
        all or once for each.
    commands
        Type this line, print what the guest answers, and power off.
    pcap
        Write what goes over the wire to this file, for Wireshark or tcpdump.
    drive
        The local disk: a raw image. Default: a small one in $XDG_DATA_HOME/hv (~/.local/share/hv), made on first use.
    nbd
        The remote disk: nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH. Default: a small one, likewise.
    show_translation
        Print a function of the guest's kernel beside its translation, when the session is over.
    cost_model
        A built-in cost model, or a TOML file.
    portable
        Use the path without compiled microcode.
    kernel
        Another guest ELF file.
    """
    from hv.host.disks import local_disk, remote_disk
    from hv.session import Keyboard, Session, say

    installed = find_modes()
    chosen = machine_modes(customize(find_row(row), set or [], installed), installed)
    guest = load_guest(kernel or default_guest())
    check_size(guest, m)  # before anything is said of disks
    count_cpus(chosen["cpu"], smp)
    function = None if show_translation is None else _find_function(guest, show_translation)
    if pcap is not None and "net" not in chosen:
        raise HvError(f"--pcap: row {row} has no network card yet", 1)
    for option, given, column in (("-drive", drive, "local"), ("-nbd", nbd, "remote")):
        if given is not None and column not in chosen:
            raise HvError(f"{option}: row {row} has no {column} disk yet", 1)
    keyboard = Keyboard(piped=commands is None)
    outside = Outside(
        pcap=pcap,
        local=local_disk(drive, say) if "local" in chosen else None,
        remote=remote_disk(nbd, say, keyboard.look) if "remote" in chosen else None,
    )
    if guests != 1 or len(commands or []) > 1:
        return _several(
            guests,
            commands or [],
            partial(Vm, chosen, guest, load(cost_model), mib=m, smp=smp, portable=portable),
            outside,
        )
    vm = Vm(chosen, guest, load(cost_model), mib=m, smp=smp, portable=portable, outside=outside)
    with closing(vm):
        status = Session(vm, keyboard, commands[0] if commands else None).run()
        if show_translation is not None and function is not None:
            _show_translation(vm, show_translation, *function)
        return status


def _several(guests: int, commands: list[str], build: Callable[..., Vm], outside: Outside) -> int:
    """Guests side by side. The disks of all but the first are in memory."""
    from hv.session import run_commands

    if not 1 <= guests <= MOST_GUESTS or len(commands) not in (1, guests):
        raise HvError(f"--guests takes 1 to {MOST_GUESTS}, and needs -c COMMAND once for all or once for each")
    neighbours = Neighbours([outside, *(Outside() for _ in range(guests - 1))])
    with ExitStack() as stack:
        for own in neighbours.outsides:
            stack.enter_context(closing(build(outside=own, neighbours=neighbours)))
        return run_commands(neighbours, commands if len(commands) == guests else commands * guests)


def _find_function(guest: Guest, name: str) -> tuple[int, int]:
    """Where a function of the guest's kernel begins and ends."""
    from hv.crash import Symbols

    extent = Symbols(guest).extent(name)
    if extent is None:
        raise HvError(f"--show-translation: the guest has no function {name!r}")
    return extent


def _show_translation(vm: Vm, function: str, start: int, end: int) -> None:
    lines = vm.mode.translation(start, end)
    if lines is None:
        raise HvError(f"--show-translation: mode {vm.mode.id} translates nothing; full-emulation does", 1)
    if not lines:
        raise HvError(f"--show-translation: {function} has not run, so it has no translation", 1)
    _list([f"guest: {function}", "translation"], [[escape(guest), escape("\n".join(code))] for guest, code in lines])


@app.command(sort_key=3)
def tui(*, cost_model: Model = DEFAULT, portable: Flag = False) -> int:
    """Open the table on the screen: run rows, look at their exits, watch a guest live. F1 helps.

    Parameters
    ----------
    cost_model
        A built-in cost model, or a TOML file.
    portable
        Use the path without compiled microcode: the same numbers, slowly.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise HvError("hv tui needs a terminal; hv table prints the same table anywhere")
    if out.is_dumb_terminal:
        raise HvError(f"hv tui needs a terminal that draws, not TERM={os.environ['TERM']}; hv table prints the table")
    from tui.app import HvApp

    settings = _settings(100, 0, False, cost_model, portable, None)
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
    settings, modes = _settings(100, 0, False, DEFAULT, False, None), find_modes()
    with _progress() as progress:
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
        _list(["ratio", "measured", "bound", ""], lines)
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
    _mend_streams()
    try:
        if threading.current_thread() is threading.main_thread():
            _heed_signals()
        _join_commands()
        status = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value",
            console=out, error_console=err,
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

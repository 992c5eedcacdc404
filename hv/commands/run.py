"""hv run: a row's guest, and its console."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

from rich.markup import escape

from hv.commands.options import (
    Changes,
    CostModel,
    Cpus,
    File,
    Function,
    Image,
    Kernel,
    Lines,
    Mib,
    Portable,
    Url,
    Whole,
)
from hv.commands.terminal import print_list
from hv.costs import DEFAULT, load
from hv.errors import HvError
from hv.host.outside import Outside
from hv.loader import Guest, default_guest, load_guest
from hv.mode import find_modes
from hv.neighbours import MOST_GUESTS, Neighbours
from hv.table import customize, find_row, machine_modes
from hv.vm import DEFAULT_MIB, Vm, check_size, count_cpus


def run(
    row: str, /, *, set: Changes = None, m: Mib = DEFAULT_MIB, smp: Cpus = None, guests: Whole = 1,
    commands: Lines = None, pcap: File = None, drive: Image = None, nbd: Url = None,
    show_translation: Function = None, cost_model: CostModel = DEFAULT, portable: Portable = False,
    kernel: Kernel = None,
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
        all or once for each. --pcap, -drive and -nbd are the first one's; the disks of the others are in memory.
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
    several = guests != 1 or len(commands or []) > 1
    if several and (not 1 <= guests <= MOST_GUESTS or len(commands or []) not in (1, guests)):
        raise HvError(f"--guests takes 1 to {MOST_GUESTS}, and needs -c COMMAND once for all or once for each")
    keyboard = Keyboard(piped=commands is None)
    outside = Outside(
        pcap=pcap,
        local=local_disk(drive, say) if "local" in chosen else None,
        remote=remote_disk(nbd, say, keyboard.look) if "remote" in chosen else None,
    )
    if several:
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
    print_list(
        [f"guest: {function}", "translation"], [[escape(guest), escape("\n".join(code))] for guest, code in lines]
    )

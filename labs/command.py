"""`hv lab`: list the labs, start one, check one. Joins the command line by the entry-point group hv.commands."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cyclopts import App

from hv.errors import HvError
from labs.catalogue import Entry, all_labs, find_lab, lab_in
from labs.grader import parent, report

app = App(name="lab", help="Labs: write parts of a hypervisor yourself.")
HANDOUT = "handout.md"


@app.default
@app.command(name="list")
def list_labs() -> None:
    """List the labs. In a pipe: number, name and points, separated by tabs."""
    for entry in all_labs():
        if sys.stdout.isatty():
            print(f"{entry.number:>3}  {entry.lab.title:<24} {entry.lab.points:>4} points")
        else:
            print(f"{entry.number}\t{entry.lab.title}\t{entry.lab.points}")
    if sys.stdout.isatty():
        print("\nhv lab start 1 makes a folder with all that you need.")


@app.command
def start(number: int, /) -> None:
    """Make a folder labN here, with the handout and the file to work on.

    Parameters
    ----------
    number
        The lab's number; hv lab list shows them.
    """
    entry = find_lab(number)
    target = Path(f"lab{number}")
    try:
        shutil.copytree(entry.folder / "starter", target, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(entry.folder / HANDOUT, target)
    except FileExistsError:
        raise HvError(f"{target} is there already, and stays as it is; cd {target}, or give it another name") from None
    except OSError as error:
        raise HvError(f"cannot make {target}: {error.strerror}", 1) from None
    print(f"lab {number}, {entry.lab.title}: {target}/{entry.lab.file} is yours to write.")
    print(f"Next:  cd {target}  then  hv lab read  then  hv lab check")


@app.command
def read(number: int | None = None, /) -> None:
    """Show the handout."""
    entry = _here()[0] if number is None else find_lab(number)
    text = (entry.folder / HANDOUT).read_text(encoding="utf-8")
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
        print(f"\nThe files of hv that it names lie in {entry.folder.parent.parent}")
    else:
        print(text, end="")


@app.command
def check(number: int | None = None, /) -> int:
    """Check your work in this folder. Exit status 0 when all points are there, otherwise 1."""
    entry, folder = _here(number)
    outcome = parent.check(entry.number, len(entry.lab.steps), folder / entry.lab.file)
    print(report.text(entry.number, entry.lab, outcome, shutil.get_terminal_size().columns))
    return 0 if report.full(entry.lab, outcome) else 1


def _here(number: int | None = None) -> tuple[Entry, Path]:
    """The lab that the user is at, and the folder that it lies in: this one, or labN in it."""
    here = Path.cwd()
    entry = lab_in(here) if number is None else find_lab(number)
    below = [entry] if entry is not None else all_labs()
    for found in below:
        for folder in (here, here / f"lab{found.number}"):
            if (folder / found.lab.file).is_file():
                return found, folder
    file = below[0].lab.file
    raise HvError(f"no {file} here; go to your lab's folder, or make one with hv lab start {below[0].number}")

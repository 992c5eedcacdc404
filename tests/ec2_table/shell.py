"""A booted row at whose prompt a test can type, and what more than one column is asked there."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator

from hv.costs import load
from hv.host.nbd import Nbd
from hv.host.outside import Outside
from hv.host.store import MemoryStore, Store, StoreError
from hv.loader import default_guest, load_guest
from hv.measure import PROMPT, Measured, RowRunner
from hv.mode import find_modes
from hv.ops import OPS
from hv.silicon.timing import MILLI
from hv.silicon.x86_64.machine import Idle
from hv.table import machine_modes
from hv.vm import Vm
from tests.conftest import hv_environment
from tests.ec2_table.measuring import row_named

LIMIT = 2_000_000_000 * MILLI


class Shell:
    """A booted row, with disks of the test's own, at whose prompt one can type."""

    def __init__(self, row: str, local: Store | None = None, remote: Nbd | None = None) -> None:
        modes = machine_modes(row_named(row), find_modes())
        self.vm = Vm(modes, load_guest(default_guest()), load(), outside=Outside(local=local, remote=remote))
        self.run()

    def run(self) -> str:
        outcome = self.vm.run(self.vm.now + LIMIT)
        assert isinstance(outcome, Idle), outcome
        text = self.vm.console.take()
        assert text.endswith(PROMPT)
        return text

    def type(self, line: str) -> str:
        """Type a line; what the guest answers, without the echo and the next prompt."""
        self.vm.console.feed(line.encode() + b"\n")
        return self.run().replace("\r", "").removeprefix(line + "\n").removesuffix(PROMPT)


@contextlib.contextmanager
def shell(row: str, local: Store | None = None, remote: Nbd | None = None) -> Iterator[Shell]:
    booted = Shell(row, local, remote)
    try:
        yield booted
    finally:
        booted.vm.close()


def check_continued(one: Shell, other: Shell, cut: int) -> None:
    """`one` has something typed: cut after so many millicycles and continued by `other`, it says and does the same."""
    one.vm.run(one.vm.now + cut)
    saved = one.vm.snapshot()
    straight = one.run(), one.vm.ledger.totals(), one.vm.now
    other.vm.restore(saved)
    again = other.run(), other.vm.ledger.totals(), other.vm.now
    assert straight[1:] == again[1:]
    assert straight[0].endswith(again[0])


def check_paused(runner: RowRunner, op: str, iterations: int, slice: int) -> None:
    """An operation of a machine that is stopped every `slice` millicycles, put away and taken up again."""
    whole = runner.run(OPS[op])
    assert isinstance(whole, Measured)
    vm = runner.vm
    vm.restore(runner.prompt)
    vm.console.feed(f"bench {op} {iterations} 0\n".encode())
    text, pauses = "", 0
    while (said := re.search(r"result=(\w{16})", text)) is None:
        vm.run(vm.now + slice)
        text += vm.console.take()
        vm.restore(vm.snapshot())
        pauses += 1
    assert pauses > 5
    assert said[1] == whole.result.result
    assert vm.machine.probe.windows[-1].time == whole.time


class Bad(MemoryStore):
    """Some sectors cannot be read, others not written."""

    def read(self, sector: int, count: int) -> bytes:
        if sector <= 80 < sector + count:
            raise StoreError("bad", 80)
        return super().read(sector, count)

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        if sector == 160:
            raise StoreError("bad", 160)
        super().write(sector, data)


def check_bad_sectors(guest: Shell) -> None:
    """With `Bad` as its local disk: what the guest says of the two sectors, and that it goes on."""
    assert guest.type("cat local 10") == "cat: input/output error\n"
    assert guest.type("cat local 11").startswith("0000  00")
    assert guest.type("write local 20 x") == ""
    assert guest.type("flush local") == "flush: input/output error\n"
    assert guest.type("write local 21 y") == ""
    assert guest.type("cat local 21").startswith("0000  79 0a")


def hv_run(*arguments: str) -> subprocess.Popen[str]:
    """`hv run` with its input and output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "hv", "run", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=hv_environment(),
    )  # fmt: skip


def read_until(process: subprocess.Popen[str], wanted: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if wanted in line:
            return
    raise AssertionError(f"{wanted} did not come: {process.stderr and process.stderr.read()}")

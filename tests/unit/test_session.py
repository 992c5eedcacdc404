"""`hv run`: one command, a pipe, and a real terminal with somebody at the keys."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from hv.host.store import MemoryStore
from hv.loader import Guest
from tests.conftest import ROOT, TIMEOUT, RunHv, hv_environment
from tests.nbd_serving import serving

ROWS = ("nitro", "metal")
LEAVE, CTRL_C, CTRL_D = b"\x1d", b"\x03", b"\x04"


# --- one command, and pipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS)
def test_one_command_prints_its_answer_and_powers_off(row: str, run_hv: RunHv) -> None:
    done = run_hv("run", row, "-c", "bench cpu.syscall 100")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"bench cpu\.syscall iterations=100 cycles=\d+ result=1d124490cf40ad4f", done.stdout)


@pytest.mark.parametrize(("row", "said"), [("nitro", "1 exit"), ("metal", "0 exits")])
def test_after_an_operation_its_exits_are_told_on_a_line_of_their_own(row: str, said: str, run_hv: RunHv) -> None:
    done = run_hv("run", row, "-c", "bench cpu.cpuid 1")
    lines = [line for line in done.stdout.splitlines() if "[hv:" in line]
    assert len(lines) == 1
    assert lines[0].startswith("[hv: " + said[0])
    assert ("cpuid 1" in lines[0]) == (row == "nitro")


def test_the_guest_tells_where_it_runs(run_hv: RunHv) -> None:
    assert "bare metal" in run_hv("run", "metal", "-c", "help").stdout
    assert "hvladder" in run_hv("run", "nitro", "-c", "help").stdout


def test_a_xen_guest_shows_what_its_store_says(run_hv: RunHv) -> None:
    said = run_hv("run", "xen-pv", stdin="xenstore ls device/vif/0\nxenstore read name\nxenstore read none\n").stdout
    for line in ('backend = "/local/domain/0/backend/vif/1/0"', 'state = "4"', "hv", "xenstore: there is no such node"):
        assert line in said.splitlines(), line
    assert "this machine has none" in run_hv("run", "metal", "-c", "xenstore").stdout


def test_an_empty_command_only_boots(run_hv: RunHv) -> None:
    done = run_hv("run", "metal", "-c", "")
    assert (done.returncode, done.stderr) == (0, "")
    assert "hv> " in done.stdout


def test_memory_size_is_what_the_guest_finds(run_hv: RunHv) -> None:
    for mib in (16, 18, 256):
        assert f"memory: {mib} MiB" in run_hv("run", "nitro", "-m", str(mib), "-c", "mem").stdout


@pytest.mark.parametrize("row", ROWS)
def test_piped_lines_are_typed_and_the_end_powers_off(row: str, run_hv: RunHv) -> None:
    done = run_hv("run", row, stdin="echo one two\nbench cpu.in 3\necho last\n")
    assert (done.returncode, done.stderr) == (0, "")
    answers = [line.strip() for line in done.stdout.splitlines()]
    assert answers.index("one two") < answers.index("last")
    assert "\x1b" not in done.stdout


def test_an_empty_pipe_powers_off_at_once(run_hv: RunHv) -> None:
    done = run_hv("run", "metal")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_last_line_without_its_end_is_not_lost(run_hv: RunHv) -> None:
    """Ctrl-D ends the guest on an empty line only, so the line must be ended first."""
    done = run_hv("run", "metal", stdin="echo first\necho unended")
    assert done.returncode == 0
    assert "unended" in [line.strip() for line in done.stdout.splitlines()]


def test_much_input_loses_no_byte(run_hv: RunHv) -> None:
    """The receiver holds 16 bytes; the rest waits until the guest reads."""
    lines = [f"line {number} " + "x" * (number % 60) for number in range(120)]
    done = run_hv("run", "nitro", stdin="".join(f"echo {line}\n" for line in lines))
    assert done.returncode == 0
    answers = [line.rstrip() for line in done.stdout.splitlines()]
    assert [line for line in answers if line.startswith("line ")] == [line.rstrip() for line in lines]


def test_bytes_that_are_no_text_are_harmless() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hv", "run", "metal"],
        input=bytes(byte for byte in range(256) if byte not in (3, 4)) * 3 + b"\necho alive\n", env=hv_environment(),
        cwd=ROOT, capture_output=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


def test_poweroff_ends_it_though_there_is_more_input(run_hv: RunHv) -> None:
    done = run_hv("run", "nitro", stdin="poweroff\necho never\n")
    assert done.returncode == 0
    assert "never" not in [line.strip() for line in done.stdout.splitlines()]


# --- a terminal -------------------------------------------------------------------------------------------------


class Terminal:
    """`hv` on a pseudo-terminal, and the person in front of it."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.screen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hv", *arguments],
            stdin=slave, stdout=slave, stderr=slave, env=hv_environment(**environment), cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait_for(self, words: bytes) -> None:
        """Read until the words have appeared behind what was waited for before."""
        deadline = time.monotonic() + TIMEOUT
        while words not in self.screen:
            assert time.monotonic() < deadline, self.screen
            if select.select([self.master], [], [], 1)[0]:
                self.screen += os.read(self.master, 65536)
            else:
                assert self.process.poll() is None, self.screen
        self.screen = self.screen.partition(words)[2]

    def leave(self) -> int:
        """The exit status, once the process has ended."""
        deadline = time.monotonic() + TIMEOUT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.screen
            if select.select([self.master], [], [], 0.05)[0]:
                self.screen += os.read(self.master, 65536)
        while select.select([self.master], [], [], 0)[0]:
            self.screen += os.read(self.master, 65536)
        return self.process.returncode

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def nitro() -> Iterator[Terminal]:
    terminal = Terminal("run", "nitro")
    yield terminal
    terminal.close()


def test_keys_reach_the_guest_one_by_one_and_ctrl_bracket_leaves(nitro: Terminal) -> None:
    nitro.wait_for(b"hv> ")
    for key in b"echo hello":
        nitro.type(bytes([key]))
        nitro.wait_for(bytes([key]))  # the guest's own echo, not the terminal's
    nitro.type(b"\r")
    nitro.wait_for(b"\r\nhello\r\n")
    nitro.wait_for(b"hv> ")
    raw = nitro.settings()
    assert not raw[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    nitro.type(LEAVE)
    assert nitro.leave() == 0
    assert nitro.settings() == nitro.before
    assert b"Traceback" not in nitro.screen


def test_ctrl_c_at_the_prompt_drops_the_line(nitro: Terminal) -> None:
    nitro.wait_for(b"hv> ")
    nitro.type(b"rubbish" + CTRL_C)
    nitro.wait_for(b"^C")
    nitro.wait_for(b"hv> ")
    nitro.type(b"echo alive\r")
    nitro.wait_for(b"\nalive")
    nitro.type(LEAVE)
    assert nitro.leave() == 0


@pytest.mark.parametrize(
    ("row", "command"),
    [
        ("nitro", "bench cpu.context_switch 100000"),  # two processes, in user mode
        ("nitro", "bench local.read4k 100000"),  # in the kernel, which waits with interrupts on
        ("nitro", "bench cpu.in 20000"),  # with interrupts off: at the end of the round
        ("xen-pv", "bench cpu.fork_exit 100000"),  # the key is an event
        ("emulated", "ping 10.0.2.77 1000000"),  # the shell itself
    ],
)
def test_ctrl_c_ends_a_command_and_nothing_of_it_is_left(row: str, command: str) -> None:
    terminal = Terminal("run", row)
    try:
        terminal.wait_for(b"Ctrl-] leaves")
        terminal.wait_for(b"hv> ")
        terminal.type(command.encode() + b"\r")
        terminal.wait_for(b"\n")
        terminal.type(CTRL_C)
        terminal.wait_for(b"^C")
        terminal.wait_for(b"hv> ")
        terminal.type(b"bench cpu.syscall 3\r")  # which wants to be alone
        terminal.wait_for(b"result=")
        terminal.type(LEAVE)
        assert terminal.leave() == 0
    finally:
        terminal.close()


def test_a_hung_guest_is_left_by_the_third_ctrl_c(guest: Guest, tmp_path: Path) -> None:
    """An operation of the kernel that never ends, with interrupts off."""
    image = bytearray(guest.image)
    elf, address = ELFFile(io.BytesIO(guest.image)), guest.symbols["bench_eoi"]
    (at,) = elf.address_offsets(address)
    image[at : at + 2] = b"\xeb\xfe"  # JMP to itself
    (tmp_path / "hung.elf").write_bytes(image)
    terminal = Terminal("run", "nitro", "--kernel", str(tmp_path / "hung.elf"))
    try:
        terminal.wait_for(b"hv> ")
        terminal.type(b"bench interrupts.eoi 1\r")
        terminal.wait_for(b"\r\n")
        terminal.type(CTRL_C)
        while select.select([terminal.slave], [], [], 0)[0]:  # until hv has read the key
            time.sleep(0.01)
        terminal.type(CTRL_C)
        terminal.wait_for(b"hv: the guest does not answer")
        terminal.type(CTRL_C)
        assert terminal.leave() == 0
        assert terminal.settings() == terminal.before
    finally:
        terminal.close()


def test_ctrl_d_powers_the_guest_off_and_the_terminal_is_as_before(nitro: Terminal) -> None:
    nitro.wait_for(b"hv> ")
    nitro.type(CTRL_D)
    assert nitro.leave() == 0
    assert nitro.settings() == nitro.before


def test_ctrl_bracket_leaves_a_guest_that_computes(nitro: Terminal) -> None:
    nitro.wait_for(b"hv> ")
    nitro.type(b"spin\r")
    nitro.wait_for(b"hv> ")
    nitro.type(LEAVE)
    assert nitro.leave() == 0
    assert nitro.settings() == nitro.before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_a_signal_ends_it_and_the_terminal_is_as_before(nitro: Terminal, number: int) -> None:
    nitro.wait_for(b"hv> ")
    nitro.process.send_signal(number)
    assert nitro.leave() != 0
    assert nitro.settings() == nitro.before
    assert b"Traceback" not in nitro.screen


def test_ctrl_bracket_leaves_a_guest_that_waits_for_a_hung_server(tmp_path: Path) -> None:
    """The server answers while the guest boots, and then no more."""
    hang = threading.Event()
    with serving(tmp_path / "socket", {"disk": MemoryStore(4096)}, hang):
        url = f"nbd+unix:///disk?socket={tmp_path / 'socket'}"
        terminal = Terminal("run", "nitro", "-nbd", url)
        try:
            terminal.wait_for(b"hv> ")
            hang.set()
            terminal.type(b"cat remote 100\r")
            terminal.wait_for(b"\r\n")
            terminal.type(LEAVE)
            assert terminal.leave() == 0
            assert b"does not answer" not in terminal.screen  # as hv says when its patience is over
            assert terminal.settings() == terminal.before
        finally:
            terminal.close()


@pytest.mark.parametrize(
    ("arguments", "sign"),
    [
        (["run", "nitro", "-c", "bench cpu.compute 100000"], b"hv> bench"),
        (["table", "--rows", "nitro", "--ops", "cpu.*", "--iterations", "10000"], b"nitro: "),
        (["table", "--rows", "nitro", "--portable"], b"nitro: "),
        (["bench"], b"bench: "),
    ],
    ids=["run", "table", "portable", "bench"],
)
def test_ctrl_c_ends_every_command_at_once(arguments: list[str], sign: bytes) -> None:
    terminal = Terminal(*arguments)
    try:
        terminal.wait_for(sign)
        terminal.process.send_signal(signal.SIGINT)  # as the terminal does, which is not in raw mode here
        assert terminal.leave() == 130
        assert b"Traceback" not in terminal.screen
    finally:
        terminal.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["term", "hup"])
@pytest.mark.parametrize(
    ("arguments", "sign", "put_right"),
    [(["table", "--rows", "nitro", "--portable"], b"nitro: ", b"\x1b[?25h"), (["tui"], b"AWS EC2", b"\x1b[?1049l")],
    ids=["table", "tui"],
)
def test_a_killed_command_puts_the_terminal_right(
    arguments: list[str], sign: bytes, put_right: bytes, number: int
) -> None:
    """The cursor is seen again, and the shell's screen."""
    terminal = Terminal(*arguments)
    try:
        terminal.wait_for(sign)
        terminal.process.send_signal(number)
        assert terminal.leave() == 128 + number
        assert put_right in terminal.screen  # which holds what came behind the sign
        assert terminal.settings() == terminal.before
        assert b"Traceback" not in terminal.screen
    finally:
        terminal.close()


def test_the_screen_is_refused_where_nothing_can_be_drawn() -> None:
    terminal = Terminal("tui", TERM="dumb")
    try:
        assert terminal.leave() == 2
        assert b"TERM=dumb" in terminal.screen
    finally:
        terminal.close()


def test_ctrl_c_while_hv_is_still_being_loaded_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "cyclopts.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "hv", "rows"], env=hv_environment(PYTHONPATH=str(tmp_path)), cwd=ROOT,
        capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_guest_that_panics_gives_the_terminal_back_and_a_readable_report(nitro: Terminal) -> None:
    nitro.wait_for(b"hv> ")
    nitro.type(b"crash\r")
    nitro.wait_for(b"panic: ")
    assert nitro.leave() == 1
    assert nitro.settings() == nitro.before
    assert b"backtrace:\r\n" in nitro.screen  # printed after the terminal had left raw mode


def test_a_table_on_a_terminal_shows_progress_and_colour_and_cleans_up() -> None:
    terminal = Terminal("table", "--rows", "nitro", "--iterations", "1")
    try:
        assert terminal.leave() == 0
        assert b"nitro: " in terminal.screen
        assert b"\x1b[" in terminal.screen
        assert b"\x1b[?25h" in terminal.screen or b"\x1b[?25l" not in terminal.screen  # the cursor is visible again
    finally:
        terminal.close()


@pytest.mark.parametrize("command", [["table", "--rows", "nitro", "--iterations", "1"], ["rows"], ["ops"], ["exits"]])
def test_no_color_means_no_colour(command: list[str]) -> None:
    """NO_COLOR (no-color.org) is about colour; a progress line may still move the cursor."""
    terminal = Terminal(*command, NO_COLOR="1")
    try:
        assert terminal.leave() == 0
        styles = re.findall(rb"\x1b\[([\d;]*)m", terminal.screen)
        colours = [s for s in styles if re.search(rb"(^|;)(3[0-8]|4[0-8]|9\d|10\d)(;|$)", s)]
        assert colours == []
    finally:
        terminal.close()


def test_an_error_on_a_terminal_is_one_plain_line() -> None:
    terminal = Terminal("run", "nowhere")
    try:
        assert terminal.leave() == 2
        assert terminal.screen.startswith(b"hv: no row is called 'nowhere'")
        assert b"\x1b" not in terminal.screen
    finally:
        terminal.close()

"""The screens with a real guest behind: what the keys do, that nothing ends in a traceback, and pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from textual.pilot import Pilot

from hv.costs import CostModel
from hv.loader import Guest
from hv.measure import Settings
from hv.mode import Mode, find_modes
from hv.ops import OPS
from hv.table import ROWS, machine_modes
from tests.conftest import TIMEOUT, RunHv
from tui.app import HvApp
from tui.console_view import ConsoleView
from tui.exits_view import bar
from tui.help_screen import HelpScreen
from tui.machine_screen import MachineScreen

SMALL, LARGE = (80, 24), (130, 38)


class Picture(SingleFileSnapshotExtension):
    """A snapshot is an SVG file, to be looked at."""

    file_extension = "svg"
    _write_mode = WriteMode.TEXT


@pytest.fixture
def picture(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    return snapshot.use_extension(Picture)


@pytest.fixture
def app(guest: Guest, costs: CostModel, modes: Mapping[str, type[Mode]]) -> HvApp:
    return HvApp(modes, Settings(guest, costs, iterations=10))


def screen_test(size: tuple[int, int], app: HvApp, script: Callable[[Pilot[None]], Any]) -> None:
    """Run the application on a terminal of this size, and a script of a user beside it."""

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await script(pilot)

    asyncio.run(asyncio.wait_for(run(), TIMEOUT))


async def until(pilot: Pilot[None], true: Callable[[], bool]) -> None:
    """Wait for something that another thread brings about."""
    while not true():  # noqa: ASYNC110 - the other thread knows no event of this loop
        await asyncio.sleep(0.02)
    await pilot.pause()


async def type_in(pilot: Pilot[None], line: str) -> None:
    names = {" ": "space", ".": "full_stop", "_": "underscore"}
    await pilot.press(*(names.get(key, key) for key in line), "enter")


def machine(app: HvApp) -> MachineScreen:
    assert isinstance(app.screen, MachineScreen)
    return app.screen


def on_console(app: HvApp) -> str:
    return "\n".join(machine(app).query_one(ConsoleView).text)


async def quiet(pilot: Pilot[None], app: HvApp) -> None:
    """Until the guest waits and the screen has drawn all of it."""
    guest = machine(app).guest
    await until(pilot, lambda: guest.waits or guest.ended is not None)
    await asyncio.sleep(0.5)  # two looks: the rates are zero again
    await pilot.pause()


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_enter_fills_the_rows_cells(size: tuple[int, int], app: HvApp, picture: SnapshotAssertion) -> None:
    async def script(pilot: Pilot[None]) -> None:
        assert app.export_screenshot() == picture(name="before")
        await pilot.press("enter")
        columns = machine_modes(ROWS["nitro"], find_modes())
        all_of_it = {op.id for op in OPS.values() if op.column in columns}
        await until(
            pilot, lambda: app.table.measured.get("nitro", {}).keys() == all_of_it and not app.table.measuring.waiting
        )
        app.table.choose(OPS["cpu.cpuid"])
        await pilot.press("tab", "tab")
        await pilot.pause()
        assert app.export_screenshot() == picture(name="after")

    screen_test(size, app, script)


def test_a_row_that_is_not_built_says_so(
    guest: Guest, costs: CostModel, modes: Mapping[str, type[Mode]], picture: SnapshotAssertion
) -> None:
    built = {id: mode for id, mode in modes.items() if id != "paravirt"}
    app = HvApp(built, Settings(guest, costs, iterations=10))

    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+home", "down", "right", "enter")
        assert app.export_screenshot() == picture
        await pilot.press("m")
        assert app.screen is app.table

    screen_test(SMALL, app, script)


def test_the_cursor_in_the_list_picks_the_operation(app: HvApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("o", "ctrl+home")
        assert app.table.shown["cpu"].id == "cpu.compute"
        await pilot.press("down", "down")
        assert app.table.shown["cpu"].id == "cpu.page_fault"

    screen_test(SMALL, app, script)


def test_a_typed_operation_is_answered_and_its_exits_are_counted(app: HvApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("m")
        await until(pilot, lambda: "hv> " in on_console(app))
        await type_in(pilot, "bench cpu.cpuid 700")
        await until(pilot, lambda: "iterations=700" in on_console(app))
        await quiet(pilot, app)
        assert machine(app).guest.totals()["cpuid"] >= 1400
        stream = machine(app).guest.stream
        assert stream.seen == sum(machine(app).guest.totals().values()) > len(stream.last) == 512
        await pilot.press("escape")
        assert app.screen is app.table

    screen_test(SMALL, app, script)


def test_a_machine_at_its_prompt(app: HvApp, picture: SnapshotAssertion) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("m")
        await until(pilot, lambda: "hv> " in on_console(app))
        await quiet(pilot, app)
        assert app.export_screenshot() == picture

    screen_test(SMALL, app, script)


@pytest.mark.parametrize("row", ["nitro", "metal"])
def test_a_guest_that_computes_still_gets_its_keys_and_stops_at_once(row: str, app: HvApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press(*(["down", "down"] if row == "metal" else []), "m")
        await until(pilot, lambda: "hv> " in on_console(app))
        machine(app).query_one(ConsoleView).typed(b"spin\recho alive\r")  # a pilot would wait for an idle process
        await until(pilot, lambda: "\nalive" in on_console(app))
        guest = machine(app).guest
        await pilot.press("escape")
        assert not guest.is_alive()

    screen_test(SMALL, app, script)


def test_a_guest_that_dies_is_a_line_and_f5_starts_it_again(app: HvApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("m")
        await until(pilot, lambda: "hv> " in on_console(app))
        await type_in(pilot, "crash")
        await until(pilot, lambda: "backtrace" in on_console(app))
        assert machine(app).guest.ended == "the guest's kernel panicked"
        await pilot.press("a", "enter", "f5")
        await until(pilot, lambda: "hv> " in on_console(app))
        assert machine(app).guest.ended is None

    screen_test(SMALL, app, script)


def test_a_mode_that_fails_is_a_line(app: HvApp, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await until(pilot, lambda: not app.table.measuring.waiting)
        assert "no luck" in str(app.table.query_one("#status").render())
        await pilot.press("m")
        await until(pilot, lambda: machine(app).guest.ended is not None)
        await quiet(pilot, app)
        assert "no luck" in str(machine(app).query_one("#status").render())

    def fail(*_: object) -> None:
        raise ValueError("no\nluck")

    monkeypatch.setattr(app.modes["hw-assist"], "start", fail)
    screen_test(SMALL, app, script)


def test_help_and_palette_come_and_go(app: HvApp, picture: SnapshotAssertion) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("f1")
        assert app.export_screenshot() == picture
        await pilot.press("f1", "f1", "escape")
        assert not isinstance(app.screen, HelpScreen)
        await pilot.press("ctrl+p")
        await pilot.pause(0.2)
        await pilot.press("escape")
        assert app.screen is app.table

    screen_test(SMALL, app, script)


KEYS = ("enter up down left right tab shift+tab home end pageup o a r f1 f5 x space "
        "ctrl+c ctrl+d backspace ctrl+p escape enter").split()  # fmt: skip


def test_any_key_at_any_time_and_any_size(app: HvApp) -> None:
    """Each key on the table and on a machine, with the terminal changing under it. An exception would fail the test."""

    async def script(pilot: Pilot[None]) -> None:
        for index, key in enumerate([*KEYS, "m", *KEYS]):
            await pilot.press(key)
            if index % 16 == 0:
                await pilot.resize_terminal(12 + index * 3, 4 + index % 5 * 9)

    screen_test(SMALL, app, script)


def test_without_colour_the_letters_are_still_there(app: HvApp, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(pilot: Pilot[None]) -> None:
        svg = app.export_screenshot()
        assert all(f">&#160;{letter}" in svg or f">{letter}" in svg for letter in ("VS", "VH", "H", "P"))

    monkeypatch.setenv("NO_COLOR", "1")
    screen_test(SMALL, app, script)


def test_a_screenshot_lands_in_the_current_folder(app: HvApp, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("f2", "f2")

    monkeypatch.chdir(tmp_path)
    screen_test(SMALL, app, script)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hv-screen-1.svg", "hv-screen-2.svg"]
    assert "url(http" not in (tmp_path / "hv-screen-1.svg").read_text().replace('"', "")


def test_quitting_in_the_middle_of_a_measurement_leaves_no_thread(app: HvApp) -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("a", "q")

    screen_test(SMALL, app, script)
    assert app.table.measuring.stopping


def test_a_bar_shows_the_smallest_share() -> None:
    assert bar(0, 4) == "    "
    assert bar(0.001, 4) == "▏   "
    assert bar(0.5, 4) == "██  "
    assert bar(1, 4) == "████"


def test_in_a_pipe_it_is_refused_in_one_line(run_hv: RunHv) -> None:
    done = run_hv("tui")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "hv: hv tui needs a terminal; hv table prints the same table anywhere\n"

"""The part of `hv bench` that is about the screen: how fast it answers, and what watching costs the guest.

The application runs in this process, on a terminal that swallows everything. The guest does nothing but exit, which is
the hardest case: every exit needs the interpreter that the screen needs too.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping

from textual import events
from textual.drivers.headless_driver import HeadlessDriver

from hv.benchmark import Ratio
from hv.errors import HvError
from hv.measure import Settings
from hv.mode import Mode
from hv.table import find_row
from tui.app import HvApp
from tui.guest_thread import GuestThread
from tui.machine_screen import MachineScreen

SIZE = (120, 40)
KEYS, BURSTS = 10, 4  # key presses in a burst, and bursts on each screen
SECONDS, ROUNDS = 0.4, 5  # of a measurement of the guest's speed, and how often
FLAT_OUT = b"bench cpu.cpuid 100000\n"  # a second or so


class Nowhere(HeadlessDriver):
    """A terminal that nobody sees; everything is drawn for it all the same."""

    @property
    def is_headless(self) -> bool:
        return False


class Timed(HvApp):
    """The application, with an event that is set at every new frame."""

    def __init__(self, modes: Mapping[str, type[Mode]], settings: Settings) -> None:
        super().__init__(modes, settings)
        self.driver_class = Nowhere
        self.frame = asyncio.Event()

    def post_display_hook(self) -> None:
        self.frame.set()

    async def seconds_to_frame(self, key: str) -> float:
        """Press a key. Host seconds until the next frame is out."""
        await asyncio.sleep(0.03)
        self.frame.clear()
        started = time.perf_counter()
        self.post_message(events.Key(key, None))
        await asyncio.wait_for(self.frame.wait(), 5)
        return time.perf_counter() - started


def screen_ratios(modes: Mapping[str, type[Mode]], settings: Settings) -> list[Ratio]:
    """Milliseconds from a key to a frame, and how much slower a watched guest is."""
    latency, slowdown = asyncio.run(_measure(modes, settings))
    return [
        Ratio("key press to new frame while a guest does nothing but exit, median", latency * 1000, "ms", 50, True),
        Ratio("exits a second of a guest alone / with its machine on the screen", slowdown, "x", 1.25, True),
    ]


async def _measure(modes: Mapping[str, type[Mode]], settings: Settings) -> tuple[float, float]:
    row = find_row("nitro")
    alone = GuestThread(row, modes, settings)
    alone.start()
    app = Timed(modes, settings)
    async with app.run_test(headless=False, size=SIZE) as pilot:
        await pilot.pause()
        on_table = await _keys(app, alone, "down", "up")
        screen = MachineScreen(row, modes, settings)
        await app.push_screen(screen)
        on_machine = await _keys(app, screen.guest, "tab", "tab")
        assert alone.vm is not None
        alone.vm.ledger.stream = None
        free, watched = [], []
        for _ in range(ROUNDS):  # in turns: the host may be slower now and then. Only one of the two runs at a time
            free.append(await _speed(alone))
            watched.append(await _speed(screen.guest))
        alone.stop()
    return max(on_table, on_machine), statistics.median(free) / statistics.median(watched)


async def _flat_out(guest: GuestThread) -> int:
    """Let the guest do nothing but exit for a second or so. Returns its exits until now."""
    while not guest.waits:
        if guest.ended is not None:
            raise HvError(guest.ended, 1)
        await asyncio.sleep(0.02)
    before = guest.totals().get("cpuid", 0)
    guest.feed(FLAT_OUT)
    while guest.totals().get("cpuid", 0) < before + 1000:  # noqa: ASYNC110 - the guest's thread sends no events
        await asyncio.sleep(0.02)
    return guest.totals()["cpuid"]


async def _keys(app: Timed, guest: GuestThread, *keys: str) -> float:
    """The median of the seconds from a key to the next frame."""
    times = []
    for _ in range(BURSTS):
        await _flat_out(guest)
        times += [await app.seconds_to_frame(keys[index % 2]) for index in range(KEYS)]
    return statistics.median(times)


async def _speed(guest: GuestThread) -> float:
    """Exits in a host second, while the guest is at it."""
    before, started = await _flat_out(guest), time.perf_counter()
    rate = 0.0
    while not guest.waits and time.perf_counter() - started < SECONDS:
        await asyncio.sleep(SECONDS / 10)
        if not guest.waits:
            rate = (guest.totals()["cpuid"] - before) / (time.perf_counter() - started)
    return rate

"""The fuzzer of the board's chips: a short run, and a bug planted in each chip, which it must find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hv.silicon import cmos, fw_cfg, i8254, i8259, pci, uart16550
from hv.silicon.x86_64 import ioapic, lapic
from tests.fuzz import board_chips

CASES = 2 * len(board_chips.CHIPS)
MOST = 240  # until a planted bug has shown itself


@pytest.mark.parametrize("seed", range(CASES))
def test_a_hostile_driver_does_no_harm(seed: int) -> None:
    assert len(list(board_chips.case(seed))) == board_chips.ACCESSES


def test_it_reaches_every_port_in_both_directions() -> None:
    reached = {name for seed in range(2 * CASES) for name in board_chips.case(seed)}
    for chip, ports in board_chips.PORTS.items():
        for port in ports:
            for direction in ("read", "write"):
                assert f"{chip} {port:#x} {direction}" in reached


def _edge_line(self: Any, number: int, level: bool) -> None:
    """The bug: a line that falls leaves its request."""
    bit = 1 << number
    self.s.irr |= bit if level else 0
    self.s.levels = self.s.levels | bit if level else self.s.levels & ~bit


def _raise(self: Any, vector: int, level: bool = False) -> None:
    """The bug: illegal vectors are accepted."""
    self.state.irr |= 1 << vector


def _config_write(self: Any, offset: int, size: int, value: int) -> None:
    """The bug: every register can be written."""
    self.config[offset : offset + size] = value.to_bytes(size, "little")


def _ioapic_write(self: Any, offset: int, value: int) -> None:
    """The bug: no bounds, and read-only bits can be written."""
    if offset == 0:
        self.state.index = value & 0xFF
    elif self.state.index >= 0x10:
        self.state.entries[(self.state.index - 0x10) // 2] |= value


def _receive(self: Any, data: bytes) -> None:
    """The bug: what arrives always fits."""
    self.state.rx.extend(data)


PLANTED: dict[str, tuple[type[Any], str, Any]] = {
    "8259: a request outlives its line": (i8259._Chip, "line", _edge_line),
    "8254: a byte too wide": (i8254._Counter, "read", lambda self: self._value() | 0x1_0000),
    "8254: its deadline stays": (i8254.Pit, "_look_ahead", lambda self: setattr(self, "deadline", 1)),
    "cmos: an index of 8 bits": (cmos.Cmos, "_read", lambda self, at: self.state.memory[at + 100]),
    "fw_cfg: a read beyond the end": (fw_cfg.FwCfg, "_take", lambda self, size: b""),
    "pci: a card's name can be changed": (pci.Function, "config_write", _config_write),
    "16550: no end of the FIFO": (uart16550.Uart, "receive", _receive),
    "lapic: illegal vectors": (lapic.Lapic, "raise_vector", _raise),
    "ioapic: no bounds": (ioapic.Ioapic, "write", _ioapic_write),
}


@pytest.mark.parametrize("bug", PLANTED.values(), ids=PLANTED)
def test_it_finds_a_planted_bug(
    bug: tuple[type[Any], str, Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    chip, name, wrong = bug
    monkeypatch.setattr(chip, name, wrong)
    for seed in range(MOST):
        try:
            list(board_chips.case(seed))
        except (AssertionError, IndexError, ValueError, TypeError):
            return
    pytest.fail(f"{MOST} cases did not find it")

"""Cost models: what the silicon's events and the hypervisor's own work take, in cycles, each number with its source.

A cost model is a TOML file; skylake-sp.toml is the built-in one and explains the form. It holds primitive costs only.
What an operation costs (a page fault, a hypercall) comes out of running it, so that it can be compared with papers.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hv.errors import HvError
from hv.exits import REASONS
from hv.silicon.timing import MILLI, DiskTimes, Timing, WireTimes

HERE = Path(__file__).parent
BUILT_IN = tuple(sorted(path.stem for path in HERE.glob("*.toml")))
DEFAULT = "skylake-sp"
MOST_CYCLES = 10**9
DECIMALS = 3


class CostModelError(HvError):
    """One line that names the cost model and what is wrong with it."""


class CostModel(msgspec.Struct, frozen=True):
    """Times in millicycles."""

    name: str  # a built-in model's name, or the name of the file that was given
    timing: Timing
    run_loop: int  # the hypervisor's work at every exit
    translation: int  # a binary translator's work for one instruction of the guest
    work: dict[str, int]  # and its work for one reason; "default" for the others
    local: DiskTimes  # the disk in the machine
    remote: DiskTimes  # the one behind a network
    wire: WireTimes
    sources: dict[str, str]  # where each number comes from: "timing.cpi", "run_loop", "work.npf"

    @property
    def switch(self) -> int:
        """From a guest under hardware assistance to the hypervisor and back."""
        return self.timing.vmexit + self.timing.vmentry

    def work_of(self, reason: str) -> int:
        """What the hypervisor does between the two, for an exit with this reason."""
        return self.run_loop + self.work.get(reason, self.work["default"])


# --- the file's form ----------------------------------------------------------------------------------------------

Source = Annotated[str, Meta(min_length=8)]


class _Cycles(msgspec.Struct, forbid_unknown_fields=True):
    cycles: Decimal
    source: Source


class _Rate(msgspec.Struct, forbid_unknown_fields=True):
    hz: Annotated[int, Meta(gt=0, lt=1 << 32)]  # CPUID reports it in 32 bits
    source: Source


class _References(msgspec.Struct, forbid_unknown_fields=True):
    references: Annotated[int, Meta(gt=0, le=1000)]
    source: Source


_FORMS: dict[str, Any] = {"tsc_hz": _Rate, "apic_hz": _Rate, "walk_levels": _References, "walk_nested": _References}
_Timing = msgspec.defstruct(
    "_Timing", [(name, _FORMS.get(name, _Cycles)) for name in Timing.__struct_fields__], forbid_unknown_fields=True
)


# What lies outside the machine: a table of the file for each, with the fields of its record.
OUTSIDE: dict[str, type[WireTimes | DiskTimes]] = {"local": DiskTimes, "remote": DiskTimes, "wire": WireTimes}
_Local, _Remote, _Wire = (
    msgspec.defstruct(f"_{name}", [(field, _Cycles) for field in times.__struct_fields__], forbid_unknown_fields=True)
    for name, times in OUTSIDE.items()
)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    timing: _Timing  # type: ignore[valid-type]
    run_loop: _Cycles
    translation: _Cycles
    work: dict[str, _Cycles]
    local: _Local  # type: ignore[valid-type]
    remote: _Remote  # type: ignore[valid-type]
    wire: _Wire  # type: ignore[valid-type]

    def entries(self) -> Iterator[tuple[str, _Cycles | _Rate | _References]]:
        for name in Timing.__struct_fields__:
            yield f"timing.{name}", getattr(self.timing, name)
        yield "run_loop", self.run_loop
        yield "translation", self.translation
        for reason, work in sorted(self.work.items()):
            yield f"work.{reason}", work
        for part, times in OUTSIDE.items():
            for name in times.__struct_fields__:
                yield f"{part}.{name}", getattr(getattr(self, part), name)


def load(name_or_path: str = DEFAULT) -> CostModel:
    """A built-in cost model by its name, or one from a file."""
    built_in = name_or_path in BUILT_IN
    path = HERE / f"{name_or_path}.toml" if built_in else Path(name_or_path)
    if not built_in and not path.exists():
        raise CostModelError(
            f"no cost model {name_or_path!r}: there is {', '.join(BUILT_IN)}, or give the name of a TOML file"
        )
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
        return _model(name_or_path if built_in else path.name, msgspec.convert(data, _File))
    except OSError as error:
        raise CostModelError(f"cost model {name_or_path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # what tomllib, msgspec and _model find wrong with the text
        raise CostModelError(f"cost model {name_or_path}: {' '.join(str(error).split())}") from None


def _model(name: str, file: _File) -> CostModel:
    numbers = {key: _number(key, entry) for key, entry in file.entries()}
    work = {key.removeprefix("work."): number for key, number in numbers.items() if key.startswith("work.")}
    if unknown := sorted(work.keys() - REASONS.keys() - {"default"}):
        raise ValueError(f"work.{unknown[0]}: there is no such exit reason; hv exits lists them")
    if "default" not in work:
        raise ValueError("work.default is missing")
    timing = Timing(**{field: numbers[f"timing.{field}"] for field in Timing.__struct_fields__})
    if timing.cpi == 0:
        raise ValueError("timing.cpi: an instruction takes time")
    if timing.tsc_hz % timing.apic_hz:
        raise ValueError("timing.tsc_hz must be a multiple of timing.apic_hz")
    outside = {
        part: times(**{field: numbers[f"{part}.{field}"] for field in times.__struct_fields__})
        for part, times in OUTSIDE.items()
    }
    sources = {key: entry.source for key, entry in file.entries()}
    return CostModel(
        name=name, timing=timing, run_loop=numbers["run_loop"], translation=numbers["translation"], work=work,
        sources=sources, **outside,  # type: ignore[arg-type]
    )  # fmt: skip


def _number(key: str, entry: _Cycles | _Rate | _References) -> int:
    match entry:
        case _Rate():
            return entry.hz
        case _References():
            return entry.references
        case _Cycles():
            cycles = entry.cycles
            if not cycles.is_finite() or not 0 <= cycles <= MOST_CYCLES:
                raise ValueError(f"{key}: cycles must lie between 0 and {MOST_CYCLES}")
            if cycles != round(cycles, DECIMALS):
                raise ValueError(f"{key}: cycles may have at most {DECIMALS} decimals")
            return int(cycles * MILLI)

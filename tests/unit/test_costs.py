"""The cost models: every number has a source, times are whole millicycles, and a bad file gives one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hv import costs
from hv.costs import CostModelError, load
from hv.exits import REASONS
from hv.silicon.timing import Timing

TEXT = (costs.HERE / "skylake-sp.toml").read_text(encoding="utf-8")


def refused(path: Path, text: str | bytes) -> str:
    """The one line that a file with this content gives."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(CostModelError) as error:
        load(str(path))
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"cost model {path}: ")
    return line


@pytest.mark.parametrize("name", costs.BUILT_IN)
def test_every_number_of_a_built_in_model_names_its_source(name: str) -> None:
    model = load(name)
    keys = {f"timing.{field}" for field in Timing.__struct_fields__} | {"run_loop", "translation"}
    keys |= {f"work.{reason}" for reason in model.work}
    keys |= {f"{part}.{field}" for part, times in costs.OUTSIDE.items() for field in times.__struct_fields__}
    assert set(model.sources) == keys
    for key, source in model.sources.items():
        sourced = any(tag in source for tag in ("[S]", "[D]", "[M]", "Intel SDM", "AMD APM"))
        assert sourced or source.startswith("estimate: "), key


@pytest.mark.parametrize("name", costs.BUILT_IN)
def test_a_built_in_model_knows_every_exit_reason(name: str) -> None:
    assert load(name).work.keys() == REASONS.keys() | {"default"}


def test_skylake_sp_is_the_default_and_counts_in_millicycles() -> None:
    model = load()
    assert model.name == "skylake-sp"
    assert (model.timing.tsc_hz, model.timing.apic_hz) == (2_500_000_000, 25_000_000)
    assert model.timing.cpi == 700
    assert model.timing.walk_nested == 24
    assert model.switch == model.timing.vmexit + model.timing.vmentry == 808_000
    assert all(
        type(value) is int
        for value in (*model.work.values(), *(getattr(model.timing, f) for f in Timing.__struct_fields__))
    )


@pytest.mark.parametrize("name", costs.BUILT_IN)
def test_estimated_work_agrees_with_the_instructions_it_is_made_of(name: str) -> None:
    """`estimate: N instructions: ...` is N x cpi; estimates that add something to it say so and are left out."""
    model = load(name)
    for key, source in model.sources.items():
        words = source.split()
        if words[0] == "estimate:" and words[2].startswith("instructions") and "; and " not in source:
            alone = {"run_loop": model.run_loop, "translation": model.translation}
            cycles = alone[key] if key in alone else model.work[key.removeprefix("work.")]
            assert cycles == int(words[1]) * model.timing.cpi, key


def test_a_hypercall_costs_about_what_was_measured_on_real_hypervisors() -> None:
    """An output, so a fair comparison: 1228 (Xen) to 1437 (KVM) cycles in Dall et al., 2016 and 2017."""
    model = load()
    assert 1000 <= (model.switch + model.work_of("vmmcall")) / 1000 <= 1600


def test_a_reason_without_a_number_of_its_own_takes_the_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.replace("[work.npf]\ncycles = 1878\n", "[work.npf]\ncycles = 0.001\n"), encoding="utf-8")
    model = load(str(path))
    assert model.name == "mine.toml"
    assert model.work_of("npf") == model.run_loop + 1
    assert model.work_of("a reason of a plug-in") == model.run_loop + model.work["default"]


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(CostModelError, match="no cost model 'pentium': there is p4-672, skylake-sp, or give") as error:
        load("pentium")
    assert error.value.status == 2


def test_a_folder_is_no_cost_model(tmp_path: Path) -> None:
    with pytest.raises(CostModelError, match="directory"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[timing.cpi]\ncycles = 0.7", "[timing.cpi]\ncycles = 0", "timing.cpi: an instruction takes time"),
        ("cycles = 0.7", "cycles = 0.7001", "timing.cpi: cycles may have at most 3 decimals"),
        ("cycles = 0.7", "cycles = -1", "timing.cpi: cycles must lie between 0 and"),
        ("cycles = 0.7", "cycles = inf", "timing.cpi: cycles must lie between 0 and"),
        ("cycles = 0.7", "cycles = nan", "timing.cpi: cycles must lie between 0 and"),
        ("cycles = 0.7", "cycles = 1e999999", "timing.cpi: cycles must lie between 0 and"),
        ("cycles = 0.7", "cycles = true", "timing.cpi.cycles"),
        ("cycles = 0.7", 'cycles = "fast"', "timing.cpi.cycles"),
        ("cycles = 0.7", "", "timing.cpi"),
        ("hz = 25_000_000", "hz = 24_000_000", "must be a multiple of timing.apic_hz"),
        ("hz = 25_000_000", "hz = 0", "timing.apic_hz.hz"),
        ("references = 24", "references = 2.5", "timing.walk_nested.references"),
        ("[timing.msr]", "[timing.mrs]", "mrs"),
        ("[work.npf]", "[work.nfp]", "work.nfp: there is no such exit reason"),
        ("[work.default]", "[work.exits]", "work.exits: there is no such exit reason"),
        ('source = "estimate: 100 instructions: the guest is over"', "", "work[...]"),
        ('source = "estimate: 100 instructions: the guest is over"', 'source = ""', "work[...].source"),
        ("[run_loop]", "[run_lop]", "run_lop"),
        ("[run_loop]", "[run_loop", "line"),
    ],
)
def test_a_bad_file_gives_one_line(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert TEXT.count(old) == 1
    assert complaint in refused(tmp_path / "bad.toml", TEXT.replace(old, new))


@pytest.mark.parametrize("text", ["", "timing = 1", b"\xff\xfe", "a = " + "[" * 100_000])
def test_something_else_than_a_cost_model_gives_one_line(tmp_path: Path, text: str | bytes) -> None:
    refused(tmp_path / "bad.toml", text)


def test_a_model_without_default_work_is_refused(tmp_path: Path) -> None:
    before, _, rest = TEXT.partition("[work.default]")
    text = before + rest[rest.index("[work.cpuid]") :]
    assert "work.default is missing" in refused(tmp_path / "bad.toml", text)

"""`hv run --show-translation` prints a function of the guest beside its translation."""

from __future__ import annotations

from tests.conftest import RunHv


def shown(run_hv: RunHv, function: str) -> list[list[str]]:
    """The two columns behind the heading, without empty lines."""
    done = run_hv("run", "emulated", "-c", "bench cpu.cr8wr 10", "--show-translation", function)
    assert done.returncode == 0, done.stderr
    table = done.stdout.split(f"guest: {function}")[1].splitlines()[2:]
    return [[line[:48].strip(), line[48:].strip()] for line in table if line.strip()]


def test_a_function_stands_beside_its_translation(run_hv: RunHv) -> None:
    text = "\n".join(" | ".join(line) for line in shown(run_hv, "bench_cr8wr"))
    assert "push rbp" in text
    for words in ("mov qword ptr [kept.rcx], rcx", "pop rcx", "[rcx*8 + targets]", "push 0xffffffff8"):
        assert words in text
    (rip,) = {line[0].split()[0] for line in shown(run_hv, "bench_cr8wr") if line[0].endswith("push rbp")}
    assert f"[rcx + kept.rcx - 0x{rip}]" in text


def test_a_session_ends_with_what_translating_took(run_hv: RunHv) -> None:
    done = run_hv("run", "emulated", "-c", "bench cpu.in 10")
    assert "[hv: translation cache: " in done.stdout
    assert "[hv: 0 exits in " in done.stdout


def test_what_cannot_be_shown_is_one_line(run_hv: RunHv) -> None:
    for arguments, line in (
        (("emulated", "--show-translation", "nobody"), "the guest has no function 'nobody'"),
        (("emulated", "--show-translation", "panic"), "panic has not run, so it has no translation"),
        (("nitro", "--show-translation", "panic"), "mode hw-assist translates nothing; full-emulation does"),
    ):
        done = run_hv("run", *arguments, "-c", "help")
        assert done.returncode in (1, 2)
        assert done.stderr == f"hv: --show-translation: {line}\n"

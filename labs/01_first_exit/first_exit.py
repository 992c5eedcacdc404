"""Lab 1's steps: for each a tiny guest, what must come of it, and a hint."""

from __future__ import annotations

import inspect

from hv.costs import load
from hv.mode import Mode
from hv.silicon.x86_64.cpuid import cpuid
from labs.grader.guest import CODE, TAKE_EXCEPTIONS, Line, assemble, build, save, word
from labs.grader.step import Lab, Step
from labs.grader.trial import Trial
from modes.hw_assist.mode import HwAssist

HLT: Line = ("f4", "hlt")
CPUID: Line = ("0f a2", "cpuid")
PORT, NOBODYS_PORT = 0xE9, 0x80
HYPERVISOR_BIT = 1 << 31
HYPERVISOR_LEAF = 0x4000_0000


def leaf(number: int, slot: int) -> list[Line]:
    """Execute CPUID and keep what it says."""
    return [(f"b8 {word(number)}", f"mov eax, {number:#x}"), ("31 c9", "xor ecx, ecx"), CPUID, *save(slot)]


def sleep(mode: type[Mode]) -> None:
    """A guest that halts sleeps, behind its HLT. The second HLT is there to be reached by mistake."""
    expected = "one exit, hlt, and then the CPU sleeps"
    trial = Trial(mode, build([("90", "nop"), HLT, HLT]))
    behind = CODE + 2
    awake = any(seen.rip >= behind for seen in trial.seen)
    trial.expect(not awake, expected, "the CPU did not sleep: the guest went on behind its hlt")
    trial.finish(expected).expect(trial.counts == {"hlt": 1}, expected, f"exits: {counts(trial)}")
    trial.expect(trial.rip == behind, f"RIP stands behind the hlt, at {behind:#x}", f"RIP stands at {trial.rip:#x}")


def answer_cpuid(mode: type[Mode]) -> None:
    """Leaves 0 and 1 are the silicon's; the hypervisor's bit is step 3's business."""
    leaves = (0, 1, 0x8000_0002)
    guest = [line for slot, number in enumerate(leaves) for line in leaf(number, slot)]
    trial = Trial(mode, build([*guest, HLT])).finish("the guest executes CPUID three times, then HLT")
    timing = load().timing
    for slot, number in enumerate(leaves):
        for name, got, real in zip(("EAX", "EBX", "ECX", "EDX"), trial.registers(slot), cpuid(number, 0, timing),
                                   strict=True):  # fmt: skip
            good = (got ^ real) & ~(HYPERVISOR_BIT if (number, name) == (1, "ECX") else 0) == 0
            trial.expect(good, f"CPUID leaf {number:#x} gives {name} = {real:#x}", f"{name} = {got:#x}")
    trial.expect(trial.counts == {"cpuid": 3, "hlt": 1}, "exits: cpuid 3, hlt 1", f"exits: {counts(trial)}")


def show_yourself(mode: type[Mode]) -> None:
    """CPUID leaf 1, ECX bit 31, and leaf 4000_0000 with a name: so guests recognize a hypervisor."""
    guest = build([*leaf(1, 0), *leaf(HYPERVISOR_LEAF, 1), HLT])
    trial = Trial(mode, guest).finish("the guest executes CPUID twice, then HLT")
    ecx = trial.registers(0)[2]
    trial.expect(bool(ecx & HYPERVISOR_BIT), "CPUID leaf 1 gives an ECX with bit 31 set", f"ECX = {ecx:#x}")
    highest, *name = trial.registers(1)
    trial.expect(
        highest == HYPERVISOR_LEAF, f"CPUID leaf {HYPERVISOR_LEAF:#x} gives EAX = {HYPERVISOR_LEAF:#x}",
        f"EAX = {highest:#x}",
    )  # fmt: skip
    signature = b"".join(part.to_bytes(4, "little") for part in name)
    readable = all(0x20 <= byte < 0x7F for byte in signature)
    trial.expect(readable, "a name of 12 letters in EBX, ECX, EDX, in this order", f"EBX, ECX, EDX hold {signature!r}")


def print_text(mode: type[Mode]) -> None:
    """Both forms of OUT: the port in the instruction (2 bytes), and the port in DX (1 byte)."""
    guest: list[Line] = []
    for letter in b"hi":
        guest += [(f"b0 {letter:02x}", "mov al, letter"), (f"e6 {PORT:02x}", "out 0xe9, al")]
    guest += [(f"66 ba {PORT:02x} 00", "mov dx, 0xe9")]
    for letter in b"!\n":
        guest += [(f"b0 {letter:02x}", "mov al, letter"), ("ee", "out dx, al")]
    expected = "the guest writes 'hi!\\n' to port 0xe9, and the console shows it"
    trial = Trial(mode, build([*guest, HLT])).finish(expected)
    trial.expect(trial.said == "hi!\n", expected, f"the console shows {trial.said!r}")
    trial.expect(trial.counts == {"hlt": 1, "ioio": 4}, "exits: ioio 4, hlt 1", f"exits: {counts(trial)}")


def empty_ports(mode: type[Mode]) -> None:
    """A port that nobody has: a read gives all ones in AL and no more, a write is lost."""
    guest: list[Line] = [
        ("b8 00 34 12 00", "mov eax, 0x123400"),
        (f"e4 {NOBODYS_PORT:02x}", "in al, 0x80"),
        *save(0),
        ("b0 41", "mov al, 'A'"),
        (f"e6 {NOBODYS_PORT:02x}", "out 0x80, al"),
    ]
    trial = Trial(mode, build([*guest, HLT])).finish("the guest reads port 0x80, writes to it, and executes HLT")
    eax = trial.registers(0)[0]
    trial.expect(eax & 0xFF == 0xFF, "IN from port 0x80 gives AL = 0xff", f"AL = {eax & 0xFF:#x}")
    trial.expect(eax == 0x1234FF, "IN to AL leaves the rest of EAX as it was, 0x1234..", f"EAX = {eax:#x}")
    trial.expect(not trial.said, "OUT to port 0x80 is lost", f"the console shows {trial.said!r}")


def refuse_msrs(mode: type[Mode]) -> None:
    """RDMSR and WRMSR of a register that is not there: #GP, error code 0, RIP at the instruction."""
    before = [*TAKE_EXCEPTIONS, (f"b9 {word(0x1234567)}", "mov ecx, 0x1234567")]
    at = len(assemble(before))
    guest = [*before, ("0f 32", "rdmsr"), ("0f 30", "wrmsr"), HLT]
    expected = "rdmsr and wrmsr each give the guest a #GP"
    trial = Trial(mode, build(guest)).finish(expected)
    for name, offset, (error, where) in zip(("rdmsr", "wrmsr"), (at, at + 2), trial.faults, strict=False):
        trial.expect(error == 0, f"{name}: #GP with error code 0", f"error code {error:#x}")
        trial.expect(
            where == offset, f"{name}: #GP with RIP at the instruction, {CODE + offset:#x}", f"RIP = {CODE + where:#x}"
        )
    trial.expect(len(trial.faults) == 2, expected, f"the guest took {len(trial.faults)} #GP")
    trial.expect(trial.counts == {"hlt": 1, "msr": 2}, "exits: msr 2, hlt 1", f"exits: {counts(trial)}")


def counts(trial: Trial) -> str:
    """The exits by reason, in words."""
    return ", ".join(f"{reason} {count}" for reason, count in trial.counts.items()) or "not at all"


LAB = Lab(
    title="first exit",
    file="my_mode.py",
    name="MyMode",
    steps=(
        Step(
            "HLT: the guest sleeps", 20,
            "cpu.skip(length) moves RIP behind an instruction; cpu.halted = True puts the CPU to sleep.\n"
            "hlt is one byte long.",
            sleep,
        ),
        Step(
            "CPUID: which CPU is this?", 20,
            "if exit.code == svm.CPUID: the leaf is the low half of cpu.regs[RAX];\n"
            "cpuid(leaf, cpu.index, cpu.timing) gives EAX, EBX, ECX, EDX of the real CPU. Write them to cpu.regs,\n"
            'skip two bytes, return "cpuid", and add "cpuid" to reasons.',
            answer_cpuid,
        ),
        Step(
            "CPUID: a hypervisor is here", 10,
            "leaf 1: set bit 31 of ECX. Leaf 0x40000000: EAX is the leaf itself, EBX, ECX, EDX are 12 letters that\n"
            'you choose; int.from_bytes(b"abcd", "little") makes a register of four.',
            show_yourself,
        ),
        Step(
            "OUT: a console on port 0xe9", 20,
            "svm.IOIO: the port is exit.info1 >> 16. self.vm.console.sink(byte) prints the low byte of RAX.\n"
            "OUT is one or two bytes long: exit.info2 is the RIP of the next instruction.",
            print_text,
        ),
        Step(
            "IN and OUT: ports where nobody is", 10,
            "bit 0 of exit.info1 says IN. Nobody answers: put 0xff into the low byte of RAX and keep the rest.\n"
            "An OUT to another port than 0xe9 does nothing.",
            empty_ports,
        ),
        Step(
            "RDMSR and WRMSR: #GP for a register unknown", 20,
            "svm.MSR: cpu.fault(GP) raises a general-protection fault at the instruction. RIP stays where it is:\n"
            "the guest's own handler decides what comes next.",
            refuse_msrs,
        ),
    ),
    afterwards=(
        "All done: your hypervisor answers its first exits. A grown-up one keeps the same contract:\n"
        f"{inspect.getsourcefile(HwAssist)}\n"
        "Read it from HANDLERS at its end. hv table --rows nitro and hv run nitro show it at work."
    ),
)  # fmt: skip

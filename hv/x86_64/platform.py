"""What a hypervisor lets its guest know of itself, besides a PC: a seam for hypervisors with an interface of their own.

This one has none but a name. A mode of another column may put its heir in the place of `Board.platform`.
"""

from __future__ import annotations

from hv.silicon.x86_64.cpu import Cpu

SIGNATURE = b"hvladder\0\0\0\0"  # CPUID 4000_0000: who runs here
FIRST_LEAF = 0x4000_0000
LEAVES = range(FIRST_LEAF, FIRST_LEAF + 0x100)

Leaf = tuple[int, int, int, int]  # EAX, EBX, ECX, EDX


def words(signature: bytes) -> tuple[int, int, int]:
    """Twelve characters as EBX, ECX and EDX show them."""
    return int.from_bytes(signature[:4], "little"), int.from_bytes(signature[4:8], "little"), int.from_bytes(
        signature[8:], "little"
    )  # fmt: skip


class Platform:
    """Each method answers for one kind of exit. None, or False: the guest finds what a PC has there."""

    watches_exits = False  # wants to hear of each, by exit_begins()

    def exit_begins(self) -> None:
        """An exit has come, and is not handled yet."""

    def cpuid(self, cpu: Cpu, leaf: int, subleaf: int) -> Leaf | None:
        """A leaf of the range that is reserved for hypervisors (LEAVES)."""
        return (FIRST_LEAF, *words(SIGNATURE)) if leaf == FIRST_LEAF else None

    def read_msr(self, number: int) -> int | None:
        """The value that RDMSR gives."""
        return None

    def write_msr(self, number: int, value: int) -> bool:
        """WRMSR. Raises BadMsr for a value that the register does not take."""
        return False

    def hypercall(self, cpu: Cpu) -> str | None:
        """VMMCALL, done, with RIP behind it. Returns the exit's reason."""
        return None

    def message(self, address: int, data: int) -> bool:
        """A card's interrupt message. True: it was for this interface, and not for a local APIC."""
        return False

    def placed(self, gpa: int) -> bool:
        """Is this guest-physical page another one than the board has there?"""
        return False

    def page(self, gpa: int) -> int | None:
        """Host-physical address of a page that is placed there; None: a hole."""
        return None

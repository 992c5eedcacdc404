"""What a mode is: a plug-in that provides a virtualization technique for one or more columns of the table.

A mode is a class that inherits from `Mode`, named by an entry point of the group `hv.modes`:

    [project.entry-points."hv.modes"]
    my-mode = "my_package:MODE"

hv makes one object of it a VM, whatever number of columns it provides there. For the cpu column it places the guest's
CPU in its first state (`start`) and handles its exits (`handle`), each of which it names with a reason of exits.py. For
every other column it puts what the guest finds there on the board (`equip`). Everything it may touch hangs on `vm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar

from hv.errors import HvError
from hv.exits import REASONS

if TYPE_CHECKING:
    from hv.loader import Guest
    from hv.silicon.x86_64.cpu import Cpu, Exit
    from hv.vcpu import Vcpu
    from hv.vm import Vm

GROUP = "hv.modes"
# The cells that a mode can provide: column -> letters.
CELLS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("cpu", "net", "local", "remote", "interrupts"), ("VS", "P", "VH", "H")),
    "boot": ("VS", "P", "H"),
}


class Mode:
    """The contract. `cells` maps each column that the mode provides to the table's letter for it."""

    id: ClassVar[str]
    summary: ClassVar[str]  # one line for `hv modes`
    cells: ClassVar[Mapping[str, str]]
    reasons: ClassVar[frozenset[str]] = frozenset()  # every reason that it may count
    ram_base: ClassVar[int] = 0  # host-physical address of the guest's RAM
    most_cpus: ClassVar[int] = 1  # how many CPUs it can start and run

    def __init__(self, vm: Vm) -> None:
        self.vm = vm

    @classmethod
    def impossible_beside(cls, cpu: type[Mode]) -> str | None:  # noqa: ARG003 - for those who override it
        """Why no real machine had this in another column when `cpu` is in the cpu column; None: one could."""
        return None

    def load(self, guest: Guest) -> None:
        """The cpu column: put the image of `guest` into RAM. A machine's loader does it, unless a mode has its own."""
        self.vm.load(guest)

    def start(self, guest: Guest) -> None:
        """The cpu column: put CPU 0 in its first state, at the entry of `guest`, whose image is in RAM already."""
        raise NotImplementedError(f"{self.id} provides no CPU")

    def equip(self, column: str) -> None:
        """Another column: put its devices on `vm.board` (hv/silicon/x86_64/pc.py). Comes before start()."""

    def handle(self, vcpu: Vcpu, exit: Exit) -> str:
        """Handle one exit and return its reason's id. Raise Shutdown when the guest cannot go on."""
        raise NotImplementedError(f"{self.id} takes no exits")

    def memory_written(self, address: int, size: int) -> None:
        """A device has written to guest-physical memory: whoever shadows what lies there looks again."""

    def forget_mapping(self, address: int, size: int) -> None:
        """What lies at these guest-physical addresses outside RAM is another thing now: drop what was mapped there."""

    def posted(self, address: int, data: int) -> tuple[int, int] | None:
        """A card's interrupt message: the descriptor and the vector to post it with (hv/silicon/iommu.py), if possible.

        None: it interrupts the hypervisor.
        """
        return None

    def wake(self, vcpu: Vcpu) -> None:
        """Something came for a CPU that waits in its HLT exit."""

    def guest_registers(self, cpu: Cpu) -> Mapping[str, int]:
        """Registers that the guest believes to have other values than the CPU holds, by name; for a report."""
        return {}

    def translation(self, start: int, end: int) -> list[tuple[str, list[str]]] | None:
        """The guest's instructions at [start, end), each with those that run instead. None: its own are what runs."""
        return None

    def notes(self) -> list[str]:
        """What there is to say of the mode's own work at the end of a session, a line each."""
        return []

    def close(self) -> None:
        """The VM is given up, maybe with the guest in the middle of something: let go of what it has of the mode."""

    def state(self) -> Any:
        """What the mode remembers, as plain records, for a snapshot."""
        return None

    def set_state(self, state: Any) -> None:
        """Go back to what state() gave."""


def find_modes() -> dict[str, type[Mode]]:
    """All installed modes by id. A plug-in that cannot be used is reported, not skipped."""
    found: dict[str, type[Mode]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        where = f"mode {point.name} ({point.value})"
        try:
            mode = point.load()
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise HvError(f"{where} cannot be loaded: {text}", 1) from error
        wrong = what_is_wrong(mode, point.name)
        if wrong is not None:
            raise HvError(f"{where} {wrong}", 1)
        found[point.name] = mode
    return found


def what_is_wrong(mode: Any, name: str) -> str | None:
    """Why an entry point's object is no usable mode, or None."""
    if not (isinstance(mode, type) and issubclass(mode, Mode)):
        return "is not a class that inherits from hv.mode.Mode"
    if getattr(mode, "id", None) != name:
        return f"calls itself {getattr(mode, 'id', None)!r}"
    if not isinstance(getattr(mode, "summary", None), str):
        return "has no summary"
    cells = getattr(mode, "cells", None)
    if not isinstance(cells, Mapping) or not cells or not all(cell in CELLS.get(c, ()) for c, cell in cells.items()):
        return "provides a cell that the table does not have"
    reasons: object = mode.reasons
    if not isinstance(reasons, frozenset | set):
        return "declares its reasons in something that is not a frozenset"
    unknown = sorted(map(str, reasons - REASONS.keys()))
    return f"declares reasons that do not exist: {', '.join(unknown)}" if unknown else None

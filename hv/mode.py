"""What a mode is: a plug-in that provides a virtualization technique for one or more columns of the table.

A mode is a class that inherits from `Mode`, named by an entry point of the group `hv.modes`:

    [project.entry-points."hv.modes"]
    my-mode = "my_package:MODE"

hv makes one object of it a VM. For the cpu column it places the guest's CPU in its first state (`start`) and handles
its exits (`handle`), each of which it names with a reason of exits.py. Everything it may touch hangs on `vm`.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar

from hv.errors import HvError

if TYPE_CHECKING:
    from hv.loader import Guest
    from hv.silicon.x86_64.cpu import Exit
    from hv.vcpu import Vcpu
    from hv.vm import Vm

GROUP = "hv.modes"


class Mode(abc.ABC):
    """The contract. `cells` maps each column that the mode provides to the table's letter for it."""

    id: ClassVar[str]
    summary: ClassVar[str]  # one line for `hv modes`
    cells: ClassVar[Mapping[str, str]]
    reasons: ClassVar[frozenset[str]] = frozenset()  # every reason that it may count
    ram_base: ClassVar[int] = 0  # host-physical address of the guest's RAM

    def __init__(self, vm: Vm) -> None:
        self.vm = vm

    @abc.abstractmethod
    def start(self, guest: Guest) -> None:
        """Build what the guest finds and put CPU 0 in its first state. The guest's image is in RAM already."""

    def handle(self, vcpu: Vcpu, exit: Exit) -> str:
        """Handle one exit and return its reason's id. Raise Shutdown when the guest cannot go on."""
        raise NotImplementedError(f"{self.id} takes no exits")

    def wake(self, vcpu: Vcpu) -> None:
        """Something came for a CPU that waits in its HLT exit."""

    def state(self) -> Any:
        """What the mode remembers, as plain records, for a snapshot."""
        return None

    def set_state(self, state: Any) -> None:
        """Go back to what state() gave."""


def find_modes() -> dict[str, type[Mode]]:
    """All installed modes by id. A plug-in that cannot be loaded is reported, not skipped."""
    found: dict[str, type[Mode]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            mode = point.load()
        except Exception as error:
            raise HvError(f"mode {point.name} ({point.value}) cannot be loaded: {error}", 1) from error
        if not (isinstance(mode, type) and issubclass(mode, Mode)) or mode.id != point.name:
            raise HvError(f"mode {point.name} ({point.value}) is not a Mode with that id", 1)
        found[point.name] = mode
    return found

"""The NVM command set (NVM Express 1.4, 6): read, write, flush and a few more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.silicon.medium import SECTOR, Medium, MediumError
from hv.silicon.nvme.features import current
from hv.silicon.nvme.queues import Command
from hv.silicon.nvme.spec import EVERY_NAMESPACE, MOST_BYTES, CommandError, Feature, Io, Status

if TYPE_CHECKING:
    from hv.silicon.nvme.controller import Controller

FORCE_UNIT_ACCESS = 1 << 30  # word 12: the medium has it before the completion
RANGE = 16  # bytes of a dataset management range


def finish_time(controller: Controller, command: Command, now: int) -> int:
    """When the medium is done with a command that comes now."""
    times = controller.subsystem.times
    latency = times.read if command.opcode in READING else times.flush if command.opcode == Io.FLUSH else times.write
    moves = command.opcode in (Io.READ, Io.WRITE, Io.COMPARE)
    sectors = min(_sectors(command), MOST_BYTES // SECTOR) if moves else 0
    return controller.subsystem.finish_time(now, latency, sectors)


def carry_out(controller: Controller, command: Command) -> int:
    """Word 0 of the completion. Raises CommandError and BusError."""
    handler = HANDLERS.get(command.opcode)
    if handler is None:
        raise CommandError(Status.INVALID_OPCODE)
    if command.flags:
        raise CommandError(Status.INVALID_FIELD)  # fused, or SGLs
    try:
        handler(controller, command)
    except MediumError:
        raise CommandError(Status.READ_ERROR if command.opcode in READING else Status.WRITE_FAULT) from None
    return 0


def _sectors(command: Command) -> int:
    return (command.words[2] & 0xFFFF) + 1


def _medium(controller: Controller, namespace: int, *, write: bool = False) -> Medium:
    """A namespace that this controller sees."""
    medium = controller.subsystem.namespaces.get(namespace)
    if medium is None:
        raise CommandError(Status.INVALID_NAMESPACE)
    if namespace not in controller.subsystem.attached(controller.id):
        raise CommandError(Status.INVALID_FIELD)
    if write and medium.read_only:
        raise CommandError(Status.WRITE_PROTECTED)
    return medium


def _range(medium: Medium, command: Command) -> tuple[int, int]:
    """First sector and number of sectors, checked."""
    first, count = command.words[0] | command.words[1] << 32, _sectors(command)
    if first + count > medium.sectors:
        raise CommandError(Status.LBA_OUT_OF_RANGE)
    return first, count


def _size(count: int) -> int:
    """Bytes of a transfer, which must not be too many."""
    if count * SECTOR > MOST_BYTES:
        raise CommandError(Status.INVALID_FIELD)
    return count * SECTOR


def _durable(controller: Controller, command: Command) -> bool:
    return bool(command.words[2] & FORCE_UNIT_ACCESS) or not current(controller, Feature.WRITE_CACHE)


def _read(controller: Controller, command: Command) -> None:
    medium = _medium(controller, command.namespace)
    first, count = _range(medium, command)
    _size(count)
    controller.send(command, medium.read(first, count))
    controller.state.reads += 1
    controller.state.read_units += count


def _write(controller: Controller, command: Command) -> None:
    medium = _medium(controller, command.namespace, write=True)
    first, count = _range(medium, command)
    data = controller.receive(command, _size(count))
    medium.write(first, data, durable=_durable(controller, command))
    controller.state.writes += 1
    controller.state.written_units += count


def _write_zeroes(controller: Controller, command: Command) -> None:
    medium = _medium(controller, command.namespace, write=True)
    first, count = _range(medium, command)
    medium.write(first, bytes(count * SECTOR), durable=_durable(controller, command))


def _compare(controller: Controller, command: Command) -> None:
    medium = _medium(controller, command.namespace)
    first, count = _range(medium, command)
    if controller.receive(command, _size(count)) != medium.read(first, count):
        raise CommandError(Status.COMPARE_FAILURE)


def _flush(controller: Controller, command: Command) -> None:
    """All that was completed is on the medium afterwards."""
    everything = command.namespace == EVERY_NAMESPACE
    for namespace in controller.subsystem.attached(controller.id) if everything else [command.namespace]:
        _medium(controller, namespace).flush()


def _dataset_management(controller: Controller, command: Command) -> None:
    """Ranges and hints. Deallocating is one of them: the sectors keep what they hold (6.7.1.1 allows it)."""
    medium = _medium(controller, command.namespace, write=True)
    data = controller.receive(command, ((command.words[0] & 0xFF) + 1) * RANGE)
    for at in range(0, len(data), RANGE):
        count = int.from_bytes(data[at + 4 : at + 8], "little")
        first = int.from_bytes(data[at + 8 : at + 16], "little")
        if first + count > medium.sectors:
            raise CommandError(Status.LBA_OUT_OF_RANGE)


READING = (Io.READ, Io.COMPARE)
HANDLERS: dict[int, Callable[[Controller, Command], None]] = {
    Io.FLUSH: _flush,
    Io.WRITE: _write,
    Io.READ: _read,
    Io.COMPARE: _compare,
    Io.WRITE_ZEROES: _write_zeroes,
    Io.DATASET_MANAGEMENT: _dataset_management,
}

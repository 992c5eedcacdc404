"""Admin commands (NVM Express 1.4, 5): queues, identification, logs, features, events, namespaces, virtualization."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.silicon.nvme import features, identify, log
from hv.silicon.nvme.queues import Command, CompletionQueue, SubmissionQueue
from hv.silicon.nvme.spec import (
    CC_IOCQES,
    CC_IOSQES,
    CQ_ENTRY,
    PAGE,
    QUEUE_ENTRIES,
    SQ_ENTRY,
    Admin,
    CommandError,
    Status,
)
from hv.silicon.nvme.subsystem import MOST_FLEXIBLE, PRIMARY

if TYPE_CHECKING:
    from hv.silicon.nvme.controller import Controller

Handler = Callable[["Controller", Command], int | None]
CONTIGUOUS, INTERRUPTS = 1, 2  # word 11 of the commands that create queues
NOT_ABORTED = 1
EVENT_REQUESTS = 4
ATTACH, DETACH = 0, 1
CREATE_NAMESPACE, DELETE_NAMESPACE = 0, 1
# Actions of Virtualization Management (5.22).
PRIMARY_ALLOCATION, SECONDARY_OFFLINE, SECONDARY_ASSIGN, SECONDARY_ONLINE = 1, 7, 8, 9


def carry_out(controller: Controller, command: Command) -> int | None:
    """Word 0 of the completion, or None when it comes later. Raises CommandError and BusError."""
    handler = HANDLERS.get(command.opcode)
    if handler is None or (command.opcode in PRIMARY_ONLY and controller.id != PRIMARY):
        raise CommandError(Status.INVALID_OPCODE)
    if command.flags:
        raise CommandError(Status.INVALID_FIELD)  # fused, or SGLs
    return handler(controller, command)


# --- queues ---------------------------------------------------------------------------------------------------------


def _new_queue(controller: Controller, command: Command) -> tuple[int, int]:
    """Identifier and size of a queue to be created, checked (5.3 and 5.4)."""
    number, size = command.words[0] & 0xFFFF, (command.words[0] >> 16) + 1
    existing = controller.state.sqs if command.opcode == Admin.CREATE_SQ else controller.state.cqs
    if not 1 <= number <= controller.queue_limit or number in existing:
        raise CommandError(Status.INVALID_QUEUE_ID)
    cc = controller.state.cc
    entries = (
        cc & CC_IOSQES == SQ_ENTRY << 16 if command.opcode == Admin.CREATE_SQ else cc & CC_IOCQES == CQ_ENTRY << 20
    )
    if not 2 <= size <= QUEUE_ENTRIES or not entries:
        raise CommandError(Status.INVALID_QUEUE_SIZE)
    if not command.words[1] & CONTIGUOUS:
        raise CommandError(Status.INVALID_FIELD)
    if command.prp1 % PAGE:
        raise CommandError(Status.PRP_OFFSET_INVALID)
    return number, size


def _create_cq(controller: Controller, command: Command) -> int:
    number, size = _new_queue(controller, command)
    vector = command.words[1] >> 16
    if vector >= controller.vector_limit:
        raise CommandError(Status.INVALID_VECTOR)
    interrupts = bool(command.words[1] & INTERRUPTS)
    controller.state.cqs[number] = CompletionQueue(command.prp1, size, vector, interrupts)
    return 0


def _create_sq(controller: Controller, command: Command) -> int:
    number, size = _new_queue(controller, command)
    completions = command.words[1] >> 16
    if completions == 0 or completions not in controller.state.cqs:
        raise CommandError(Status.CQ_INVALID if completions <= controller.queue_limit else Status.INVALID_QUEUE_ID)
    controller.state.sqs[number] = SubmissionQueue(command.prp1, size, completions)
    return 0


def _delete_sq(controller: Controller, command: Command) -> int:
    number = command.words[0] & 0xFFFF
    if number == 0 or number not in controller.state.sqs:
        raise CommandError(Status.INVALID_QUEUE_ID)
    controller.delete_submissions(number)
    return 0


def _delete_cq(controller: Controller, command: Command) -> int:
    number = command.words[0] & 0xFFFF
    if number == 0 or number not in controller.state.cqs:
        raise CommandError(Status.INVALID_QUEUE_ID)
    if any(sq.completions == number for sq in controller.state.sqs.values()):
        raise CommandError(Status.INVALID_QUEUE_DELETION)
    del controller.state.cqs[number]
    return 0


def _abort(controller: Controller, command: Command) -> int:
    aborted = controller.abort(command.words[0] & 0xFFFF, command.words[0] >> 16)
    return 0 if aborted else NOT_ABORTED


# --- what the controller says of itself ------------------------------------------------------------------------------


def _identify(controller: Controller, command: Command) -> int:
    controller.send(command, identify.answer(controller, command))
    return 0


def _log_page(controller: Controller, command: Command) -> int:
    controller.send(command, log.page(controller, command))
    return 0


def _set_features(controller: Controller, command: Command) -> int:
    return features.set(controller, command)


def _get_features(controller: Controller, command: Command) -> int:
    return features.get(controller, command)


def _async_event(controller: Controller, command: Command) -> None:
    """Answered when something happens."""
    if len(controller.state.asked) >= EVENT_REQUESTS:
        raise CommandError(Status.EVENT_LIMIT)
    controller.state.asked.append(command.id)
    controller.report_events()


# --- namespaces and secondary controllers ----------------------------------------------------------------------------


def _namespace_management(_: Controller, command: Command) -> int:
    """The card's namespaces are made in the factory: there is no room for another, and none can be deleted."""
    if command.words[0] & 0xF == CREATE_NAMESPACE:
        raise CommandError(Status.NO_CAPACITY)
    if command.words[0] & 0xF == DELETE_NAMESPACE:
        raise CommandError(Status.OPERATION_DENIED)
    raise CommandError(Status.INVALID_FIELD)


def _namespace_attachment(controller: Controller, command: Command) -> int:
    """Attach a namespace to, or detach it from, the controllers of a list (5.12)."""
    subsystem, action = controller.subsystem, command.words[0] & 0xF
    if command.namespace not in subsystem.namespaces:
        raise CommandError(Status.INVALID_NAMESPACE)
    if action not in (ATTACH, DETACH):
        raise CommandError(Status.INVALID_FIELD)
    data = controller.receive(command, PAGE)
    ids = [int.from_bytes(data[at : at + 2], "little") for at in range(0, PAGE, 2)]
    count = ids[0]
    if not 1 <= count <= len(subsystem.controllers):
        raise CommandError(Status.CONTROLLER_LIST_INVALID)
    for id in ids[1 : count + 1]:
        change = subsystem.attach if action == ATTACH else subsystem.detach
        change(command.namespace, id)
    return 0


def _virtualization(controller: Controller, command: Command) -> int:
    """Virtualization Management (5.22)."""
    subsystem = controller.subsystem
    word = command.words[0]
    action, kind, target, count = word & 0xF, word >> 8 & 7, word >> 16, command.words[1] & 0xFFFF
    if action == SECONDARY_ASSIGN:
        subsystem.assign(target, kind, min(count, MOST_FLEXIBLE + 1))
        return count
    if action in (SECONDARY_ONLINE, SECONDARY_OFFLINE):
        subsystem.set_online(target, action == SECONDARY_ONLINE)
        return 0
    if action == PRIMARY_ALLOCATION:
        return subsystem.keep_for_primary(target, kind, count)
    raise CommandError(Status.INVALID_FIELD)


HANDLERS: dict[int, Handler] = {
    Admin.DELETE_SQ: _delete_sq,
    Admin.CREATE_SQ: _create_sq,
    Admin.GET_LOG_PAGE: _log_page,
    Admin.DELETE_CQ: _delete_cq,
    Admin.CREATE_CQ: _create_cq,
    Admin.IDENTIFY: _identify,
    Admin.ABORT: _abort,
    Admin.SET_FEATURES: _set_features,
    Admin.GET_FEATURES: _get_features,
    Admin.ASYNC_EVENT: _async_event,
    Admin.NAMESPACE_MANAGEMENT: _namespace_management,
    Admin.NAMESPACE_ATTACHMENT: _namespace_attachment,
    Admin.VIRTUALIZATION: _virtualization,
}
# A secondary controller cannot help itself to other functions' namespaces and resources.
PRIMARY_ONLY = (Admin.NAMESPACE_MANAGEMENT, Admin.NAMESPACE_ATTACHMENT, Admin.VIRTUALIZATION)

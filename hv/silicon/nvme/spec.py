"""Numbers of the NVM Express specification 1.4, with their sections: registers, opcodes, status, features, logs."""

from __future__ import annotations

from enum import IntEnum

PAGE = 0x1000
# Controller registers (3.1).
CAP, VS, INTMS, INTMC, CC, CSTS, AQA, ASQ, ACQ = 0x00, 0x08, 0x0C, 0x10, 0x14, 0x1C, 0x24, 0x28, 0x30
DOORBELLS = 0x1000  # 4 bytes each: tail of submission queue 0, head of completion queue 0, tail of 1, ...
VERSION = 0x0001_0400
# CC (3.1.5).
CC_ENABLE, CC_CSS, CC_MPS, CC_AMS = 1, 7 << 4, 15 << 7, 7 << 11
CC_SHN, CC_IOSQES, CC_IOCQES = 3 << 14, 15 << 16, 15 << 20
CC_WRITABLE, CC_WHILE_ENABLED = 0x00FF_FFF1, CC_ENABLE | CC_SHN | CC_IOSQES | CC_IOCQES
SQ_ENTRY, CQ_ENTRY = 6, 4  # log2 of the sizes of entries
# CSTS (3.1.6).
READY, FATAL, SHUTDOWN_BUSY, SHUTDOWN_DONE, SHUTDOWN = 1, 2, 1 << 2, 2 << 2, 3 << 2
# What our drive is capable of (CAP, 3.1.1): queues of 1024 entries, contiguous; 5 s until ready; the NVM command set.
QUEUE_ENTRIES = 1024
CAPABILITIES = (QUEUE_ENTRIES - 1) | 1 << 16 | 10 << 24 | 1 << 37
MDTS = 5  # at most 2**5 pages a command
MOST_BYTES = PAGE << MDTS
EVERY_NAMESPACE = 0xFFFF_FFFF
# What the drive says of its temperature, in kelvin: what it is, and where it becomes too hot, or too hot to work.
TEMPERATURE, WARNING_TEMPERATURE, CRITICAL_TEMPERATURE = 300, 360, 380


class Admin(IntEnum):
    """Opcodes of admin commands (5)."""

    DELETE_SQ = 0x00
    CREATE_SQ = 0x01
    GET_LOG_PAGE = 0x02
    DELETE_CQ = 0x04
    CREATE_CQ = 0x05
    IDENTIFY = 0x06
    ABORT = 0x08
    SET_FEATURES = 0x09
    GET_FEATURES = 0x0A
    ASYNC_EVENT = 0x0C
    NAMESPACE_MANAGEMENT = 0x0D
    NAMESPACE_ATTACHMENT = 0x15
    VIRTUALIZATION = 0x1C


class Io(IntEnum):
    """Opcodes of the NVM command set (6)."""

    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    COMPARE = 0x05
    WRITE_ZEROES = 0x08
    DATASET_MANAGEMENT = 0x09


class Status(IntEnum):
    """Status code type << 8 | status code (4.6.1)."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    DATA_TRANSFER_ERROR = 0x004
    ABORT_REQUESTED = 0x007
    ABORTED_SQ_DELETION = 0x008
    INVALID_NAMESPACE = 0x00B
    COMMAND_SEQUENCE_ERROR = 0x00C
    PRP_OFFSET_INVALID = 0x013
    OPERATION_DENIED = 0x015
    WRITE_PROTECTED = 0x020
    LBA_OUT_OF_RANGE = 0x080
    CQ_INVALID = 0x100
    INVALID_QUEUE_ID = 0x101
    INVALID_QUEUE_SIZE = 0x102
    EVENT_LIMIT = 0x105
    INVALID_VECTOR = 0x108
    INVALID_LOG_PAGE = 0x109
    INVALID_QUEUE_DELETION = 0x10C
    NOT_SAVEABLE = 0x10D
    NOT_NAMESPACE_SPECIFIC = 0x10F
    NO_CAPACITY = 0x115
    ALREADY_ATTACHED = 0x118
    NOT_ATTACHED = 0x11A
    CONTROLLER_LIST_INVALID = 0x11C
    INVALID_CONTROLLER = 0x11F
    INVALID_SECONDARY_STATE = 0x120
    INVALID_RESOURCE_COUNT = 0x121
    INVALID_RESOURCE = 0x122
    WRITE_FAULT = 0x280
    READ_ERROR = 0x281
    COMPARE_FAILURE = 0x285


# In a completion above its status: the error log says more of it; and it would end so again (4.6.1, M and DNR).
MORE, DO_NOT_RETRY = 1 << 13, 1 << 14
# What the command itself is not to blame for: the next attempt may succeed.
TRANSIENT = frozenset((
    Status.DATA_TRANSFER_ERROR, Status.ABORT_REQUESTED, Status.ABORTED_SQ_DELETION, Status.EVENT_LIMIT,
    Status.WRITE_FAULT, Status.READ_ERROR,
))  # fmt: skip


class CommandError(Exception):
    """A command ends with this status."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


class Event(IntEnum):
    """Asynchronous events: type | information << 8 | log page << 16 (5.2.1)."""

    INVALID_DOORBELL = 0x01_00_00
    INVALID_DOORBELL_VALUE = 0x01_01_00
    TEMPERATURE_THRESHOLD = 0x02_01_01
    NAMESPACES_CHANGED = 0x04_00_02


EVENT_TYPE = 7
# The bit of the feature EVENTS without which it is not reported (5.21.1.11).
EVENT_ENABLE = {Event.TEMPERATURE_THRESHOLD: 1 << 1, Event.NAMESPACES_CHANGED: 1 << 8}


class Feature(IntEnum):
    """Feature identifiers (5.21.1)."""

    ARBITRATION = 0x01
    POWER = 0x02
    TEMPERATURE = 0x04
    ERROR_RECOVERY = 0x05
    WRITE_CACHE = 0x06
    QUEUES = 0x07
    COALESCING = 0x08
    VECTOR = 0x09
    ATOMICITY = 0x0A
    EVENTS = 0x0B


class Log(IntEnum):
    """Log pages (5.14.1)."""

    ERRORS = 0x01
    HEALTH = 0x02
    FIRMWARE = 0x03
    NAMESPACES = 0x04
    EFFECTS = 0x05

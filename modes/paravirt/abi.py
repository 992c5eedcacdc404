"""Xen's public ABI for 64-bit PV guests: the numbers (Xen, xen/include/public: xen.h, arch-x86/xen-x86_64.h,
memory.h, event_channel.h, vcpu.h, sched.h, physdev.h, version.h, features.h, callback.h, grant_table.h, errno.h).

The structures stand as `struct` formats where they are used.
"""

from __future__ import annotations

import enum

# --- errors (errno.h): a hypercall returns the negative of one ------------------------------------------------------

EPERM, ENOENT, ESRCH, EACCES, EFAULT = 1, 2, 3, 13, 14
EBUSY, EEXIST, EINVAL, ENOSPC, ENOSYS, ETIME, EOPNOTSUPP = 16, 17, 22, 28, 38, 62, 95


class Refused(Exception):
    """What the guest asked for is not done. `errno` is what its hypercall returns, negated."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


# --- hypercalls (xen.h): the number is the index of a 32-byte stub in the hypercall page ------------------------------

HYPERCALLS = {
    0: "set_trap_table", 1: "mmu_update", 2: "set_gdt", 3: "stack_switch", 4: "set_callbacks", 5: "fpu_taskswitch",
    7: "platform_op", 8: "set_debugreg", 9: "get_debugreg", 10: "update_descriptor", 12: "memory_op", 13: "multicall",
    14: "update_va_mapping", 15: "set_timer_op", 17: "xen_version", 18: "console_io", 20: "grant_table_op",
    21: "vm_assist", 22: "update_va_mapping_otherdomain", 23: "iret", 24: "vcpu_op", 25: "set_segment_base",
    26: "mmuext_op", 28: "nmi_op", 29: "sched_op", 30: "callback_op", 32: "event_channel_op", 33: "physdev_op",
    34: "hvm_op",
}  # fmt: skip
IRET, MULTICALL = 23, 13
STUB_SIZE = 32

# --- domains ----------------------------------------------------------------------------------------------------------

DOMID_SELF, DOMID_IO, DOMID_XEN, DOMID_INVALID = 0x7FF0, 0x7FF1, 0x7FF2, 0x7FF4
GUEST_DOMID = 1  # the domain that hv runs; domain 0 is the outside world
BACKEND_DOMID = 0

# --- the address space (arch-x86/xen-x86_64.h) ------------------------------------------------------------------------

HYPERVISOR_START, HYPERVISOR_END = 0xFFFF_8000_0000_0000, 0xFFFF_8800_0000_0000
XEN_SLOTS = range(256, 272)  # of every top-level table
M2P_START, M2P_END = HYPERVISOR_START, 0xFFFF_8040_0000_0000
FLAT_RING3_CS64, FLAT_RING3_SS = 0xE033, 0xE02B
FIRST_RESERVED_GDT_ENTRY = 14 * 512

# --- memory -----------------------------------------------------------------------------------------------------------


class Mmu(enum.IntEnum):
    """The low bits of mmu_update's `ptr`."""

    NORMAL_PT_UPDATE = 0
    MACHPHYS_UPDATE = 1
    PT_UPDATE_PRESERVE_AD = 2
    PT_UPDATE_NO_TRANSLATE = 3


class MmuExt(enum.IntEnum):
    PIN_L1_TABLE = 0
    PIN_L2_TABLE = 1
    PIN_L3_TABLE = 2
    PIN_L4_TABLE = 3
    UNPIN_TABLE = 4
    NEW_BASEPTR = 5
    TLB_FLUSH_LOCAL = 6
    INVLPG_LOCAL = 7
    TLB_FLUSH_MULTI = 8
    INVLPG_MULTI = 9
    TLB_FLUSH_ALL = 10
    INVLPG_ALL = 11
    FLUSH_CACHE = 12
    SET_LDT = 13
    NEW_USER_BASEPTR = 15
    CLEAR_PAGE = 16
    COPY_PAGE = 17
    FLUSH_CACHE_GLOBAL = 18
    MARK_SUPER = 19
    UNMARK_SUPER = 20


UVMF_TLB_FLUSH, UVMF_INVLPG, UVMF_FLUSHTYPE_MASK = 1, 2, 3
UVMF_ALL = 4


class MemoryOp(enum.IntEnum):
    INCREASE_RESERVATION = 0
    DECREASE_RESERVATION = 1
    MAXIMUM_RAM_PAGE = 2
    CURRENT_RESERVATION = 3
    MAXIMUM_RESERVATION = 4
    POPULATE_PHYSMAP = 6
    ADD_TO_PHYSMAP = 7
    MEMORY_MAP = 9
    MACHPHYS_MAPPING = 12
    REMOVE_FROM_PHYSMAP = 15


# --- events, time, scheduling -----------------------------------------------------------------------------------------

VIRQ_TIMER, VIRQ_DEBUG = 0, 1
NR_VIRQS = 24
PER_VCPU_VIRQS = frozenset((VIRQ_TIMER, VIRQ_DEBUG, 7, 13))
EVENT_CHANNELS = 4096  # of the two-level ABI
MAX_VCPUS = 32  # that have a vcpu_info in shared_info


class Evtchn(enum.IntEnum):
    BIND_INTERDOMAIN = 0
    BIND_VIRQ = 1
    BIND_PIRQ = 2
    CLOSE = 3
    SEND = 4
    STATUS = 5
    ALLOC_UNBOUND = 6
    BIND_IPI = 7
    BIND_VCPU = 8
    UNMASK = 9
    RESET = 10


class Sched(enum.IntEnum):
    YIELD = 0
    BLOCK = 1
    SHUTDOWN = 2
    POLL = 3


SHUTDOWN_REASONS = {
    0: ("power-off", "the domain powered itself off"),
    1: ("power-off", "the domain asked for a reboot"),
    2: ("power-off", "the domain suspended itself, which hv cannot resume"),
    3: ("panic", "the domain's kernel panicked"),
    4: ("panic", "the domain's watchdog expired"),
    5: ("power-off", "the domain asked for a soft reset"),
}


class VcpuOp(enum.IntEnum):
    INITIALISE = 0
    UP = 1
    DOWN = 2
    IS_UP = 3
    GET_RUNSTATE_INFO = 4
    REGISTER_RUNSTATE_MEMORY_AREA = 5
    SET_PERIODIC_TIMER = 6
    STOP_PERIODIC_TIMER = 7
    SET_SINGLESHOT_TIMER = 8
    STOP_SINGLESHOT_TIMER = 9
    REGISTER_VCPU_INFO = 10
    SEND_NMI = 11
    REGISTER_VCPU_TIME_MEMORY_AREA = 13


SSHOTTMR_FUTURE = 1

# --- the rest ---------------------------------------------------------------------------------------------------------

CALLBACK_EVENT, CALLBACK_FAILSAFE, CALLBACK_SYSCALL, CALLBACK_NMI = 0, 1, 2, 4
CALLBACK_SYSENTER, CALLBACK_SYSENTER_OLD, CALLBACK_SYSCALL32 = 5, 3, 7
CALLBACK_MASK_EVENTS = 1
SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL, SEGBASE_GS_USER_SEL = range(4)
VGCF_IN_SYSCALL = 1 << 8
PHYSDEV_SET_IOPL, PHYSDEV_SET_IOBITMAP = 6, 7
XEN_VERSION = 4 << 16 | 19
# features.h, a PV domain's: mmu_pt_update_preserve_ad, highmem_assist, gnttab_map_avail_bits, direct_mapped
FEATURES = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 17
VMASST_ARCHITECTURAL_IOPL = 4
VMASSISTS = 1 << 2 | 1 << 4  # and writable page tables, which are always there
SIGNATURE = b"XenVMMXenVMM"  # CPUID 4000_0000

# --- guests that hardware virtualizes (hvm/hvm_op.h, hvm/params.h, arch-x86/cpuid.h) ----------------------------------

HYPERCALL_MSR = 0x4000_0000  # CPUID 4000_0002 names it
XENFEAT_WRITABLE_PAGE_TABLES, XENFEAT_AUTO_TRANSLATED_PHYSMAP = 1 << 0, 1 << 2
XENFEAT_HVM_CALLBACK_VECTOR, XENFEAT_HVM_SAFE_PVCLOCK, XENFEAT_HVM_PIRQS = 1 << 8, 1 << 9, 1 << 10
XENFEAT_NOT_DIRECT_MAPPED = 1 << 16


class HvmOp(enum.IntEnum):
    SET_PARAM = 0
    GET_PARAM = 1
    PAGETABLE_DYING = 9
    GET_TIME = 10
    GET_MEM_TYPE = 15
    SET_EVTCHN_UPCALL_VECTOR = 23


class HvmParam(enum.IntEnum):
    CALLBACK_IRQ = 0
    STORE_PFN = 1
    STORE_EVTCHN = 2
    VM86_TSS = 15
    CONSOLE_PFN = 17
    CONSOLE_EVTCHN = 18
    VM_GENERATION_ID_ADDR = 34


class PhysdevOp(enum.IntEnum):
    IRQ_STATUS_QUERY = 5
    EOI = 12
    MAP_PIRQ = 13
    UNMAP_PIRQ = 14
    GET_FREE_PIRQ = 23


HVM_PARAMS = 39  # numbers below this exist
MAPSPACE_SHARED_INFO, MAPSPACE_GRANT_TABLE = 0, 1

/* What this kernel uses of Xen's public ABI (public/xen.h, arch-x86/xen-x86_64.h, event_channel.h, sched.h,
   physdev.h, memory.h, hvm/, io/console.h). Assembly reads the numbers too. */
#pragma once

#define HYPERCALL_SET_TRAP_TABLE 0
#define HYPERCALL_MMU_UPDATE 1
#define HYPERCALL_SET_GDT 2
#define HYPERCALL_STACK_SWITCH 3
#define HYPERCALL_SET_CALLBACKS 4
#define HYPERCALL_MEMORY_OP 12
#define HYPERCALL_MULTICALL 13
#define HYPERCALL_UPDATE_VA_MAPPING 14
#define HYPERCALL_SET_TIMER_OP 15
#define HYPERCALL_XEN_VERSION 17
#define HYPERCALL_GRANT_TABLE_OP 20
#define HYPERCALL_IRET 23
#define HYPERCALL_VCPU_OP 24
#define HYPERCALL_SET_SEGMENT_BASE 25
#define HYPERCALL_MMUEXT_OP 26
#define HYPERCALL_SCHED_OP 29
#define HYPERCALL_EVENT_CHANNEL_OP 32
#define HYPERCALL_PHYSDEV_OP 33
#define HYPERCALL_HVM_OP 34
#define HYPERCALL_STUB_SIZE 32

#define XEN_KERNEL_CODE 0xE033 /* Xen's own flat segments */
#define XEN_KERNEL_STACK 0xE02B

#define MACHINE_TO_PHYS 0xFFFF800000000000 /* where Xen shows which page of this domain's a machine frame is */

#ifndef __ASSEMBLER__
#include "types.h"

#define DOMID_SELF 0x7FF0
#define DOMID_BACKEND 0 /* where the back ends and the store are */

struct xen_start_info {
    char magic[32];
    u64 pages;
    u64 shared_info; /* machine address */
    u32 flags;
    u64 store_frame; /* machine frame numbers */
    u32 store_port;
    u64 console_frame;
    u32 console_port;
    u64 page_tables; /* addresses, in the mapping that Xen begins with */
    u64 page_table_frames;
    u64 frame_list;
    u64 module;
    u64 module_length;
    char command_line[1024];
};

struct xen_vcpu_time {
    u32 version;
    u32 pad;
    u64 timestamp; /* of the counter */
    u64 ns;        /* at that moment */
    u32 multiplier;
    signed char shift;
    u8 flags;
    u8 pad1[2];
};

struct xen_vcpu_info {
    u8 pending; /* an upcall waits */
    u8 mask;    /* no upcall now: what IF is on hardware */
    u64 selector;
    u64 cr2;
    u64 pad;
    struct xen_vcpu_time time;
};

#define XEN_VCPUS 32
#define XEN_PORT_WORDS 64

struct xen_shared_info {
    struct xen_vcpu_info vcpu[XEN_VCPUS];
    u64 pending[XEN_PORT_WORDS];
    u64 mask[XEN_PORT_WORDS];
};

/* mmu_update: the low bits of `pointer` are a command, 0 to write an entry. */
struct xen_mmu_update {
    u64 pointer; /* machine address of the entry */
    u64 value;
};

enum {
    MMUEXT_PIN_L4 = 3,
    MMUEXT_UNPIN = 4,
    MMUEXT_NEW_BASE = 5,
    MMUEXT_FLUSH = 6,
    MMUEXT_FLUSH_PAGE = 7,
    MMUEXT_NEW_USER_BASE = 15,
    MMUEXT_CLEAR_PAGE = 16,
};

struct xen_mmuext_op {
    u32 command;
    u64 first; /* a machine frame number or an address */
    u64 second;
};

struct xen_multicall {
    u64 call;
    u64 result;
    u64 argument[6];
};

struct xen_trap {
    u8 vector;
    u8 flags; /* who may `int` it, and TRAP_MASKS_EVENTS */
    u16 selector;
    u64 address;
};

#define TRAP_MASKS_EVENTS 4

/* What a further CPU starts with. */
struct xen_vcpu_context {
    u8 fpu[512];
    u64 flags; /* VGCF_ */
    u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
    u64 reserved0;
    u64 rip, cs, rflags, rsp, ss, es, ds, fs, gs;
    struct xen_trap traps[256]; /* by vector; no list here */
    u64 ldt, ldt_entries;
    u64 gdt_frames[16], gdt_entries;
    u64 kernel_ss, kernel_sp;
    u64 control[8]; /* [3] is the kernel's top table, [1] the user's */
    u64 debug[8];
    u64 event, failsafe, syscall; /* entry points */
    u64 assists;
    u64 fs_base, gs_base_kernel, gs_base_user;
};

enum { VGCF_IN_KERNEL = 1 << 2, VGCF_ONLINE = 1 << 5 };
enum { VCPU_INITIALISE = 0, VCPU_UP = 1, VCPU_IS_UP = 3, VCPU_SET_PERIODIC = 6, VCPU_STOP_PERIODIC = 7 };
enum {
    EVTCHN_BIND_VIRQ = 1,
    EVTCHN_BIND_PIRQ = 2,
    EVTCHN_CLOSE = 3,
    EVTCHN_SEND = 4,
    EVTCHN_ALLOC_UNBOUND = 6,
    EVTCHN_BIND_IPI = 7,
    EVTCHN_UNMASK = 9,
};
enum { VIRQ_TIMER = 0 };
enum { SCHED_BLOCK = 1, SCHED_SHUTDOWN = 2, SCHED_POLL = 3 };
enum { SHUTDOWN_POWEROFF = 0, SHUTDOWN_CRASH = 3 };
enum { PHYSDEV_SET_IOPL = 6 };
enum { SEGBASE_GS_KERNEL = 2 };
enum { UVMF_INVLPG = 2 };

struct xen_poll {
    const u32 *ports;
    u32 count;
    u64 until; /* ns of Xen's clock; 0: for ever */
};

struct xen_grant_entry {
    u16 flags;
    u16 domid; /* who may use it */
    u32 frame;
};

enum { GRANT_PERMIT = 1, GRANT_READ_ONLY = 1 << 2, GRANT_READING = 1 << 3, GRANT_WRITING = 1 << 4 };
enum { GRANT_SETUP_TABLE = 2 };

struct xen_grant_setup {
    u16 domid;
    u32 frames;
    i16 status;
    u64 *frame_list;
};

struct xen_store_ring {
    char requests[1024], replies[1024];
    u32 request_consumed, request_produced;
    u32 reply_consumed, reply_produced;
    u32 server_features, connection, error;
};

struct xen_store_message {
    u32 type, request, transaction, length; /* of what follows */
};

enum {
    STORE_DIRECTORY = 1,
    STORE_READ = 2,
    STORE_WATCH = 4,
    STORE_TRANSACTION_START = 6,
    STORE_TRANSACTION_END = 7,
    STORE_WRITE = 11,
    STORE_WATCH_EVENT = 15,
    STORE_ERROR = 16,
};

#define STORE_MOST_PAYLOAD 4096

/* Beside a PC (hvm/hvm_op.h, hvm/params.h, memory.h, features.h, arch-x86/cpuid.h). */
struct xen_hvm_param {
    u16 domain;
    u32 index;
    u64 value;
};

struct xen_add_to_physmap {
    u16 domain;
    u16 size;
    u32 space;
    u64 index;
    u64 frame;
};

struct xen_feature_info {
    u32 word; /* which */
    u32 features;
};

enum { HVMOP_SET_PARAM = 0, HVMOP_GET_PARAM = 1 };
enum { HVM_PARAM_CALLBACK_IRQ = 0, HVM_PARAM_STORE_FRAME = 1, HVM_PARAM_STORE_PORT = 2 };
#define CALLBACK_BY_PIN (1ul << 56) /* device and function in bits 15:8, INTA is 0 */
#define CALLBACK_BY_VECTOR (2ul << 56)
enum { XENMEM_ADD_TO_PHYSMAP = 7 };
enum { MAPSPACE_SHARED_INFO = 0, MAPSPACE_GRANT_TABLE = 1 };
enum { XENVER_GET_FEATURES = 6 };
enum { XENFEAT_HVM_CALLBACK_VECTOR = 1 << 8, XENFEAT_HVM_PIRQS = 1 << 10 };
enum { PHYSDEV_GET_FREE_PIRQ = 23 };
#define XEN_MESSAGE 0x4300 /* what a card writes for a pirq: asserted, mode 3, no vector */

struct xen_console_ring {
    char in[1024];
    char out[2048];
    u32 in_consumed, in_produced;
    u32 out_consumed, out_produced;
};

_Static_assert(sizeof(struct xen_grant_entry) == 8, "public/grant_table.h");
_Static_assert(__builtin_offsetof(struct xen_store_ring, server_features) == 2064, "public/io/xs_wire.h");
_Static_assert(sizeof(struct xen_vcpu_info) == 64, "public/xen.h");
_Static_assert(sizeof(struct xen_vcpu_context) == 5168, "public/arch-x86/xen.h");
_Static_assert(__builtin_offsetof(struct xen_start_info, command_line) == 128, "public/xen.h");
#endif

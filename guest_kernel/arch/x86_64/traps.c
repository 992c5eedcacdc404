/* Exceptions, interrupts and system calls: the tables that lead here, and what each does.
   Simplified: the kernel runs with interrupts off, except while it is idle, so that on one CPU it needs no locks; what
   the others do is in kernel/cpus.c. */
#include "traps.h"

#include "apic.h"
#include "console.h"
#include "cpus.h"
#include "net.h"
#include "process.h"
#include "segments.h"
#include "syscall.h"

enum exception {
    DIVIDE_ERROR = 0,
    NMI = 2,
    DOUBLE_FAULT = 8,
    PAGE_FAULT = 14,
    MACHINE_CHECK = 18,
};

static const char *const exception_name[EXCEPTIONS] = {
    "divide error", "debug exception", "non-maskable interrupt", "breakpoint", "overflow", "bound range exceeded",
    "invalid opcode", "device not available", "double fault", "coprocessor segment overrun", "invalid TSS",
    "segment not present", "stack fault", "general protection fault", "page fault", "exception 15", "x87 error",
    "alignment check", "machine check", "SIMD error", "virtualization exception", "control protection exception",
    "exception 22", "exception 23", "exception 24", "exception 25", "exception 26", "exception 27",
    "hypervisor injection exception", "VMM communication exception", "security exception", "exception 31",
};

/* The error code of a page fault. */
#define PF_WRITE 0x02
#define PF_FETCH 0x10

struct gate {
    u16 offset_low;
    u16 selector;
    u8 ist;
    u8 type;
    u16 offset_middle;
    u32 offset_high;
    u32 reserved;
};

#define INTERRUPT_GATE 0x8E /* present, for ring 0, interrupts off on entry */
#define GATE_FOR_USER 0x60  /* ring 3 may `int` it */

volatile u64 arch_timer_expiries;

static struct gate idt[256];
extern char trap_stubs[][16];
extern char syscall_entry[];

void arch_traps_init(void)
{
    segments_init(0);
    if (on_xen()) {
        xen_traps_init();
        return;
    }

    for (int vector = 0; vector < 256; vector++) {
        u64 stub = (u64)trap_stubs[vector];
        idt[vector] = (struct gate){
            .offset_low = (u16)stub,
            .offset_middle = (u16)(stub >> 16),
            .offset_high = (u32)(stub >> 32),
            .selector = KERNEL_CODE,
            .type = INTERRUPT_GATE,
        };
    }
    idt[BREAKPOINT].type |= GATE_FOR_USER;
    idt[DOUBLE_FAULT].ist = IST_DOUBLE_FAULT;
    idt[NMI].ist = IST_NMI;
    idt[MACHINE_CHECK].ist = IST_MACHINE_CHECK;
    traps_load();
}

void traps_load(void)
{
    struct table_pointer pointer = {sizeof idt - 1, (u64)idt};
    cpu_lidt(&pointer);

    cpu_write_msr(MSR_STAR, (u64)(USER_CODE32 | 3) << 48 | (u64)KERNEL_CODE << 32);
    cpu_write_msr(MSR_LSTAR, (u64)syscall_entry);
    cpu_write_msr(MSR_SFMASK, FLAG_IF | FLAG_DF | FLAG_TF | FLAG_NT | FLAG_AC);
}

static void print_registers(const struct trap_frame *f)
{
    kprintf("rax %016lx  rbx %016lx  rcx %016lx  rdx %016lx\n", f->rax, f->rbx, f->rcx, f->rdx);
    kprintf("rsi %016lx  rdi %016lx  rbp %016lx  rsp %016lx\n", f->rsi, f->rdi, f->rbp, f->rsp);
    kprintf("r8  %016lx  r9  %016lx  r10 %016lx  r11 %016lx\n", f->r8, f->r9, f->r10, f->r11);
    kprintf("r12 %016lx  r13 %016lx  r14 %016lx  r15 %016lx\n", f->r12, f->r13, f->r14, f->r15);
    kprintf("rip %016lx  rfl %016lx  cs %lx  ss %lx  error %lx\n", f->rip, f->rflags, f->cs, f->ss, f->error);
    kprintf("cr2 %016lx  cr3 %016lx\n", cpu_read_cr2(), cpu_read_cr3());
}

static void kernel_exception(const struct trap_frame *frame)
{
    kprintf("panic: %s", exception_name[frame->vector]);
    if (frame->vector == PAGE_FAULT)
        kprintf(" at 0x%lx", cpu_read_cr2());
    kprintf(", rip 0x%lx\n", frame->rip);
    print_registers(frame);
    arch_report_panic();
}

static void user_exception(const struct trap_frame *frame)
{
    if (frame->vector == PAGE_FAULT) {
        u64 address = cpu_read_cr2();
        u32 access = frame->error & PF_FETCH ? PROT_EXEC : frame->error & PF_WRITE ? PROT_WRITE : PROT_READ;
        enum vm_result result = vm_fault(&current_process()->space, address, access);
        if (result != VM_DONE)
            process_user_fault(FAULT_PAGE, result == VM_DENIED ? "page fault" : "out of memory", address);
    } else {
        enum fault_cause cause = frame->vector == DIVIDE_ERROR ? FAULT_DIVIDE : FAULT_OTHER;
        process_user_fault(cause, exception_name[frame->vector], 0);
    }
}

/* Called by entry.S for every exception and interrupt, with interrupts off. */
void trap(struct trap_frame *frame)
{
    bool from_user = frame->cs == USER_CODE;
    switch (frame->vector) {
    case VECTOR_TIMER:
        arch_timer_expiries++;
        apic_end_of_interrupt();
        if (from_user)
            yield();
        return;
    case VECTOR_XEN_EVENTS:
        if (xen_handle_events()) {
            arch_timer_expiries++;
            if (from_user)
                yield();
        }
        if (from_user) {
            net_poll();
            console_poll();
        }
        return;
    case VECTOR_CALL:
        apic_end_of_interrupt();
        cpu_call_received();
        return;
    case VECTOR_SPURIOUS: /* the APIC wants no end of interrupt for it */
        return;
    case NMI:
    case DOUBLE_FAULT:
    case MACHINE_CHECK: /* on a stack of their own, from which there is no way back */
        kernel_exception(frame);
        return;
    }
    if (apic_line_interrupt(frame->vector)) {
        if (from_user) {
            net_poll();
            console_poll();
        }
        return;
    }
    if (frame->vector >= EXCEPTIONS)
        panic("interrupt %lu that nothing asked for", frame->vector);
    if (from_user)
        user_exception(frame);
    else
        kernel_exception(frame);
}

/* Called by entry.S for SYSCALL. */
void syscall_trap(struct trap_frame *frame)
{
    frame->rax = (u64)syscall(frame->rax, frame->rdi, frame->rsi, frame->rdx);
}

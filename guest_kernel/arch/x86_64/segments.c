/* Each CPU's descriptor tables: the GDT, the task state segment with its stacks, and GS for per-CPU data. */
#include "segments.h"

#include "process.h"
#include "syscall.h"

struct task_state {
    u32 reserved0;
    u64 rsp[3]; /* the stack for an entry from ring 3 is rsp[0] */
    u64 reserved1;
    u64 ist[7]; /* stacks for the gates that ask for one */
    u64 reserved2;
    u16 reserved3;
    u16 io_bitmap; /* past the limit: ring 3 may use no port */
} __attribute__((packed));

#define IST_STACK_SIZE 4096

#define GDT_ENTRIES (TSS_SELECTOR / 8 + 2) /* the TSS takes two, because it has a 64-bit base */

static struct task_state task_states[MAX_CPUS];
static u8 ist_stacks[MAX_CPUS][IST_STACKS][IST_STACK_SIZE] __attribute__((aligned(16)));
static u64 gdts[MAX_CPUS][GDT_ENTRIES];

/* Base and limit mean nothing for code and data in 64-bit mode; what is left are the type, the ring and the L bit. */
static const u64 segments[GDT_ENTRIES] = {
    [KERNEL_CODE / 8] = 0x00AF9A000000FFFF, [KERNEL_DATA / 8] = 0x00CF92000000FFFF,
    [USER_CODE32 / 8] = 0x00CFFA000000FFFF, [USER_DATA / 8] = 0x00CFF2000000FFFF,
    [USER_CODE / 8] = 0x00AFFA000000FFFF,
};

static void load_segments(void)
{
    __asm__ volatile("pushq %0; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1:\n"
                     "movl %1, %%ds; movl %1, %%es; movl %1, %%ss"
                     :
                     : "i"(KERNEL_CODE), "r"(KERNEL_DATA)
                     : "rax", "memory");
}

void segments_init(u32 number)
{
    struct cpu *cpu = &cpus[number];
    cpu->self = cpu;
    cpu->number = number;
    if (on_xen()) {
        xen_segments_init((u64)cpu);
        return;
    }

    struct task_state *task_state = &task_states[number];
    u64 *gdt = gdts[number];
    for (int i = 0; i < GDT_ENTRIES; i++)
        gdt[i] = segments[i];
    for (int i = 0; i < IST_STACKS; i++)
        task_state->ist[i] = (u64)ist_stacks[number][i] + IST_STACK_SIZE;
    task_state->io_bitmap = sizeof *task_state;

    u64 base = (u64)task_state, limit = sizeof *task_state - 1;
    const u64 present_tss = 0x89; /* present, ring 0, available 64-bit TSS */
    gdt[TSS_SELECTOR / 8] = limit | (base & 0xFFFFFF) << 16 | present_tss << 40 | (base >> 24 & 0xFF) << 56;
    gdt[TSS_SELECTOR / 8 + 1] = base >> 32;

    struct table_pointer pointer = {sizeof gdts[number] - 1, (u64)gdt};
    cpu_lgdt(&pointer);
    load_segments();
    cpu_ltr(TSS_SELECTOR);

    cpu_write_msr(MSR_GS_BASE, (u64)cpu);
    cpu_write_msr(MSR_KERNEL_GS_BASE, 0); /* the user's */
}

/* Both ways into the kernel from ring 3 use the same stack: traps find it in the TSS, SYSCALL in struct cpu, and Xen
   is told. */
void segments_set_kernel_stack(u64 top)
{
    struct cpu *cpu = arch_this_cpu();
    if (on_xen())
        xen_set_kernel_stack(top);
    else
        task_states[cpu->number].rsp[0] = top;
    cpu->kernel_stack = top;
}

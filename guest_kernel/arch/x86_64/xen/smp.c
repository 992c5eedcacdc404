/* The other CPUs of a PV domain. Xen starts them in C at once: the domain says with which registers, tables and entry
   points. A call from one CPU to another is an event channel. */
#include "arch.h"
#include "console.h"
#include "cpus.h"
#include "process.h"
#include "string.h"
#include "xen.h"

#define START_POLLS 1000000 /* then it does not start */

static u8 stacks[MAX_CPUS][KERNEL_STACK_SIZE] __attribute__((aligned(16)));

static i64 vcpu_call(u32 command, u32 cpu, const void *argument)
{
    return xen_hypercall(command, cpu, (u64)argument, 0, 0, HYPERCALL_VCPU_OP);
}

void xen_find_cpus(void)
{
    cpu_count = 1;
    while (cpu_count < MAX_CPUS && vcpu_call(VCPU_IS_UP, cpu_count, NULL) >= 0)
        cpu_count++;
}

static bool start(u32 number)
{
    static struct xen_vcpu_context context;
    struct cpu *cpu = &cpus[number];
    cpu->self = cpu;
    cpu->number = number;
    xen_bind_call(number);

    memset(&context, 0, sizeof context);
    context.flags = VGCF_IN_KERNEL | VGCF_ONLINE;
    context.rip = (u64)cpu_started;
    context.cs = XEN_KERNEL_CODE;
    context.ss = XEN_KERNEL_STACK;
    context.rflags = FLAG_RESERVED | FLAG_IF;
    context.rsp = (u64)stacks[number] + KERNEL_STACK_SIZE - sizeof(u64); /* as after a call */
    context.kernel_sp = context.rsp;
    context.control[3] = xen_machine(xen_boot_root());
    context.gs_base_kernel = (u64)cpu;
    xen_fill_entry_points(&context);
    if (vcpu_call(VCPU_INITIALISE, number, &context) || vcpu_call(VCPU_UP, number, NULL))
        return false;
    for (u64 i = 0; i < START_POLLS && !cpu->online; i++)
        arch_pause();
    return cpu->online;
}

void xen_start_cpus(void)
{
    for (u32 cpu = 1; cpu < cpu_count; cpu++)
        if (!start(cpu))
            kprintf("CPU %u does not start\n", cpu);
}

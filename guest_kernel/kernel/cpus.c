/* Several CPUs: calls from one to another, work for those that have none of their own, and the TLB shoot-down.
   Simplified: only CPU 0 calls and gives work, one at a time, and waits for the end of a call, so nothing is locked.
   What the others run may neither print nor allocate nor sleep. */
#include "cpus.h"

#include "arch.h"
#include "console.h"
#include "frames.h"
#include "process.h"

struct cpu cpus[MAX_CPUS];
u32 cpu_count = 1;

/* The other CPUs' only loop. */
void cpu_started(void)
{
    struct cpu *cpu = arch_this_cpu();
    cpu->online = true;
    for (;;) {
        if (cpu->work) {
            arch_irq_enable();
            cpu->work(cpu->work_argument);
            arch_irq_disable();
            cpu->work = NULL;
        } else {
            arch_wait_for_interrupt();
        }
    }
}

/* Lets another CPU call a function in its interrupt handler, and waits until it has. */
void cpu_call(u32 number, cpu_function *function, void *argument)
{
    struct cpu *cpu = &cpus[number];
    cpu->call_argument = argument;
    cpu->call = function;
    cpu->call_done = false;
    arch_send_call(number);
    while (!cpu->call_done)
        arch_pause();
}

/* The interrupt is there, and has been ended. */
void cpu_call_received(void)
{
    struct cpu *cpu = arch_this_cpu();
    cpu_function *function = cpu->call;
    if (function) {
        cpu->call = NULL;
        function(cpu->call_argument);
    }
    cpu->call_done = true;
}

static void nothing(void *argument) { (void)argument; }

/* Gives an idle CPU something to do, and wakes it. */
void cpu_give_work(u32 number, cpu_function *function, void *argument)
{
    cpus[number].work_argument = argument;
    cpus[number].work = function;
    cpu_call(number, nothing, NULL);
}

void cpu_await_work(u32 number)
{
    while (cpus[number].work)
        arch_pause();
}

static void flush(void *root)
{
    struct cpu *cpu = arch_this_cpu();
    if (cpu->root == (u64)root)
        arch_flush_all((u64)root);
    cpu->flushes++;
}

/* The TLB shoot-down: the other CPUs that have this address space loaded forget what they know of it. */
void cpus_flush(u64 root)
{
    for (u32 i = 1; i < cpu_count; i++)
        if (cpus[i].root == root)
            cpu_call(i, flush, (void *)root);
}

/* How many there are that run. */
i64 cpus_count(bool print)
{
    i64 count = 1;
    for (u32 i = 1; i < cpu_count; i++)
        count += cpus[i].online;
    for (u32 i = 0; print && i < cpu_count; i++)
        kprintf("CPU %u %s\n", i, !i ? "runs the processes" : cpus[i].online ? "waits for work" : "did not start");
    return count;
}

/* --- a test of the shoot-down ------------------------------------------------------------------------------------- */

struct watcher {
    u64 root;
    volatile u64 *address;
    volatile u64 seen, looks;
    volatile bool enough;
};

/* The other CPU looks at a page of the user's address space, as a thread of the process would. */
static void watch(void *argument)
{
    struct watcher *watcher = argument;
    struct cpu *cpu = arch_this_cpu();
    cpu->root = watcher->root;
    arch_space_load(watcher->root);
    while (!watcher->enough) {
        watcher->seen = *watcher->address;
        watcher->looks++;
    }
    arch_space_load_kernel();
    cpu->root = 0;
}

static u64 look(const struct watcher *watcher)
{
    u64 looks = watcher->looks;
    while (watcher->looks < looks + 2)
        arch_pause();
    return watcher->seen;
}

/* Replaces a page under the eyes of another CPU. 0 if that one sees the new page at once. */
i64 cpus_test_shootdown(void)
{
    enum { BEFORE = 0x1111, AFTER = 0x2222 };
    struct space *space = &current_process()->space;
    if (cpu_count < 2 || !cpus[1].online)
        return -ENODEV;
    i64 address = vm_mmap(space, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_POPULATE);
    u64 frame = frame_alloc(), value = BEFORE, flushes = cpus[1].flushes;
    if (address < 0 || !frame)
        return -ENOMEM;
    vm_write(space, (u64)address, &value, sizeof value);
    *(u64 *)phys_to_virt(frame) = AFTER;

    struct watcher watcher = {.root = space->root, .address = (u64 *)address};
    cpu_give_work(1, watch, &watcher);
    u64 before = look(&watcher);
    pte *slot = arch_leaf_slot(space->root, (u64)address, false);
    frame_release(pte_frame(*slot));
    pte_write(slot, pte_make(frame, PROT_READ | PROT_WRITE | PROT_USER));
    arch_flush_page((u64)address);
    cpus_flush(space->root);
    u64 after = look(&watcher);
    watcher.enough = true;
    cpu_await_work(1);

    kprintf("CPU 1 saw %lx, flushed its TLB %lu times, sees %lx\n", before, cpus[1].flushes - flushes, after);
    vm_munmap(space, (u64)address, PAGE_SIZE);
    return before == BEFORE && after == AFTER && cpus[1].flushes > flushes ? 0 : -EFAULT;
}

/* The process table: creation, fork, exit, wait, and what a fault does to a process.
   Simplified: no exec: all programs are functions of one user image, and a child runs on from its fork. A dead
   process keeps its memory until its parent waits for it. */
#include "process.h"

#include "console.h"
#include "kernel_bench.h"
#include "string.h"
#include "syscall.h"

#define MAX_PROCESSES 64

/* The page below each stack is unmapped, so that an overflow faults instead of writing into a neighbour. */
struct kernel_stack {
    u8 guard[PAGE_SIZE];
    u8 stack[KERNEL_STACK_SIZE];
} __attribute__((aligned(PAGE_SIZE)));

static struct process table[MAX_PROCESSES];
static struct kernel_stack kernel_stacks[MAX_PROCESSES];
static u32 last_pid;
static u32 last_background_pid; /* what has been started since then is the shell's foreground command */
static struct process *first_process; /* inherits the children of the dead */

extern char user_start[];

#define for_each_process(p) for (struct process *p = table; p < table + MAX_PROCESSES; p++)

void process_init(void)
{
    for (int i = 0; i < MAX_PROCESSES; i++) {
        table[i].stack_top = (u64)(kernel_stacks[i].stack + KERNEL_STACK_SIZE);
        arch_unmap_kernel_page((u64)kernel_stacks[i].guard);
    }
}

static struct process *find_unused(void)
{
    for_each_process(p)
        if (p->state == UNUSED)
            return p;
    return NULL;
}

void process_start_first(void)
{
    struct process *process = find_unused();
    if (!vm_create_first(&process->space))
        panic("not enough memory for the first process");
    process->pid = ++last_pid;
    memcpy(process->name, "shell", sizeof "shell");
    arch_process_prepare(process, (u64)user_start, USER_TOP);
    first_process = process;
    scheduler_add(process);
}

i64 process_fork(void)
{
    probe(PROBE_FORK);
    struct process *parent = current_process();
    struct process *child = find_unused();
    if (!child)
        return -EAGAIN;
    if (!vm_fork(&child->space, &parent->space))
        return -ENOMEM;
    child->pid = ++last_pid;
    child->parent = parent;
    child->recovery = parent->recovery;
    memcpy(child->name, parent->name, sizeof child->name);
    arch_process_prepare_fork(child, parent->frame);
    scheduler_add(child);
    return child->pid;
}

static void become_zombie(struct process *process, i64 status)
{
    for_each_process(p)
        if (p->parent == process)
            p->parent = first_process;
    process->status = status;
    process->state = ZOMBIE;
    wake(process->parent);
}

void process_exit(i64 status)
{
    if (current_process() == first_process)
        panic("the first process ended with status %ld", status);
    become_zombie(current_process(), status);
    schedule();
    panic("a dead process ran");
}

/* The first process, the shell, asks for input: what runs now runs in the background. */
void process_at_prompt(void)
{
    if (current_process() == first_process)
        last_background_pid = last_pid;
}

static bool in_foreground(const struct process *p)
{
    return p->state != UNUSED && p->state != ZOMBIE && p->pid > last_background_pid;
}

/* Ends the foreground command: the current process too, if it belongs to it. False: there is none. */
bool process_interrupt(void)
{
    bool found = false;
    for_each_process(p) {
        if (!in_foreground(p))
            continue;
        if (!found)
            kprintf("^C\n");
        found = true;
        if (p == current_process())
            continue;
        if (p->state == RUNNABLE)
            scheduler_remove(p);
        become_zombie(p, STATUS_KILLED);
    }
    if (in_foreground(current_process()))
        process_exit(STATUS_KILLED);
    return found;
}

/* Frees a zombie and reports it to its parent. */
static i64 reap(struct process *zombie, u64 status_address)
{
    i64 status = zombie->status, pid = zombie->pid;
    vm_destroy(&zombie->space);
    zombie->state = UNUSED;
    zombie->parent = NULL;
    if (status_address && !vm_write(&current_process()->space, status_address, &status, sizeof status))
        return -EFAULT;
    return pid;
}

i64 process_wait(u64 status_address, bool nohang)
{
    for (;;) {
        bool has_children = false;
        for_each_process(p) {
            if (p->state == UNUSED || p->parent != current_process())
                continue;
            if (p->state == ZOMBIE)
                return reap(p, status_address);
            has_children = true;
        }
        if (!has_children)
            return -ECHILD;
        if (nohang)
            return 0;
        sleep(current_process()); /* a child that ends wakes its parent */
    }
}

void wake(const void *event)
{
    for_each_process(p)
        if (p->state == SLEEPING && p->waits_for == event)
            scheduler_add(p);
}

/* Is there no process but the current one? */
bool process_is_alone(void)
{
    for_each_process(p)
        if (p->state != UNUSED && p != current_process())
            return false;
    return true;
}

void process_print_all(void)
{
    static const char *const state_name[] = {"unused", "runnable", "running", "sleeping", "zombie"};
    kprintf("%5s %6s %-8s %s\n", "PID", "PARENT", "STATE", "NAME");
    for_each_process(p)
        if (p->state != UNUSED)
            kprintf("%5u %6u %-8s %s\n", p->pid, p->parent ? p->parent->pid : 0, state_name[p->state], p->name);
}

/* The current process did what it may not: it goes on at its recovery address, or ends. */
void process_user_fault(enum fault_cause cause, const char *what, u64 address)
{
    struct process *process = current_process();
    if (process->recovery) {
        probe(PROBE_RECOVER);
        arch_process_recover(process, cause, address);
        return;
    }
    kprintf("pid %u (%s): %s", process->pid, process->name, what);
    if (cause == FAULT_PAGE)
        kprintf(" at 0x%lx", address);
    kprintf(", rip 0x%lx: killed\n", arch_process_instruction(process));
    process_exit(STATUS_KILLED);
}

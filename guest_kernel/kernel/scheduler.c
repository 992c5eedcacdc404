/* Round robin on one CPU, with a tick that runs only while something does.
   Simplified: no priorities, and an idle CPU waits on the stack of the process that slept last. */
#include "console.h"
#include "kernel_bench.h"
#include "net.h"
#include "process.h"

static struct process *queue_first, *queue_last; /* RUNNABLE processes, the next one first */
static bool tick_runs, tick_held;

static void tick_set(bool on)
{
    if (on == tick_runs)
        return;
    tick_runs = on;
    if (on)
        arch_tick_start();
    else
        arch_tick_stop();
}

/* While held, the tick is off whatever runs: for measurements. */
void scheduler_hold_tick(bool hold)
{
    tick_held = hold;
    tick_set(!hold);
}

void scheduler_add(struct process *process)
{
    process->state = RUNNABLE;
    process->next = NULL;
    if (queue_first)
        queue_last->next = process;
    else
        queue_first = process;
    queue_last = process;
}

/* Takes a process that is RUNNABLE out of the queue. */
void scheduler_remove(struct process *process)
{
    struct process *before = NULL, *p = queue_first;
    for (; p != process; p = p->next)
        before = p;
    if (before)
        before->next = process->next;
    else
        queue_first = process->next;
    if (queue_last == process)
        queue_last = before;
}

/* Gives the CPU to the next runnable process, or waits for one. The caller has put the current one where it belongs. */
void schedule(void)
{
    while (!queue_first) {
        tick_set(false);
        arch_wait_for_interrupt();
        net_poll();
        console_poll();
    }
    tick_set(!tick_held);

    static struct process boot; /* stands for kmain, in the first switch */
    struct process *from = current_process() ? current_process() : &boot;
    struct process *to = queue_first;
    queue_first = to->next;
    to->state = RUNNING;
    if (to == from)
        return;
    arch_this_cpu()->current = to;
    probe(PROBE_SWITCH);
    arch_switch(from, to);
}

void yield(void)
{
    scheduler_add(current_process());
    schedule();
}

/* Until somebody wakes this event. The kernel runs with interrupts off, so no wake is lost before it sleeps. */
void sleep(const void *event)
{
    current_process()->state = SLEEPING;
    current_process()->waits_for = event;
    schedule();
}

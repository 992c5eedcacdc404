/* The CPUs. Processes run on CPU 0 only; the others sleep until CPU 0 sends them something to do. */
#pragma once

#include "types.h"

#define MAX_CPUS 8

struct process;

typedef void cpu_function(void *argument);

/* What a CPU knows about itself. The entry code uses the first three by their offset. */
struct cpu {
    struct cpu *self;
    u64 kernel_stack; /* top of the running process's kernel stack */
    u64 user_stack;   /* scratch of the system call entry */
    struct process *current;
    u32 number;
    volatile bool online;
    cpu_function *volatile call; /* to be called in its interrupt handler */
    void *volatile call_argument;
    volatile bool call_done;
    cpu_function *volatile work; /* to be done outside interrupts; NULL again when it is over */
    void *volatile work_argument;
    volatile u64 root; /* the user's address space that its work has loaded, or 0 */
    u64 flushes;       /* of its TLB, for another CPU */
};

extern struct cpu cpus[MAX_CPUS];
extern u32 cpu_count; /* how many there are, online or not */

void cpu_started(void);
void cpu_call(u32 number, cpu_function *function, void *argument);
void cpu_call_received(void);
void cpu_give_work(u32 number, cpu_function *function, void *argument);
void cpu_await_work(u32 number);
void cpus_flush(u64 root);
i64 cpus_count(bool print);
i64 cpus_test_shootdown(void);

/* Processes and the scheduler. */
#pragma once

#include "arch.h"
#include "cpus.h"
#include "types.h"
#include "vm.h"

#define NAME_LENGTH 16
#define KERNEL_STACK_SIZE (2 * PAGE_SIZE)

enum process_state { UNUSED, RUNNABLE, RUNNING, SLEEPING, ZOMBIE };

struct process {
    u32 pid;
    enum process_state state;
    char name[NAME_LENGTH];
    struct process *parent;
    i64 status;               /* of a zombie, for the parent */
    struct space space;
    u64 stack_top;            /* of its kernel stack */
    u64 saved_stack;          /* kernel stack pointer while it does not run */
    struct trap_frame *frame; /* its user registers, at the top of the kernel stack */
    u64 recovery;             /* SYS_ON_FAULT */
    const void *waits_for;    /* while SLEEPING */
    struct process *next;     /* in the run queue */
};

void process_init(void);
void process_start_first(void);
i64 process_fork(void);
__attribute__((noreturn)) void process_exit(i64 status);
i64 process_wait(u64 status_address, bool nohang);
bool process_is_alone(void);
void process_at_prompt(void);
bool process_interrupt(void);
void process_print_all(void);
void process_user_fault(enum fault_cause cause, const char *what, u64 address);

void scheduler_add(struct process *process);
void scheduler_remove(struct process *process);
void scheduler_hold_tick(bool hold);
void schedule(void);
void yield(void);
void sleep(const void *event);
void wake(const void *event);

static inline struct process *current_process(void) { return arch_this_cpu()->current; }

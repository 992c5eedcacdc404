/* What x86-64 needs to start, fork, divert and switch processes. */
#include "process.h"

#include "segments.h"

/* entry.S knows these places as numbers. */
_Static_assert(offsetof(struct cpu, self) == 0, "%gs:0");
_Static_assert(offsetof(struct cpu, kernel_stack) == 8, "CPU_KERNEL_STACK");
_Static_assert(offsetof(struct cpu, user_stack) == 16, "CPU_USER_STACK");
_Static_assert(offsetof(struct trap_frame, rip) == 136, "FRAME_RIP");
_Static_assert(offsetof(struct trap_frame, cs) == 144, "FRAME_CS");

extern char trap_return[];
void switch_stacks(u64 *save, u64 load);

/* Puts below the user registers what switch_stacks pops, so that the first switch to the process "returns" to
   trap_return, which takes the registers from there. The zeros are also the end of a backtrace. */
static void prepare_first_switch(struct process *process)
{
    u64 *stack = (u64 *)process->frame;
    *--stack = (u64)trap_return;
    for (int i = 0; i < 6; i++)
        *--stack = 0; /* rbp, rbx, r12 to r15 */
    process->saved_stack = (u64)stack;
}

static void place_frame(struct process *process)
{
    process->frame = (struct trap_frame *)process->stack_top - 1;
}

void arch_process_prepare(struct process *process, u64 entry, u64 stack)
{
    place_frame(process);
    *process->frame = (struct trap_frame){
        .rip = entry,
        .cs = USER_CODE,
        .rflags = FLAG_RESERVED | FLAG_IF,
        .rsp = stack,
        .ss = USER_DATA,
    };
    prepare_first_switch(process);
}

/* A child goes on where its parent's system call returns, and finds 0 there. */
void arch_process_prepare_fork(struct process *child, const struct trap_frame *parent)
{
    place_frame(child);
    *child->frame = *parent;
    child->frame->rax = 0;
    prepare_first_switch(child);
}

void arch_process_recover(struct process *process, enum fault_cause cause, u64 address)
{
    process->frame->rip = process->recovery;
    process->frame->rax = cause;
    process->frame->rdx = address;
}

u64 arch_process_instruction(const struct process *process) { return process->frame->rip; }

void arch_switch(struct process *from, struct process *to)
{
    arch_batch_begin();
    arch_space_load(to->space.root);
    segments_set_kernel_stack(to->stack_top);
    arch_batch_end();
    switch_stacks(&from->saved_stack, to->saved_stack);
}

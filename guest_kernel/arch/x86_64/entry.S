/* The ways into the kernel and out again: exceptions and interrupts, SYSCALL, the first return of a new process; and
   the switch between two kernel stacks.
   Each entry pushes a struct trap_frame, and below it a link [interrupted rbp][interrupted rip], so that a walk along
   rbp goes on from the kernel's frames into what was interrupted. */

#include "asm.h"
#include "segments.h"
#include "static_branch.h"

#define CPU_KERNEL_STACK 8      /* offsets in struct cpu; process.c checks them */
#define CPU_USER_STACK 16
#define FRAME_RIP 136           /* offsets in struct trap_frame */
#define FRAME_CS 144

.macro push_registers
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
.endm

.macro pop_registers
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp              /* vector and error code */
.endm

.macro link_frame               /* rdi = the trap_frame */
    movq %rsp, %rdi
    pushq FRAME_RIP(%rdi)
    pushq %rbp
    movq %rsp, %rbp
.endm

.text

/* One stub of 16 bytes per vector. The CPU pushes an error code for the vectors in the mask; the others get a 0. */
#define HAS_ERROR_CODE 0x60227D00 /* 8, 10-14, 17, 21, 29, 30 */
.balign 16
FUNCTION(trap_stubs)
    .set vector, 0
    .rept 256
    .balign 16
    .if vector >= 32 || !((HAS_ERROR_CODE >> (vector & 31)) & 1)
    pushq $0
    .endif
    pushq $vector
    jmp trap_entry
    .set vector, vector + 1
    .endr
END(trap_stubs)

FUNCTION(trap_entry)
    cld
    push_registers
    if_on_xen 1f                /* which gives the kernel its GS */
    testb $3, FRAME_CS(%rsp)    /* GS is the kernel's already if the kernel was interrupted */
    jz 1f                       /* (an NMI right at syscall_entry has the user's; it only prints and stops) */
    swapgs
1:  link_frame
    call trap
    addq $16, %rsp
END(trap_entry)
FUNCTION(trap_return)           /* rsp = a trap_frame */
    if_on_xen xen_return
    testb $3, FRAME_CS(%rsp)
    jz 1f
    swapgs
1:  pop_registers
    iretq
xen_return:
    pop_registers
    jmp xen_iret
END(trap_return)

/* SYSCALL left the return address in rcx, the flags in r11 and rsp as it was; interrupts are off (SFMASK). */
FUNCTION(syscall_entry)
    swapgs
    movq %rsp, %gs:CPU_USER_STACK
    movq %gs:CPU_KERNEL_STACK, %rsp
    pushq $USER_DATA
    pushq %gs:CPU_USER_STACK
    pushq %r11
    pushq $USER_CODE
    pushq %rcx
.global syscall_enter
syscall_enter:                  /* rsp = rip cs rflags rsp ss */
    pushq $0                    /* no error code, no vector: the frame is a trap's otherwise */
    pushq $0
    push_registers
    link_frame
    call syscall_trap
    addq $16, %rsp
    if_on_xen xen_return
    pop_registers               /* with rcx and r11 as SYSRET wants them */
    movq 24(%rsp), %rsp
    swapgs
    sysretq
END(syscall_entry)

/* void switch_stacks(u64 *save, u64 load): saves what a C function must preserve, goes on where `load` was saved. */
FUNCTION(switch_stacks)
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
END(switch_stacks)

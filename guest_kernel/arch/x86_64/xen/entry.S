/* The ways into the kernel and out again as a PV domain. Xen has built the frame already:

       rcx  r11  [error code]  rip  cs  rflags  rsp  ss

   GS is the kernel's, and events are masked. The way out is the hypercall iret, whatever the way in was. */

#include "../asm.h"
#include "../memory_layout.h"
#include "../segments.h"
#include "../traps.h"
#include "abi.h"

.macro note type, value
    .long 4, 8, \type
    .asciz "Xen"
    .quad \value
.endm

.macro text_note type, text
    .long 4, 3f - 2f, \type
    .asciz "Xen"
2:  .asciz "\text"
3:  .balign 4
.endm

/* How a domain builder starts this kernel (public/elfnote.h). */
.section .note.Xen, "a", @note
    note 1, xen_entry           /* XEN_ELFNOTE_ENTRY */
    note 2, xen_hypercall_page  /* _HYPERCALL_PAGE */
    note 3, KERNEL_BASE         /* _VIRT_BASE */
    note 4, 0                   /* _PADDR_OFFSET */
    text_note 5, "xen-3.0"      /* _XEN_VERSION */
    text_note 6, "hv"           /* _GUEST_OS */
    text_note 7, "1"            /* _GUEST_VERSION */
    text_note 8, "generic"      /* _LOADER */
    text_note 10, "!writable_page_tables|pae_pgdir_above_4gb" /* _FEATURES */

.text
FUNCTION(xen_entry)             /* rsi -> start_info */
    movq $boot_stack_top, %rsp
    xorl %ebp, %ebp             /* the outermost frame of a backtrace */
    movq %rsi, %rdi
    call xen_start
    ud2
END(xen_entry)

/* i64 xen_hypercall(u64 a, u64 b, u64 c, u64 d, u64 e, u64 number) */
FUNCTION(xen_hypercall)
    movq %rcx, %r10
    shlq $5, %r9                /* HYPERCALL_STUB_SIZE */
    addq $xen_hypercall_page, %r9
    call *%r9
    ret
END(xen_hypercall)

/* One stub of 16 bytes per exception: they go on where the CPU's own would. */
.balign 16
FUNCTION(xen_trap_stubs)
    .set vector, 0
    .rept EXCEPTIONS
    .balign 16
    popq %rcx
    popq %r11
    jmp trap_stubs + 16 * vector
    .set vector, vector + 1
    .endr
END(xen_trap_stubs)

FUNCTION(xen_event_entry)
    popq %rcx
    popq %r11
    pushq $0
    pushq $VECTOR_XEN_EVENTS
    jmp trap_entry
END(xen_event_entry)

FUNCTION(xen_syscall_entry)
    popq %rcx
    popq %r11
    movq $USER_CODE, 8(%rsp)    /* what SYSCALL itself has loaded is not what the kernel's frames have */
    movq $USER_DATA, 32(%rsp)
    jmp syscall_enter
END(xen_syscall_entry)

FUNCTION(xen_failsafe_entry)
    ud2
END(xen_failsafe_entry)

/* rsp = rip cs rflags rsp ss; the registers are the interrupted ones. The stub pushes rcx, r11 and rax. */
FUNCTION(xen_iret)
    pushq $0
    jmp xen_hypercall_page + HYPERCALL_IRET * HYPERCALL_STUB_SIZE
END(xen_iret)

/* The domain builder fills this page. */
.section .text.hypercall_page, "ax"
.balign 4096
FUNCTION(xen_hypercall_page)
    .fill 4096, 1, 0xcc
END(xen_hypercall_page)

/* Where another CPU begins: real mode, at the page that the start-up message names. The kernel copies this there.
   A far jump with a 32-bit offset reaches the rest, in boot.S. */

#include "asm.h"
#include "memory_layout.h"

#define CR0_PE (1 << 0) /* protected mode */

.section .rodata
.code16
.global trampoline_start, trampoline_end
trampoline_start:
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt_pointer - trampoline_start
    movl %cr0, %eax
    orl $CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $0x08, $(secondary_entry - KERNEL_BASE)

trampoline_gdt_pointer:
    .word secondary_gdt_end - secondary_gdt - 1
    .long secondary_gdt - KERNEL_BASE
trampoline_end:

.section .data.boot, "aw"
.balign 8
secondary_gdt:
    .quad 0
    .quad 0x00CF9A000000FFFF    /* 0x08: code, 32-bit */
    .quad 0x00CF92000000FFFF    /* 0x10: data */
secondary_gdt_end:

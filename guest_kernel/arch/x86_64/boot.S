/* From the boot loader to C: the PVH entry in 32-bit protected mode, the first page tables, long mode, kmain. The other
   CPUs take the same way.
   Simplified: the first page tables map the first GiB at three places and let everything be written and executed;
   paging.c replaces them. */

#include "asm.h"
#include "memory_layout.h"

#define PHYS(symbol) ((symbol) - KERNEL_BASE)

#define CR0_PE (1 << 0)   /* protected mode */
#define CR0_EM (1 << 2)   /* no FPU: its instructions fault, because nothing here saves its registers */
#define CR0_NE (1 << 5)   /* FPU errors as exceptions */
#define CR0_WP (1 << 16)  /* read-only pages also bind the kernel */
#define CR0_PG (1 << 31)  /* paging */
#define CR4_PAE (1 << 5)  /* 8-byte page-table entries */
#define MSR_EFER 0xC0000080
#define EFER_SCE (1 << 0) /* SYSCALL */
#define EFER_LME (1 << 8) /* long mode */
#define EFER_NXE (1 << 11) /* the no-execute bit */

/* "PVH": a loader that finds this note enters at the address it gives, with EBX -> hvm_start_info. */
.section .note.Xen, "a", @note
    .long 4, 8, 18              /* name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad PHYS(pvh_entry)

.section .text.boot, "ax"
.code32
FUNCTION(pvh_entry)
    cli
    cld
    movl %ebx, %edi             /* kmain's argument */
    jmp enter_long_mode
END(pvh_entry)

FUNCTION(secondary_entry)       /* another CPU, from trampoline.S */
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %edi, %edi             /* no boot information: no kmain */
enter_long_mode:
    movl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $PHYS(boot_pml4), %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    xorl %edx, %edx
    movl $(EFER_SCE | EFER_LME | EFER_NXE), %eax
    wrmsr
    movl $(CR0_PE | CR0_EM | CR0_NE | CR0_WP | CR0_PG), %eax
    movl %eax, %cr0
    lgdt PHYS(boot_gdt_pointer)
    ljmp $0x08, $PHYS(long_mode)

.code64
long_mode:                      /* still at the physical address */
    movabsq $high_half, %rax
    jmpq *%rax
high_half:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    xorl %ebp, %ebp             /* the outermost frame of a backtrace */
    movl %edi, %edi             /* clears the upper half */
    testl %edi, %edi
    jz 1f
    movq $boot_stack_top, %rsp
    call kmain
1:  movq secondary_stack, %rsp
    call secondary_main
END(secondary_entry)

.section .data.boot, "aw"
.balign 4096
boot_pml4:                      /* the same GiB at 0, DIRECT_MAP and KERNEL_BASE */
    .quad PHYS(boot_pdpt) + 3
    .fill 272, 8, 0
    .quad PHYS(boot_pdpt) + 3
    .fill 237, 8, 0
    .quad PHYS(boot_pdpt) + 3
boot_pdpt:
    .quad PHYS(boot_pd) + 3
    .fill 509, 8, 0
    .quad PHYS(boot_pd) + 3
    .quad 0
boot_pd:                        /* 512 pages of 2 MiB: present, writable, large */
    .set page, 0
    .rept 512
    .quad (page << 21) + 0x83
    .set page, page + 1
    .endr

boot_gdt:
    .quad 0
    .quad 0x00AF9A000000FFFF    /* 0x08: code, 64-bit */
boot_gdt_pointer:
    .word . - boot_gdt - 1
    .long PHYS(boot_gdt)

.section .bss.boot, "aw", @nobits
.balign 16
    .skip 8192
.global boot_stack_top
boot_stack_top:

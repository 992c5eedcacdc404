/* The reset vector, and the way out into the kernel.
   Simplified: the CPU comes out of reset in 32-bit protected mode with flat segments, not in real mode. */

.section .reset, "ax"
.code32
.globl reset                    /* at 0xFFFF0 */
reset:
    jmp start

.section .text, "ax"
start:
    cli
    cld
    movl $0x7000, %esp          /* the stack: conventional memory, which nobody else uses yet */
    call firmware
hang:
    cli
    hlt
    jmp hang

/* enter(entry, start_info): PVH wants the address of the start information in EBX. */
.globl enter
enter:
    movl 4(%esp), %eax
    movl 8(%esp), %ebx
    jmpl *%eax

/* The memory functions that the C compiler may call on its own. */

#include "asm.h"

.text
FUNCTION(memcpy)                /* (to, from, length) -> to */
    movq %rdi, %rax
    movq %rdx, %rcx
    rep movsb
    ret
END(memcpy)

FUNCTION(memset)                /* (to, byte, length) -> to */
    movq %rdi, %r8
    movl %esi, %eax
    movq %rdx, %rcx
    rep stosb
    movq %r8, %rax
    ret
END(memset)

FUNCTION(memmove)                /* (to, from, length) -> to; the ranges may overlap */
    movq %rdi, %rax
    subq %rsi, %rax
    cmpq %rdx, %rax             /* is `to` inside [from, from + length)? */
    jae memcpy
    movq %rdi, %rax
    movq %rdx, %rcx
    leaq -1(%rdi,%rdx), %rdi
    leaq -1(%rsi,%rdx), %rsi
    std
    rep movsb
    cld
    ret
END(memmove)

FUNCTION(memcmp)                /* (a, b, length) -> <0, 0, >0 */
    xorl %eax, %eax
    movq %rdx, %rcx
    testq %rcx, %rcx
    jz 1f
    repe cmpsb                  /* stops after the first difference */
    movzbl -1(%rdi), %eax
    movzbl -1(%rsi), %ecx
    subl %ecx, %eax
1:  ret
END(memcmp)

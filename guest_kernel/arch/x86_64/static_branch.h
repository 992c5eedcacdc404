/* on_xen(): does this kernel run as a Xen PV domain? A branch that costs a NOP everywhere else.

   Each use is a NOP of five bytes, and a line in a table that says where a jump would go. Only the Xen entry point
   walks the table and puts the jumps in (xen/setup.c). So what is native stays native: CLI is CLI on metal. */
#pragma once

#define NOP_OF_FIVE 0x0f, 0x1f, 0x44, 0x00, 0x00

#ifdef __ASSEMBLER__
.macro if_on_xen target
9:  .byte NOP_OF_FIVE
    .pushsection .static_branches, "a"
    .quad 9b, \target
    .popsection
.endm
#else
#include "types.h"

#define STATIC_BRANCH_BYTES(...) STATIC_BRANCH_TEXT(__VA_ARGS__)
#define STATIC_BRANCH_TEXT(...) #__VA_ARGS__

static inline __attribute__((always_inline)) bool on_xen(void)
{
    __asm__ goto("1: .byte " STATIC_BRANCH_BYTES(NOP_OF_FIVE) "\n"
                 ".pushsection .static_branches, \"a\"\n"
                 ".quad 1b, %l[yes]\n"
                 ".popsection"
                 :
                 :
                 :
                 : yes);
    return false;
yes:
    return true;
}
#endif

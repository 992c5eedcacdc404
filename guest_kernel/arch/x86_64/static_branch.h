/* Branches that cost a NOP where they are not taken. on_xen(): does this kernel run as a Xen PV domain?
   xen_events(): are its timer and its calls between CPUs events of Xen's?

   Each use is a NOP of five bytes, and a line in a table that says where a jump would go. Who finds out what the machine
   is puts in the jumps of a kind (static_branch.c). So what is native stays native: CLI is CLI on metal. */
#pragma once

#define NOP_OF_FIVE 0x0f, 0x1f, 0x44, 0x00, 0x00
#define BRANCH_ON_XEN 1
#define BRANCH_XEN_EVENTS 2

#ifdef __ASSEMBLER__
.macro if_on_xen target
9:  .byte NOP_OF_FIVE
    .pushsection .static_branches, "a"
    .quad 9b, \target, BRANCH_ON_XEN
    .popsection
.endm
#else
#include "types.h"

#define STATIC_BRANCH_BYTES(...) STATIC_BRANCH_TEXT(__VA_ARGS__)
#define STATIC_BRANCH_TEXT(...) #__VA_ARGS__
#define STATIC_BRANCH(kind)                                                                                            \
    __asm__ goto("1: .byte " STATIC_BRANCH_BYTES(NOP_OF_FIVE) "\n"                                                     \
                 ".pushsection .static_branches, \"a\"\n"                                                             \
                 ".quad 1b, %l[yes], " STATIC_BRANCH_TEXT(kind) "\n"                                                   \
                 ".popsection"                                                                                         \
                 :                                                                                                     \
                 :                                                                                                     \
                 :                                                                                                     \
                 : yes);                                                                                               \
    return false;                                                                                                      \
    yes:                                                                                                               \
    return true;

static inline __attribute__((always_inline)) bool on_xen(void) { STATIC_BRANCH(BRANCH_ON_XEN) }
static inline __attribute__((always_inline)) bool xen_events(void) { STATIC_BRANCH(BRANCH_XEN_EVENTS) }

/* Before the kernel's text becomes read-only, and before other CPUs run. */
void static_branch_take(u64 kind);
#endif

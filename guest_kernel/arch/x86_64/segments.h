/* Descriptor tables, as the rest of arch/x86_64 uses them. Assembly reads the selectors too. */
#pragma once

/* Segment selectors. SYSCALL wants kernel data after kernel code; SYSRET wants code32, data, code64 in this order. */
#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_CODE32 0x18 /* never loaded: SYSRET counts from it */
#define USER_DATA 0x23   /* 0x20, RPL 3 */
#define USER_CODE 0x2B   /* 0x28, RPL 3 */
#define TSS_SELECTOR 0x30

#ifndef __ASSEMBLER__
#include "types.h"

/* Stacks of their own for what may strike when the current stack is no good. In the IDT 0 means "none". */
enum ist { IST_DOUBLE_FAULT = 1, IST_NMI, IST_MACHINE_CHECK, IST_STACKS = 3 };

void segments_init(u32 number);
void segments_set_kernel_stack(u64 top);
#endif

/* The virtual address space, in one table. Assembly reads it too.

   0x0000000000400000  user program: text, constants, data, bss
   0x0000000010000000  anonymous mappings, upwards
   0x00007FFFFFFFF000  end of the user stack
   0xFFFF800000000000  Xen's, if there is one: sixteen entries of the top table
   0xFFFF888000000000  all RAM (direct map)
   0xFFFFFFFF80000000  physical 0, of which only the kernel image (from 1 MiB) is mapped
   0xFFFFFFFFC0000000  fixed slots: local APIC, I/O APIC, scratch page
   0xFFFFFFFFC0010000  registers of other devices, upwards */
#pragma once

#define USER_MMAP_BASE 0x0000000010000000
/* The last page of the lower half stays unmapped: a SYSCALL at its very end would make SYSRET fault in the kernel. */
#define USER_TOP 0x00007FFFFFFFF000
#define USER_STACK_SIZE 0x10000
#define DIRECT_MAP 0xFFFF888000000000
#define KERNEL_BASE 0xFFFFFFFF80000000
#define TRAMPOLINE 0x8000 /* physical, below 1 MiB: where another CPU begins */
#define SLOT_LOCAL_APIC 0xFFFFFFFFC0000000
#define SLOT_IO_APIC 0xFFFFFFFFC0001000
#define SLOT_SCRATCH 0xFFFFFFFFC0002000
#define SLOT_DEVICES 0xFFFFFFFFC0010000

#ifndef __ASSEMBLER__
#include "types.h"
static inline void *phys_to_virt(u64 physical) { return (void *)(physical + DIRECT_MAP); }
static inline u64 image_to_phys(const void *address) { return (u64)address - KERNEL_BASE; }
#endif

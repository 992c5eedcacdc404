/* Address spaces of processes: regions, and what the page tables hold of them so far. */
#pragma once

#include "arch.h"
#include "syscall.h"
#include "types.h"

#define MAX_REGIONS 12

struct region {
    u64 start; /* page aligned; start == end: the entry is free */
    u64 end;
    u32 prot;
    bool shared; /* a fork shares the pages */
};

struct space {
    u64 root; /* physical address of the top page table */
    struct region region[MAX_REGIONS];
};

enum vm_result { VM_DONE, VM_DENIED, VM_NO_MEMORY };

bool vm_create_first(struct space *space);
bool vm_fork(struct space *child, struct space *parent);
void vm_destroy(struct space *space);
enum vm_result vm_fault(struct space *space, u64 address, u32 access);
i64 vm_mmap(struct space *space, u64 length, u32 prot, u32 flags);
i64 vm_munmap(struct space *space, u64 address, u64 length);
bool vm_read(struct space *space, void *to, u64 address, u64 length);
bool vm_write(struct space *space, u64 address, const void *from, u64 length);

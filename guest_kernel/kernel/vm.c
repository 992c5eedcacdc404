/* Address spaces: regions say what an address means; the page tables fill up as pages are touched. Pages of zeros
   are made at the first touch, and a fork copies a page only when one side writes it.
   Simplified: a munmap takes exactly what one mmap gave, and page tables are freed only with their address space. */
#include "vm.h"

#include "bench.h"
#include "cpus.h"
#include "frames.h"
#include "kernel_bench.h"
#include "string.h"

/* From this many pages on, the whole TLB is flushed instead of page after page (Linux has the same limit). */
#define FLUSH_ALL_FROM 33

extern char user_load[], user_text_start[], user_text_end[], user_rodata_end[], user_data_end[], user_bss_end[];

static struct region *region_at(struct space *space, u64 address)
{
    for (struct region *r = space->region; r < space->region + MAX_REGIONS; r++)
        if (r->start <= address && address < r->end)
            return r;
    return NULL;
}

static struct region *add_region(struct space *space, u64 start, u64 end, u32 prot)
{
    for (struct region *r = space->region; r < space->region + MAX_REGIONS; r++) {
        if (r->start == r->end) {
            *r = (struct region){.start = start, .end = end, .prot = prot};
            return r;
        }
    }
    return NULL;
}

static void *frame_memory(u64 frame) { return phys_to_virt(frame); }

/* Gives back the pages of a region, but not its page tables. */
static void release_pages(struct space *space, const struct region *region)
{
    pte *slot;
    arch_batch_begin();
    for (u64 at = region->start; (slot = arch_next_page(space->root, &at, region->end)); at += PAGE_SIZE) {
        frame_release(pte_frame(*slot));
        pte_write(slot, 0);
    }
    arch_batch_end();
}

static void flush(const struct space *space, const struct region *region)
{
    if (region->end - region->start >= FLUSH_ALL_FROM * PAGE_SIZE)
        arch_flush_all(space->root);
    else
        for (u64 address = region->start; address < region->end; address += PAGE_SIZE)
            arch_flush_page(address);
    cpus_flush(space->root);
}

static bool map_image(struct space *space, u64 start, u64 end, u32 prot)
{
    u64 image = (u64)user_load - (u64)user_text_start;
    if (start == end)
        return true;
    if (!add_region(space, start, end, prot))
        return false;
    for (u64 address = start; address < end; address += PAGE_SIZE) {
        pte *slot = arch_leaf_slot(space->root, address, true);
        u64 frame = image + address;
        if (prot & PROT_WRITE) {
            frame = frame_alloc();
            if (frame)
                memcpy(frame_memory(frame), frame_memory(image + address), PAGE_SIZE);
        } else {
            frame_share(frame);
        }
        if (!slot || !frame)
            return false;
        pte_write(slot, pte_make(frame, prot | PROT_USER));
    }
    return true;
}

/* The first process's: the user program that is part of the kernel's image, and a stack. */
bool vm_create_first(struct space *space)
{
    space->root = arch_space_create();
    return space->root &&
           map_image(space, (u64)user_text_start, (u64)user_text_end, PROT_READ | PROT_EXEC) &&
           map_image(space, (u64)user_text_end, (u64)user_rodata_end, PROT_READ) &&
           map_image(space, (u64)user_rodata_end, (u64)user_data_end, PROT_READ | PROT_WRITE) &&
           add_region(space, (u64)user_data_end, (u64)user_bss_end, PROT_READ | PROT_WRITE) &&
           add_region(space, USER_TOP - USER_STACK_SIZE, USER_TOP, PROT_READ | PROT_WRITE);
}

/* Shares the page at `address` with the child; a private one becomes read-only on both sides until it is written. */
static bool fork_page(struct space *child, pte *slot, u64 address, bool shared)
{
    pte *copy = arch_leaf_slot(child->root, address, true);
    if (!copy)
        return false;
    pte entry = *slot;
    if (!shared && pte_writable(entry)) {
        entry = pte_read_only(entry);
        pte_write(slot, entry);
    }
    frame_share(pte_frame(entry));
    pte_write(copy, entry);
    return true;
}

bool vm_fork(struct space *child, struct space *parent)
{
    child->root = arch_space_create();
    if (!child->root)
        return false;
    memcpy(child->region, parent->region, sizeof child->region);
    bool done = true;
    arch_batch_begin();
    for (struct region *r = parent->region; done && r < parent->region + MAX_REGIONS; r++) {
        pte *slot;
        for (u64 at = r->start; done && (slot = arch_next_page(parent->root, &at, r->end)); at += PAGE_SIZE)
            done = fork_page(child, slot, at, r->shared);
    }
    arch_flush_all(parent->root); /* the parent's pages that became read-only */
    arch_batch_end();
    cpus_flush(parent->root);
    if (!done)
        vm_destroy(child);
    return done;
}

void vm_destroy(struct space *space)
{
    if (!space->root)
        return;
    arch_space_retire(space->root);
    for (struct region *r = space->region; r < space->region + MAX_REGIONS; r++)
        release_pages(space, r);
    arch_space_free(space->root);
    memset(space, 0, sizeof *space);
}

static enum vm_result demand_zero(pte *slot, u32 prot)
{
    probe(PROBE_DEMAND_ZERO);
    u64 frame = frame_alloc();
    if (!frame)
        return VM_NO_MEMORY;
    pte_write(slot, pte_make(frame, prot | PROT_USER));
    return VM_DONE;
}

static enum vm_result copy_on_write(pte *slot, u64 address, u32 prot)
{
    u64 old = pte_frame(*slot), frame = old;
    if (frame_references(old) > 1) {
        frame = frame_alloc();
        if (!frame)
            return VM_NO_MEMORY;
        memcpy(frame_memory(frame), frame_memory(old), PAGE_SIZE);
        frame_release(old);
    }
    arch_batch_begin();
    pte_write(slot, pte_make(frame, prot | PROT_USER));
    arch_flush_page(address);
    arch_batch_end();
    return VM_DONE;
}

/* Makes one page present for one kind of access, if its region allows that. */
enum vm_result vm_fault(struct space *space, u64 address, u32 access)
{
    struct region *region = region_at(space, address);
    if (!region || (region->prot & access) != access)
        return VM_DENIED;
    pte *slot = arch_leaf_slot(space->root, address, true);
    if (!slot)
        return VM_NO_MEMORY;
    if (!pte_present(*slot))
        return demand_zero(slot, region->prot);
    if ((access & PROT_WRITE) && !pte_writable(*slot))
        return copy_on_write(slot, round_down(address, PAGE_SIZE), region->prot);
    return VM_DONE;
}

/* The lowest gap of this length above USER_MMAP_BASE; 0 if there is none. */
static u64 find_gap(struct space *space, u64 length)
{
    u64 start = USER_MMAP_BASE;
    for (struct region *r = space->region; r < space->region + MAX_REGIONS;) {
        if (start < r->end && r->start < start + length) {
            start = r->end;
            r = space->region;
        } else {
            r++;
        }
    }
    return start + length <= USER_TOP ? start : 0;
}

static bool fill(struct space *space, const struct region *region, u32 flags)
{
    bool done = true;
    arch_batch_begin();
    for (u64 address = region->start; done && address < region->end; address += PAGE_SIZE) {
        pte *slot = arch_leaf_slot(space->root, address, true);
        u64 frame = slot && flags & MAP_POPULATE ? frame_alloc() : 0;
        if (frame)
            pte_write(slot, pte_make(frame, region->prot | PROT_USER));
        done = slot && (frame || !(flags & MAP_POPULATE));
    }
    arch_batch_end();
    return done;
}

i64 vm_mmap(struct space *space, u64 length, u32 prot, u32 flags)
{
    if (!length || length > USER_TOP || (prot & ~(u32)(PROT_READ | PROT_WRITE | PROT_EXEC)) || !(prot & PROT_READ))
        return -EINVAL;
    length = round_up(length, PAGE_SIZE);
    if (flags & MAP_SHARED) /* a page made after the fork would be shared with nobody */
        flags |= MAP_POPULATE;
    struct memory_info memory;
    frames_info(&memory);
    if (length / PAGE_SIZE > memory.total) /* could never be touched as a whole */
        return -ENOMEM;
    u64 start = find_gap(space, length);
    struct region *region = start ? add_region(space, start, start + length, prot) : NULL;
    if (!region)
        return -ENOMEM;
    region->shared = flags & MAP_SHARED;
    if ((flags & (MAP_POPULATE | MAP_TABLES)) && !fill(space, region, flags)) {
        vm_munmap(space, start, length);
        return -ENOMEM;
    }
    return (i64)start;
}

i64 vm_munmap(struct space *space, u64 address, u64 length)
{
    struct region *region = region_at(space, address);
    if (!region || region->start != address || region->end - address != round_up(length, PAGE_SIZE))
        return -EINVAL;
    arch_batch_begin();
    release_pages(space, region);
    flush(space, region);
    arch_batch_end();
    *region = (struct region){0};
    return 0;
}

/* Where the kernel finds a user's byte; NULL if the user has no such right there. */
static void *user_memory(struct space *space, u64 address, u32 access)
{
    if (vm_fault(space, address, access) != VM_DONE)
        return NULL;
    return (u8 *)frame_memory(pte_frame(*arch_leaf_slot(space->root, address, false))) + address % PAGE_SIZE;
}

static u64 rest_of_page(u64 address, u64 length)
{
    u64 rest = PAGE_SIZE - address % PAGE_SIZE;
    return length < rest ? length : rest;
}

/* Copies from user memory. False if any of it is not the user's to read. */
bool vm_read(struct space *space, void *to, u64 address, u64 length)
{
    for (u64 part; length; length -= part, address += part, to = (u8 *)to + part) {
        part = rest_of_page(address, length);
        const void *from = user_memory(space, address, PROT_READ);
        if (!from)
            return false;
        memcpy(to, from, part);
    }
    return true;
}

/* Copies to user memory. False if any of it is not the user's to write. */
bool vm_write(struct space *space, u64 address, const void *from, u64 length)
{
    for (u64 part; length; length -= part, address += part, from = (const u8 *)from + part) {
        part = rest_of_page(address, length);
        void *to = user_memory(space, address, PROT_WRITE);
        if (!to)
            return false;
        memcpy(to, from, part);
    }
    return true;
}

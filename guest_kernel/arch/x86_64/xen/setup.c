/* From the domain builder to kmain: the jumps of on_xen(), the direct map, the tables that say where the kernel is
   entered.

   The builder has mapped the first few MiB at KERNEL_BASE: the image, and behind it what start_info names. What is
   there beyond the image is given up here, once the direct map shows all of memory. */
#include "xen.h"

#include "../segments.h"
#include "../traps.h"
#include "arch.h"
#include "console.h"
#include "frames.h"
#include "static_branch.h"
#include "string.h"

#define ENTRIES 512
#define TABLE_FLAGS (PTE_PRESENT | PTE_WRITE | PTE_USER)
#define DIRECT_MAP_ENTRY (DIRECT_MAP >> 39 & (ENTRIES - 1)) /* of the top table */

struct xen_start_info xen_start_info;
struct xen_shared_info *xen_shared;
u64 *xen_frame_list;

static u64 boot_root, boot_end; /* pseudo-physical */

extern char image_end[]; /* kernel.ld */
extern char xen_trap_stubs[][16], xen_event_entry[], xen_failsafe_entry[], xen_syscall_entry[];

/* --- the direct map --- */

static struct xen_mmu_update updates[ENTRIES];
static u64 update_count;

static void flush_updates(void)
{
    if (update_count)
        xen_hypercall((u64)updates, update_count, 0, DOMID_SELF, 0, HYPERCALL_MMU_UPDATE);
    update_count = 0;
}

static void update(u64 pointer, u64 value)
{
    updates[update_count++] = (struct xen_mmu_update){pointer, value};
    if (update_count == ENTRIES)
        flush_updates();
}

static void clear_table(u64 frame)
{
    struct xen_mmuext_op clear = {MMUEXT_CLEAR_PAGE, xen_machine(frame) >> 12, 0};
    xen_hypercall((u64)&clear, 1, 0, DOMID_SELF, 0, HYPERCALL_MMUEXT_OP);
}

/* Tables for `count` things of the level below that begin at pseudo-physical `first`; `at` is the first table's place.
   Xen writes the entries of what is no table yet without asking what they mean. Returns the place after them. */
static u64 make_tables(u64 at, u64 first, u64 count, bool leaf, u64 read_only_from, u64 read_only_to)
{
    for (u64 i = 0; i < count; i++) {
        u64 page = first + i * PAGE_SIZE, flags = TABLE_FLAGS;
        if (i % ENTRIES == 0)
            clear_table(at + i / ENTRIES * PAGE_SIZE);
        if (leaf)
            flags = PTE_PRESENT | PTE_NO_EXECUTE |
                    (page >= read_only_from && page < read_only_to ? 0 : PTE_WRITE);
        update(xen_machine(at + i / ENTRIES * PAGE_SIZE) + i % ENTRIES * 8, xen_machine(page) | flags);
    }
    flush_updates();
    return at + round_up(count, ENTRIES) / ENTRIES * PAGE_SIZE;
}

/* Machine address of the last-level entry for `address`; page tables are seen through `window`. */
static u64 entry_of(u64 address, u64 window)
{
    u64 table = boot_root;
    for (int shift = 39; shift > 12; shift -= 9)
        table = xen_pseudo(((u64 *)(window + table))[address >> shift & (ENTRIES - 1)] & PTE_ADDRESS);
    return xen_machine(table) + (address >> 12 & (ENTRIES - 1)) * 8;
}

static void build_direct_map(void)
{
    u64 pages = xen_start_info.pages;
    u64 tables = xen_start_info.page_tables - KERNEL_BASE;
    u64 stack = tables + xen_start_info.page_table_frames * PAGE_SIZE; /* the last of the builder's pieces */
    u64 leaf_tables = round_up(pages, ENTRIES) / ENTRIES, directories = round_up(leaf_tables, ENTRIES) / ENTRIES;
    u64 first = stack + PAGE_SIZE, second = first + leaf_tables * PAGE_SIZE;
    u64 third = second + directories * PAGE_SIZE;
    u64 mapped = round_up(first + 512 * 1024, 4 * MIB); /* by the builder */

    boot_root = tables; /* the top table comes first */
    boot_end = third + PAGE_SIZE;
    make_tables(first, 0, pages, true, tables, boot_end);
    make_tables(second, first, leaf_tables, false, 0, 0);
    make_tables(third, second, directories, false, 0, 0);
    for (u64 page = first; page < boot_end && page < mapped; page += PAGE_SIZE)
        update(entry_of(KERNEL_BASE + page, KERNEL_BASE), 0); /* tables must not be writable anywhere */
    update(xen_machine(boot_root) + DIRECT_MAP_ENTRY * 8, xen_machine(third) | TABLE_FLAGS);
    flush_updates();

    /* What else is mapped behind the image goes, but for one place, where the shared page comes. */
    xen_frame_list = phys_to_virt(xen_start_info.frame_list - KERNEL_BASE);
    for (u64 page = image_to_phys(image_end); page < mapped; page += PAGE_SIZE)
        if (page != stack)
            update(entry_of(KERNEL_BASE + page, DIRECT_MAP), 0);
    update(entry_of(KERNEL_BASE + stack, DIRECT_MAP),
           xen_start_info.shared_info | PTE_PRESENT | PTE_WRITE | PTE_NO_EXECUTE);
    flush_updates();
    struct xen_mmuext_op flush = {MMUEXT_FLUSH, 0, 0};
    xen_hypercall((u64)&flush, 1, 0, DOMID_SELF, 0, HYPERCALL_MMUEXT_OP);
    xen_shared = (struct xen_shared_info *)(KERNEL_BASE + stack);
}

u64 xen_boot_end(void) { return boot_end; }
u64 xen_boot_root(void) { return boot_root; }

void xen_read_memory_map(struct memory_map *map)
{
    map->range[0] = (struct memory_range){0, xen_start_info.pages * PAGE_SIZE};
    map->count = 1;
}

/* Xen's pages with the grant table, at an address of the kernel's instead of what is there. */
void xen_place_grant_table(void *address, u32 frames)
{
    u64 list[8];
    struct xen_grant_setup setup = {DOMID_SELF, frames, 0, list};
    if (xen_hypercall(GRANT_SETUP_TABLE, (u64)&setup, 1, 0, 0, HYPERCALL_GRANT_TABLE_OP) || setup.status)
        panic("Xen gives no grant table: %d", setup.status);
    for (u32 i = 0; i < frames; i++)
        xen_hypercall((u64)address + i * PAGE_SIZE, list[i] << 12 | PTE_PRESENT | PTE_WRITE | PTE_NO_EXECUTE,
                      UVMF_INVLPG, 0, 0, HYPERCALL_UPDATE_VA_MAPPING);
}

/* --- descriptors, entry points --- */

/* For user programs. The kernel runs on Xen's own flat segments. A page, because a descriptor table is whole frames;
   among the constants, because it must not be writable. */
static const u64 gdt[ENTRIES] __attribute__((aligned(PAGE_SIZE))) = {
    [USER_DATA / 8] = 0x00CFF3000000FFFF, /* accessed already: the CPU has nothing to write */
    [USER_CODE / 8] = 0x00AFFB000000FFFF,
};

static void make_read_only(u64 address, u64 frame)
{
    xen_hypercall(address, xen_machine(frame) | PTE_PRESENT | PTE_NO_EXECUTE, 0, 0, 0, HYPERCALL_UPDATE_VA_MAPPING);
}

void xen_segments_init(u64 per_cpu)
{
    u64 frame = image_to_phys(gdt), machine_frame = xen_machine(frame) >> 12;
    make_read_only((u64)gdt, frame);
    make_read_only((u64)phys_to_virt(frame), frame);
    xen_hypercall((u64)&machine_frame, ENTRIES, 0, 0, 0, HYPERCALL_SET_GDT);
    xen_hypercall(SEGBASE_GS_KERNEL, per_cpu, 0, 0, 0, HYPERCALL_SET_SEGMENT_BASE);
}

static void fill_traps(struct xen_trap *traps)
{
    for (u32 vector = 0; vector < EXCEPTIONS; vector++)
        traps[vector] = (struct xen_trap){
            .vector = (u8)vector,
            .flags = TRAP_MASKS_EVENTS | (vector == BREAKPOINT ? 3 : 0),
            .selector = XEN_KERNEL_CODE,
            .address = (u64)xen_trap_stubs[vector],
        };
}

void xen_traps_init(void)
{
    static struct xen_trap traps[EXCEPTIONS + 1]; /* the last one stays zero: the end */
    fill_traps(traps);
    xen_hypercall((u64)traps, 0, 0, 0, 0, HYPERCALL_SET_TRAP_TABLE);
    xen_hypercall((u64)xen_event_entry, (u64)xen_failsafe_entry, (u64)xen_syscall_entry, 0, 0,
                  HYPERCALL_SET_CALLBACKS);
}

/* The same for another CPU. */
void xen_fill_entry_points(struct xen_vcpu_context *context)
{
    fill_traps(context->traps);
    context->event = (u64)xen_event_entry;
    context->failsafe = (u64)xen_failsafe_entry;
    context->syscall = (u64)xen_syscall_entry;
    context->gdt_frames[0] = xen_machine(image_to_phys(gdt)) >> 12;
    context->gdt_entries = ENTRIES;
}

/* Called by xen_entry. No on_xen() may run before the branches are taken. */
void xen_start(const struct xen_start_info *info)
{
    static_branch_take(BRANCH_ON_XEN);
    static_branch_take(BRANCH_XEN_EVENTS);
    xen_start_info = *info;
    xen_frame_list = (u64 *)xen_start_info.frame_list;
    build_direct_map();
    for (const char *c = xen_start_info.command_line; *c; c++)
        if (memcmp(c, "nobatch", 7) == 0)
            xen_batching = false;
    u32 io_privilege = 1; /* so that IN and OUT are Xen's to answer, instead of faults */
    xen_hypercall(PHYSDEV_SET_IOPL, (u64)&io_privilege, 0, 0, 0, HYPERCALL_PHYSDEV_OP);
    kmain(0);
}

void xen_shutdown(u32 reason)
{
    xen_hypercall(SCHED_SHUTDOWN, (u64)&reason, 0, 0, 0, HYPERCALL_SCHED_OP);
    for (;;)
        ;
}

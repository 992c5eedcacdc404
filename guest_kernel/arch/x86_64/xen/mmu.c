/* Page tables under Xen: the CPU walks this kernel's own, but Xen checks every entry before it counts.

   A table is either the kernel's, to be written like any memory, or live: read-only, known to Xen as a table, and
   changed by hypercall. Which of the two can be seen in the direct map. A new address space stays plain until it is
   first switched to, and becomes plain again before it is taken apart, so that most of a fork and an exit is memory
   accesses (as in Linux, which calls it late pinning).

   64-bit Xen wants two top tables a process, because kernel and user programs are both at ring 3: one with everything,
   one without the kernel's half. The second one's place is noted in an entry of the first that is not present. */
#include "xen.h"

#include "arch.h"
#include "console.h"
#include "cpus.h"

#define TOP_LEVEL 3
#define ENTRIES 512
#define USER_ENTRIES 256
#define NOTE_ENTRY 272 /* of the top table: below the direct map, above Xen's own */

bool xen_batching = true;

/* --- batches: changes that wait, and go to Xen in one call --- */

#define MOST_CALLS 8
#define MOST_UPDATES 256
#define MOST_EXTENDED 16

/* Each CPU has its own. */
static struct batch {
    u32 depth; /* of xen_batch_begin() */
    u32 calls, updates, extended;
    struct xen_multicall call[MOST_CALLS];
    struct xen_mmu_update update[MOST_UPDATES];
    struct xen_mmuext_op operation[MOST_EXTENDED];
} batches[MAX_CPUS];

static struct batch *this_batch(void) { return &batches[arch_this_cpu()->number]; }

static void flush(void)
{
    struct batch *batch = this_batch();
    struct xen_multicall *first = &batch->call[0];
    if (batch->calls == 1)
        first->result = (u64)xen_hypercall(first->argument[0], first->argument[1], first->argument[2],
                                           first->argument[3], 0, first->call);
    else if (batch->calls)
        xen_hypercall((u64)batch->call, batch->calls, 0, 0, 0, HYPERCALL_MULTICALL);
    u32 calls = batch->calls;
    batch->calls = batch->updates = batch->extended = 0;
    for (u32 i = 0; i < calls; i++)
        if (batch->call[i].result)
            panic("Xen refused hypercall %lu: %ld", batch->call[i].call, (i64)batch->call[i].result);
}

void xen_batch_begin(void) { this_batch()->depth++; }

void xen_batch_end(void)
{
    struct batch *batch = this_batch();
    if (--batch->depth == 0)
        flush();
}

/* Adds to the last call of the batch if it is of this kind, else begins one. */
static void add(u64 call, u64 list, u64 second, u64 third, u64 fourth)
{
    struct batch *batch = this_batch();
    struct xen_multicall *last = batch->calls ? &batch->call[batch->calls - 1] : NULL;
    if (last && last->call == call && call != HYPERCALL_STACK_SWITCH)
        last->argument[1]++;
    else
        batch->call[batch->calls++] = (struct xen_multicall){call, 0, {list, second, third, fourth}};
}

static void make_room(void)
{
    struct batch *batch = this_batch();
    if (batch->calls == MOST_CALLS || batch->updates == MOST_UPDATES || batch->extended == MOST_EXTENDED)
        flush();
}

static void added(void)
{
    struct batch *batch = this_batch();
    if (!batch->depth || !xen_batching)
        flush();
}

static void update(u64 pointer, u64 value)
{
    struct batch *batch = this_batch();
    make_room();
    struct xen_mmu_update *next = &batch->update[batch->updates++];
    *next = (struct xen_mmu_update){pointer, value};
    add(HYPERCALL_MMU_UPDATE, (u64)next, 1, 0, DOMID_SELF);
    added();
}

static void extended(u32 command, u64 first)
{
    struct batch *batch = this_batch();
    make_room();
    struct xen_mmuext_op *next = &batch->operation[batch->extended++];
    *next = (struct xen_mmuext_op){command, first, 0};
    add(HYPERCALL_MMUEXT_OP, (u64)next, 1, 0, DOMID_SELF);
    added();
}

void xen_set_kernel_stack(u64 top)
{
    make_room();
    add(HYPERCALL_STACK_SWITCH, 0, top, 0, 0); /* the segment is always the flat one */
    added();
}

void xen_flush_page(u64 address) { extended(MMUEXT_FLUSH_PAGE, address); }
void xen_flush_all(void) { extended(MMUEXT_FLUSH, 0); }

/* --- entries --- */

static u64 machine_of(const void *direct) { return xen_machine((u64)direct - DIRECT_MAP); }

/* The direct map's own entry for a page in it. */
static pte *direct_slot(const void *page) { return arch_leaf_slot(xen_boot_root(), (u64)page, false); }

static bool is_live(const void *table) { return !pte_writable(*direct_slot(table)); }

static void set_writable(u64 frame, bool writable)
{
    pte *slot = direct_slot(phys_to_virt(frame));
    update(machine_of(slot), writable ? *slot | PTE_WRITE : *slot & ~PTE_WRITE);
}

void xen_pte_write(pte *slot, pte value)
{
    if (is_live(slot))
        update(machine_of(slot), value);
    else
        *(volatile pte *)slot = value;
}

/* An entry of a top table: below the kernel's half it goes into both. */
static void top_entry_write(pte *slot, pte value)
{
    u64 root = round_down((u64)slot, PAGE_SIZE) - DIRECT_MAP, index = (u64)slot % PAGE_SIZE / sizeof *slot;
    xen_pte_write(slot, value);
    if (index < USER_ENTRIES)
        xen_pte_write((pte *)phys_to_virt(xen_user_root(root)) + index, value);
}

/* A new table's frame goes into the table above it. If that one is live, the new one becomes so. */
void xen_hook_table(pte *slot, pte entry, bool top)
{
    xen_batch_begin();
    if (is_live(slot))
        set_writable(pte_frame(entry), false);
    if (top)
        top_entry_write(slot, entry);
    else
        xen_pte_write(slot, entry);
    xen_batch_end();
    flush(); /* whoever asked for the table wants to find it */
}

/* --- address spaces --- */

void xen_root_created(u64 root, u64 user_root) { ((pte *)phys_to_virt(root))[NOTE_ENTRY] = user_root; }
u64 xen_user_root(u64 root) { return ((pte *)phys_to_virt(root))[NOTE_ENTRY]; }

/* All tables of the user half below `table`. */
static void set_tables_writable(u64 table, int level, int entries, bool writable)
{
    pte *entry = phys_to_virt(table);
    for (int i = 0; level > 0 && i < entries; i++) {
        if (pte_present(entry[i])) {
            set_tables_writable(pte_frame(entry[i]), level - 1, ENTRIES, writable);
            set_writable(pte_frame(entry[i]), writable);
        }
    }
}

static void set_space_writable(u64 root, bool writable)
{
    set_tables_writable(root, TOP_LEVEL, USER_ENTRIES, writable);
    set_writable(root, writable);
    set_writable(xen_user_root(root), writable);
}

static void for_both_roots(u32 command, u32 user_command, u64 root)
{
    extended(command, xen_machine(root) >> 12);
    extended(user_command, xen_machine(xen_user_root(root)) >> 12);
}

/* The address space becomes live, if it is not, and the one that the CPU has. */
void xen_load_root(u64 root)
{
    if (root == xen_boot_root()) /* which is live from the start, and has no user half */
        return;
    xen_batch_begin();
    if (!is_live(phys_to_virt(root))) {
        set_space_writable(root, false);
        for_both_roots(MMUEXT_PIN_L4, MMUEXT_PIN_L4, root);
    }
    for_both_roots(MMUEXT_NEW_BASE, MMUEXT_NEW_USER_BASE, root);
    xen_batch_end();
}

/* The address space will be taken apart: its tables become plain memory. No CPU has it. */
void xen_retire(u64 root)
{
    if (!is_live(phys_to_virt(root)))
        return;
    xen_batch_begin();
    for_both_roots(MMUEXT_UNPIN, MMUEXT_UNPIN, root);
    set_space_writable(root, true);
    xen_batch_end();
}

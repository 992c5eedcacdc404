/* Page tables of four levels: the kernel's half, which all address spaces share, and walks through the user half.
   Simplified: the direct map lets the kernel write all RAM, its own text too (through the other address). */
#include "arch.h"
#include "console.h"
#include "digest.h"
#include "frames.h"

#define LEVELS 4
#define ENTRIES 512
#define USER_ENTRIES 256 /* of the top table: the lower half */
#define LARGE_PAGE (2 * MIB)

extern char text_start[], text_end[], rodata_end[], user_load[], data_start[], image_end[]; /* kernel.ld */

static u64 kernel_root;

void pte_write(pte *slot, pte value)
{
    if (on_xen())
        xen_pte_write(slot, value);
    else
        *(volatile pte *)slot = value;
}

/* Which entry of its table `address` uses; level 3 is the top table, level 0 the last. */
static u64 entry_index(u64 address, int level) { return address >> (12 + 9 * level) & (ENTRIES - 1); }

static pte *table_at(u64 frame) { return phys_to_virt(frame); }

/* A new table's frame goes into the table above it; `top` if that is the top one. */
static void hook_table(pte *slot, pte entry, bool top)
{
    if (on_xen())
        xen_hook_table(slot, entry, top);
    else
        pte_write(slot, entry);
}

/* The slot for `address` in the table of `level`. Makes the tables above it if `create`; NULL if there are none. */
static pte *find_slot(u64 root, u64 address, int level, bool create)
{
    pte *table = table_at(root);
    for (int above = LEVELS - 1; above > level; above--) {
        pte *slot = &table[entry_index(address, above)];
        if (!pte_present(*slot)) {
            u64 frame = create ? frame_alloc() : 0;
            if (!frame)
                return NULL;
            /* The leaf alone decides who may do what. */
            hook_table(slot, pte_make(frame, PROT_WRITE | PROT_EXEC | (address < USER_TOP ? PROT_USER : 0)),
                       above == LEVELS - 1);
        }
        table = table_at(pte_frame(*slot));
    }
    return &table[entry_index(address, level)];
}

pte *arch_leaf_slot(u64 root, u64 address, bool create) { return find_slot(root, address, 0, create); }

/* The slot of the first page that is present at or after *address and before `end`; *address becomes its address.
   Steps over whole tables that do not exist. */
pte *arch_next_page(u64 root, u64 *address, u64 end)
{
    while (*address < end) {
        int level = LEVELS - 1;
        pte *slot = &table_at(root)[entry_index(*address, level)];
        while (pte_present(*slot) && level > 0) {
            level--;
            slot = &table_at(pte_frame(*slot))[entry_index(*address, level)];
        }
        if (pte_present(*slot))
            return slot;
        u64 span = PAGE_SIZE << (9 * level);
        *address = round_down(*address, span) + span;
    }
    return NULL;
}

/* Maps a range of the kernel's half, with pages of 2 MiB where it can. */
static void map_kernel(u64 address, u64 physical, u64 end, u32 prot)
{
    while (physical < end) {
        bool large = !on_xen() && physical % LARGE_PAGE == 0 && address % LARGE_PAGE == 0 && end - physical >= LARGE_PAGE;
        pte *slot = find_slot(kernel_root, address, large ? 1 : 0, true);
        if (!slot)
            panic("no memory for the kernel's page tables");
        pte_write(slot, pte_make(physical, prot) | (large ? PTE_LARGE : 0));
        u64 size = large ? LARGE_PAGE : PAGE_SIZE;
        address += size;
        physical += size;
    }
}

static void map_image(const char *start, const char *end, u32 prot)
{
    map_kernel((u64)start, image_to_phys(start), image_to_phys(end), prot);
}

/* Constants, and the user program; not the kernel's text, which a kernel may patch when it starts. */
u64 arch_image_digest(u64 digest)
{
    for (const u64 *word = (const u64 *)text_end; word < (const u64 *)rodata_end; word++)
        digest = digest_add(digest, *word);
    for (const u64 *word = phys_to_virt((u64)user_load); word < (const u64 *)phys_to_virt(image_to_phys(data_start)); word++)
        digest = digest_add(digest, *word);
    return digest;
}

u64 arch_image_end(void) { return on_xen() ? xen_boot_end() : image_to_phys(image_end); }

void arch_paging_init(const struct memory_map *map)
{
    if (on_xen()) { /* the tables that the kernel came with, which have the direct map already */
        kernel_root = xen_boot_root();
    } else {
        kernel_root = frame_alloc();
        for (u32 i = 0; i < map->count; i++)
            map_kernel(DIRECT_MAP + map->range[i].start, map->range[i].start, map->range[i].end,
                       PROT_READ | PROT_WRITE);
    }
    arch_batch_begin();
    map_image(text_start, text_end, PROT_READ | PROT_EXEC);
    map_image(text_end, rodata_end, PROT_READ);
    map_image(data_start, image_end, PROT_READ | PROT_WRITE);
    arch_batch_end();
    find_slot(kernel_root, SLOT_SCRATCH, 0, true);
    arch_space_load(kernel_root);
}

void arch_unmap_kernel_page(u64 address)
{
    arch_batch_begin();
    pte_write(find_slot(kernel_root, address, 0, false), 0);
    arch_flush_page(address);
    arch_batch_end();
}

pte *arch_scratch_slot(void) { return find_slot(kernel_root, SLOT_SCRATCH, 0, false); }
void *arch_scratch_page(void) { return (void *)SLOT_SCRATCH; }

/* A new address space: an empty user half, and the kernel's half, whose top entries never change after boot. */
u64 arch_space_create(void)
{
    u64 root = frame_alloc();
    for (int i = USER_ENTRIES; root && i < ENTRIES; i++)
        if (pte_present(table_at(kernel_root)[i]))
            table_at(root)[i] = table_at(kernel_root)[i];
    if (root && on_xen()) {
        u64 user_root = frame_alloc();
        if (!user_root) {
            frame_release(root);
            return 0;
        }
        xen_root_created(root, user_root);
    }
    return root;
}

static void free_tables(pte *table, int level, int entries)
{
    for (int i = 0; level > 0 && i < entries; i++) {
        if (pte_present(table[i])) {
            free_tables(table_at(pte_frame(table[i])), level - 1, ENTRIES);
            frame_release(pte_frame(table[i]));
        }
    }
}

/* The address space will be taken apart, and no CPU has it. */
void arch_space_retire(u64 root)
{
    if (on_xen())
        xen_retire(root);
}

/* Frees the tables of the user half; the pages that they map must be gone already. */
void arch_space_free(u64 root)
{
    free_tables(table_at(root), LEVELS - 1, USER_ENTRIES);
    if (on_xen())
        frame_release(xen_user_root(root));
    frame_release(root);
}

void arch_space_load(u64 root)
{
    if (on_xen())
        xen_load_root(root);
    else
        cpu_write_cr3(root);
}

void arch_space_load_kernel(void) { arch_space_load(kernel_root); }

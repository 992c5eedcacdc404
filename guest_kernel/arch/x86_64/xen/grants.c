/* The grant table (public/grant_table.h, version 1): pages that Xen shares with this domain. A grant is made and ended by
   writing there, without a hypercall. */
#include "grants.h"

#include "xen.h"

#define TABLE_FRAMES 4
#define ENTRIES ((u32)(TABLE_FRAMES * PAGE_SIZE / sizeof(struct xen_grant_entry)))
#define RESERVED 8 /* the first ones are for tools */

/* Xen's pages come here, in place of these. */
static struct xen_grant_entry table[ENTRIES] __attribute__((aligned(PAGE_SIZE)));
static u32 next_free[ENTRIES]; /* a list that 0 ends */
static u32 first_free;

void xen_grants_init(void)
{
    if (on_xen())
        xen_place_grant_table(table, TABLE_FRAMES);
    else
        xen_hvm_place_grant_table(table, TABLE_FRAMES);
    for (u32 ref = RESERVED; ref + 1 < ENTRIES; ref++)
        next_free[ref] = ref + 1;
    first_free = RESERVED;
}

u32 xen_grant_reserve(void)
{
    u32 ref = first_free;
    first_free = next_free[ref];
    return ref;
}

void xen_grant_free(u32 ref)
{
    next_free[ref] = first_free;
    first_free = ref;
}

void xen_grant_set(u32 ref, u64 frame, bool read_only)
{
    table[ref].frame = (u32)xen_frame(frame);
    table[ref].domid = DOMID_BACKEND;
    u16 flags = GRANT_PERMIT | (read_only ? GRANT_READ_ONLY : 0);
    __atomic_store_n(&table[ref].flags, flags, __ATOMIC_RELEASE); /* from now on it counts */
}

/* Xen sets flags there while somebody has the frame, so the change must be one step. */
bool xen_grant_clear(u32 ref)
{
    u16 flags = __atomic_load_n(&table[ref].flags, __ATOMIC_ACQUIRE);
    do {
        if (flags & (GRANT_READING | GRANT_WRITING))
            return false;
    } while (!__atomic_compare_exchange_n(&table[ref].flags, &flags, (u16)0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return true;
}

u32 xen_grant(u64 frame, bool read_only)
{
    u32 ref = xen_grant_reserve();
    if (ref)
        xen_grant_set(ref, frame, read_only);
    return ref;
}

bool xen_grant_end(u32 ref)
{
    if (!xen_grant_clear(ref))
        return false;
    xen_grant_free(ref);
    return true;
}

/* Puts in the jumps of static_branch.h. */
#include "static_branch.h"

#include "string.h"

struct static_branch {
    u64 site;
    u64 target;
    u64 kind;
};
extern const struct static_branch static_branches_start[], static_branches_end[]; /* kernel.ld */

void static_branch_take(u64 kind)
{
    for (const struct static_branch *b = static_branches_start; b < static_branches_end; b++) {
        if (b->kind != kind)
            continue;
        u8 *site = (u8 *)b->site;
        u32 distance = (u32)(b->target - (b->site + 5));
        site[0] = 0xE9; /* jmp */
        memcpy(site + 1, &distance, sizeof distance);
    }
}

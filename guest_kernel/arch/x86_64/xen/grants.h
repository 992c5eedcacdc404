/* Grants: frames of this kernel's that the back ends may use. A reference names one; 0 is none. */
#pragma once

#include "types.h"

void xen_grants_init(void);
u32 xen_grant(u64 frame, bool read_only); /* physical address of a page. 0: no reference is left */
bool xen_grant_end(u32 ref);              /* false: the back end has it still, and nothing has changed */

/* The same in two halves, for a driver that keeps its references. */
u32 xen_grant_reserve(void);
void xen_grant_set(u32 ref, u64 frame, bool read_only);
bool xen_grant_clear(u32 ref);
void xen_grant_free(u32 ref);

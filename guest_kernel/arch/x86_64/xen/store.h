/* The xenstore, from this domain's side. Paths are relative to the domain's own directory unless they begin with '/';
   a path is given in two parts, a directory and a name in it, of which the second may be "".
   Results are the negative of an error number where it says so. */
#pragma once

#include "types.h"

struct xen_watch {
    const char *directory, *name;
    void (*fired)(struct xen_watch *watch); /* with interrupts off; it may use the store */
    bool pending;
    struct xen_watch *next;
};

struct xen_store_ring;

/* The page that is shared with the store, and the channel to it. */
void xen_store_init(struct xen_store_ring *ring, u32 port);
bool xen_store_present(void);

/* `transaction` is 0 for none. */
i64 xen_store_read(u32 transaction, const char *directory, const char *name, char *value, u64 size); /* -> length */
i64 xen_store_write(u32 transaction, const char *directory, const char *name, const char *value);
i64 xen_store_list(u32 transaction, const char *directory, const char *name, char *names, u64 size); /* -> length */
i64 xen_store_begin(void);                               /* -> transaction */
i64 xen_store_finish(u32 transaction, bool commit);      /* -EAGAIN: somebody else was faster, begin anew */
i64 xen_store_watch(struct xen_watch *watch);            /* it fires once now, and when something has changed */
bool xen_store_wait(void);                               /* until a watch has fired. False: it took too long */

/* The front end's side of a ring in a page that it shares with a back end (Xen, public/io/ring.h).
   Requests and responses share the entries. An index counts on for ever; the entry is the index modulo the size. Who puts
   something in tells the other side only when the index passes the one that the other has written as its event. */
#pragma once

#include "string.h"
#include "types.h"

struct xen_ring_page {
    u32 requests, request_event;   /* put in by us; when the back end wants to hear of them */
    u32 responses, response_event; /* put in by the back end; when we want to hear of them */
    u8 unused[48];
    u8 entries[];
};

struct xen_ring {
    struct xen_ring_page *page;
    u32 entry, size; /* bytes of an entry; entries, a power of two */
    u32 asked;       /* requests that are in the page, shown or not */
    u32 taken;       /* responses that we have looked at */
};

static inline void xen_ring_init(struct xen_ring *ring, void *page, u32 entry, u32 size)
{
    memset(page, 0, sizeof(struct xen_ring_page) + entry * size);
    *ring = (struct xen_ring){.page = page, .entry = entry, .size = size};
    ring->page->request_event = ring->page->response_event = 1;
}

/* The place of the next request, and of the next response. */
static inline void *xen_ring_request(const struct xen_ring *ring)
{
    return ring->page->entries + (ring->asked & (ring->size - 1)) * ring->entry;
}

static inline const void *xen_ring_response(const struct xen_ring *ring)
{
    return ring->page->entries + (ring->taken & (ring->size - 1)) * ring->entry;
}

/* Is there a response that we have not looked at? */
static inline bool xen_ring_answered(const struct xen_ring *ring)
{
    return __atomic_load_n(&ring->page->responses, __ATOMIC_ACQUIRE) != ring->taken;
}

/* Indices go round. */
static inline bool xen_ring_before(u32 index, u32 other) { return other - index - 1 < 0x80000000u; }

/* Wants to hear of the response number `index`. */
static inline void xen_ring_listen(const struct xen_ring *ring, u32 index)
{
    __atomic_store_n(&ring->page->response_event, index, __ATOMIC_SEQ_CST);
}

/* Shows the requests to the back end. True: it wants to be told. */
static inline bool xen_ring_push(const struct xen_ring *ring)
{
    u32 shown = ring->page->requests;
    __atomic_store_n(&ring->page->requests, ring->asked, __ATOMIC_SEQ_CST);
    u32 event = __atomic_load_n(&ring->page->request_event, __ATOMIC_SEQ_CST);
    return ring->asked - event < ring->asked - shown;
}

/* The block front end of a Xen guest (public/io/blkif.h): a ring shared with the back end in domain 0.
   A request names its data by a grant, which is given with it and taken back with its response.
   Simplified: one segment a request, for its data lie within one page; no discard. */
#include "arch.h"
#include "console.h"
#include "disk.h"
#include "frames.h"
#include "string.h"
#include "xen/bus.h"
#include "xen/channels.h"
#include "xen/grants.h"
#include "xen_ring.h"

enum { BLKIF_READ = 0, BLKIF_WRITE = 1, BLKIF_FLUSH = 3 };

struct segment {
    u32 grant;
    u8 first, last; /* sectors of the page */
};

struct request {
    u8 operation;
    u8 segments;
    u16 handle;
    u64 id;
    u64 sector;
    struct segment segment[11];
};

struct response {
    u64 id;
    u8 operation;
    i16 status; /* 0, or negative */
};

_Static_assert(sizeof(struct request) == 112 && sizeof(struct response) == 16, "public/io/blkif.h");

#define ENTRIES 32                    /* that a page has */
#define VIRTUAL_DISK(n) (202u << 8 | (n) << 4) /* xvda, xvdb ... (Xen, docs/misc/vbd-interface) */

struct blkfront {
    struct disk disk; /* first: a struct disk of ours is a struct blkfront */
    struct xen_device device;
    struct xen_ring ring;
    u64 ring_page;
    u32 ring_grant;
    u32 port;
    bool flushes; /* the back end has a cache to flush */
    volatile bool interrupted;
    u32 grants[ENTRIES];                   /* one for each request that may be under way */
    struct disk_request *requests[ENTRIES]; /* by identifier; NULL: it is free */
};

static struct blkfront fronts[DISK_PLACES];

static void blkfront_start(struct disk *disk, struct disk_request *request)
{
    static const u8 operations[] = {[DISK_READ] = BLKIF_READ, [DISK_WRITE] = BLKIF_WRITE, [DISK_FLUSH] = BLKIF_FLUSH};
    struct blkfront *front = (struct blkfront *)disk;
    if (request->operation == DISK_FLUSH && !front->flushes) {
        disk_done(disk, request, 0);
        return;
    }
    u32 id = front->ring.asked % ENTRIES; /* the block layer starts no more than there is room for */
    while (front->requests[id])
        id = (id + 1) % ENTRIES;
    front->requests[id] = request;
    struct request *slot = xen_ring_request(&front->ring);
    *slot = (struct request){.operation = operations[request->operation], .id = id, .sector = request->sector};
    if (request->operation != DISK_FLUSH) {
        u32 first = (u32)(request->memory % PAGE_SIZE / SECTOR);
        xen_grant_set(front->grants[id], request->memory, request->operation == DISK_WRITE);
        slot->segments = 1;
        slot->segment[0] = (struct segment){front->grants[id], (u8)first, (u8)(first + request->sectors - 1)};
    }
    front->ring.asked++;
    if (xen_ring_push(&front->ring))
        xen_notify(front->port);
}

/* The grant is taken back before anybody uses the memory again. */
static void finish(struct blkfront *front, u32 id, i64 result)
{
    struct disk_request *request = front->requests[id];
    if (!request)
        return;
    if (request->operation != DISK_FLUSH && !xen_grant_clear(front->grants[id]))
        panic("a back end keeps a page of a request that it has answered");
    front->requests[id] = NULL;
    disk_done(&front->disk, request, result);
}

static void blkfront_poll(struct disk *disk)
{
    struct blkfront *front = (struct blkfront *)disk;
    if (!front->interrupted)
        return;
    front->interrupted = false;
    do {
        while (xen_ring_answered(&front->ring)) {
            struct response response = *(const struct response *)xen_ring_response(&front->ring);
            front->ring.taken++;
            finish(front, (u32)response.id % ENTRIES, response.status ? -EIO : 0);
        }
        xen_ring_listen(&front->ring, front->ring.taken + 1);
    } while (xen_ring_answered(&front->ring));
}

static void blkfront_interrupt(void *front) { ((struct blkfront *)front)->interrupted = true; }

/* From a back end that waits to one that works. */
static bool connect(struct blkfront *front)
{
    struct xen_device *device = &front->device;
    if (!xen_bus_await(device, XEN_INIT_WAIT))
        return false;
    xen_ring_init(&front->ring, phys_to_virt(front->ring_page), sizeof(struct request), ENTRIES);
    struct xen_setting settings[] = {
        {"ring-ref", front->ring_grant, NULL}, {"event-channel", front->port, NULL}, {"protocol", 0, "x86_64-abi"}};
    if (!xen_bus_announce(device, settings, sizeof settings / sizeof *settings, XEN_INITIALISED) ||
        !xen_bus_await(device, XEN_CONNECTED))
        return false;
    front->disk.sectors = xen_bus_number(device, "sectors", 0);
    front->flushes = xen_bus_number(device, "feature-flush-cache", 0);
    return xen_bus_switch(device, XEN_CONNECTED);
}

/* It does not answer: leave it and begin afresh, and give up what it had. */
static void blkfront_reset(struct disk *disk)
{
    struct blkfront *front = (struct blkfront *)disk;
    bool good = xen_bus_switch(&front->device, XEN_CLOSED) && xen_bus_await(&front->device, XEN_CLOSED) &&
                xen_bus_switch(&front->device, XEN_INITIALISING) && connect(front);
    if (!good)
        kprintf("%s: does not start again\n", disk->model);
    for (u32 id = 0; id < ENTRIES; id++)
        finish(front, id, -EIO);
}

struct disk *xen_disk_find(enum disk_place place)
{
    struct blkfront *front = &fronts[place];
    if (!xen_bus_find(&front->device, "vbd", VIRTUAL_DISK(place)) || !(front->ring_page = frame_alloc()))
        return NULL;
    front->ring_grant = xen_grant(front->ring_page, false);
    front->port = xen_channel_open(blkfront_interrupt, front);
    for (u32 id = 0; id < ENTRIES; id++)
        front->grants[id] = xen_grant_reserve();
    if (!connect(front))
        return NULL;
    front->disk.model = "Xen virtual block device";
    front->disk.depth = ENTRIES;
    front->disk.start = blkfront_start;
    front->disk.poll = blkfront_poll;
    front->disk.reset = blkfront_reset;
    return &front->disk;
}

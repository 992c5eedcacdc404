/* Disks: what a driver offers, and what the block layer makes of it. */
#pragma once

#include "syscall.h"
#include "types.h"

#define SECTOR 512u
#define BLOCK_SECTORS (BLOCK_SIZE / SECTOR)

enum disk_operation { DISK_READ, DISK_WRITE, DISK_FLUSH };

#define DISK_PENDING 1 /* as a result: not yet */

/* One command. Its data lie within one page. */
struct disk_request {
    enum disk_operation operation;
    u64 sector;
    u32 sectors;
    u64 memory; /* physical address */
    i64 result; /* DISK_PENDING, then 0 or the negative of an error number */
    struct disk_request *next; /* in the disk's queue */
};

/* A driver fills this in. A request is in the driver's hands from start() until the driver calls disk_done(). */
struct disk {
    const char *model;
    u64 sectors;
    u32 depth; /* requests that it takes at once */
    void (*start)(struct disk *disk, struct disk_request *request);
    /* After an interrupt: looks what has become of the requests. */
    void (*poll)(struct disk *disk);
    /* A request takes too long: gives up all that the driver has. */
    void (*reset)(struct disk *disk);
    /* Moves data by the CPU instead of DMA. NULL: there is no such way. */
    void (*use_pio)(struct disk *disk, bool on);

    /* The block layer's. */
    struct disk_request *first, *last; /* not started yet */
    u32 started;
};

/* The drivers, each with its own way to find a disk. NULL: there is none. */
struct disk *nvme_find(enum disk_place place);
struct disk *ide_find(enum disk_place place);
struct disk *xen_disk_find(enum disk_place place);
struct disk *aoe_find(enum disk_place place);

void disk_done(struct disk *disk, struct disk_request *request, i64 result);

/* For everybody else. */
void block_init(void);
struct disk *disk_at(u64 place);
void disk_submit(struct disk *disk, struct disk_request *request);
bool disk_wait(struct disk *disk, const struct disk_request *request);

/* The system calls. */
i64 block_read(u64 place, u64 number, u64 address);
i64 block_write(u64 place, u64 number, u64 address);
i64 block_flush(u64 place);
i64 disk_information(u64 place, u64 address);
i64 disk_use_pio(u64 place, bool on);

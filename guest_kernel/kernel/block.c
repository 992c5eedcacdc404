/* The block layer: a queue in front of each disk's driver, and a small cache of blocks for user programs.
   The cache writes back: what a program has written is on the disk when it is flushed, or when its place is needed.
   Simplified: waiting is looking, with interrupts on; a program that waits for a disk has the CPU for itself. */
#include "arch.h"
#include "console.h"
#include "disk.h"
#include "frames.h"
#include "process.h"

#define CACHE_BLOCKS 16
#define PATIENCE 250000ul /* looks, until a request is given up */

static struct disk *disks[DISK_PLACES];

/* Finds the disks, each by the best driver that there is for it. */
void block_init(void)
{
    static const char *const names[DISK_PLACES] = {"local", "remote"};
    for (u32 place = 0; place < DISK_PLACES; place++) {
        static struct disk *(*const drivers[])(enum disk_place) = {nvme_find, xen_disk_find, ide_find, aoe_find};
        for (u32 i = 0; i < sizeof drivers / sizeof *drivers && !disks[place]; i++)
            disks[place] = drivers[i]((enum disk_place)place);
        if (disks[place])
            kprintf("%s disk: %s, %lu MiB\n", names[place], disks[place]->model, disks[place]->sectors * SECTOR / MIB);
    }
}

/* NULL: there is none. */
struct disk *disk_at(u64 place) { return place < DISK_PLACES ? disks[place] : NULL; }

/* --- requests --- */

static void start_waiting(struct disk *disk)
{
    while (disk->first && disk->started < disk->depth) {
        struct disk_request *request = disk->first;
        disk->first = request->next;
        disk->started++;
        disk->start(disk, request);
    }
}

void disk_submit(struct disk *disk, struct disk_request *request)
{
    request->result = DISK_PENDING;
    request->next = NULL;
    if (disk->first)
        disk->last->next = request;
    else
        disk->first = request;
    disk->last = request;
    start_waiting(disk);
}

void disk_done(struct disk *disk, struct disk_request *request, i64 result)
{
    request->result = result;
    disk->started--;
    start_waiting(disk);
}

/* The caller has interrupts on. True: the request is done, and well. */
bool disk_wait(struct disk *disk, const struct disk_request *request)
{
    for (u64 looks = 0; request->result == DISK_PENDING; looks++) {
        disk->poll(disk);
        if (looks == PATIENCE) {
            looks = 0;
            disk->reset(disk);
        }
        arch_pause();
    }
    return request->result == 0;
}

/* One request from a system call, which runs with interrupts off. */
static i64 perform(struct disk *disk, struct disk_request *request)
{
    arch_irq_enable();
    disk_submit(disk, request);
    disk_wait(disk, request);
    arch_irq_disable();
    return request->result;
}

/* --- the cache --- */

static struct block {
    struct disk *disk; /* NULL: empty */
    u64 number;
    u64 frame;         /* its data; 0 until it is first used */
    bool dirty;
    u64 used;          /* when: a count of uses */
} cache[CACHE_BLOCKS];

static i64 transfer(struct block *block, enum disk_operation operation)
{
    struct disk_request request = {
        .operation = operation,
        .sector = block->number * BLOCK_SECTORS,
        .sectors = BLOCK_SECTORS,
        .memory = block->frame,
    };
    i64 result = perform(block->disk, &request);
    if (result == 0)
        block->dirty = false;
    return result;
}

/* The block in the cache; `fill`: with its data from the disk, if it was not there. NULL with *error set. */
static struct block *find(struct disk *disk, u64 number, bool fill, i64 *error)
{
    static u64 uses;
    struct block *oldest = &cache[0];
    for (struct block *block = cache; block < cache + CACHE_BLOCKS; block++) {
        if (block->disk == disk && block->number == number) {
            block->used = ++uses;
            return block;
        }
        if (block->used < oldest->used)
            oldest = block;
    }
    if (!oldest->frame && !(oldest->frame = frame_alloc())) {
        *error = -ENOMEM;
        return NULL;
    }
    if (oldest->dirty && (*error = transfer(oldest, DISK_WRITE)) != 0)
        return NULL; /* it stays: nothing that was written is dropped */
    oldest->disk = disk;
    oldest->number = number;
    if (fill && (*error = transfer(oldest, DISK_READ)) != 0) {
        oldest->disk = NULL;
        oldest->used = 0;
        return NULL;
    }
    oldest->used = ++uses;
    return oldest;
}

/* The disk, if it has such a block. */
static struct disk *checked(u64 place, u64 number, i64 *error)
{
    struct disk *disk = disk_at(place);
    *error = !disk ? -ENODEV : number >= disk->sectors / BLOCK_SECTORS ? -EINVAL : 0;
    return *error ? NULL : disk;
}

i64 block_read(u64 place, u64 number, u64 address)
{
    i64 error;
    struct disk *disk = checked(place, number, &error);
    struct block *block = disk ? find(disk, number, true, &error) : NULL;
    if (!block)
        return error;
    const void *data = phys_to_virt(block->frame);
    return vm_write(&current_process()->space, address, data, BLOCK_SIZE) ? 0 : -EFAULT;
}

i64 block_write(u64 place, u64 number, u64 address)
{
    i64 error;
    struct disk *disk = checked(place, number, &error);
    struct block *block = disk ? find(disk, number, true, &error) : NULL;
    if (!block)
        return error;
    if (!vm_read(&current_process()->space, phys_to_virt(block->frame), address, BLOCK_SIZE))
        return -EFAULT;
    block->dirty = true;
    return 0;
}

/* What was written goes to the disk, and what the disk has in a cache of its own to its medium. */
i64 block_flush(u64 place)
{
    struct disk *disk = disk_at(place);
    if (!disk)
        return -ENODEV;
    for (struct block *block = cache; block < cache + CACHE_BLOCKS; block++) {
        i64 error = block->disk == disk && block->dirty ? transfer(block, DISK_WRITE) : 0;
        if (error)
            return error;
    }
    struct disk_request request = {.operation = DISK_FLUSH};
    return perform(disk, &request);
}

/* --- the other system calls --- */

i64 disk_information(u64 place, u64 address)
{
    struct disk *disk = disk_at(place);
    if (!disk)
        return -ENODEV;
    struct disk_info info = {.blocks = disk->sectors / BLOCK_SECTORS};
    for (u32 i = 0; i < sizeof info.model - 1 && disk->model[i]; i++)
        info.model[i] = disk->model[i];
    return vm_write(&current_process()->space, address, &info, sizeof info) ? 0 : -EFAULT;
}

i64 disk_use_pio(u64 place, bool on)
{
    struct disk *disk = disk_at(place);
    if (!disk)
        return -ENODEV;
    if (!disk->use_pio)
        return -EINVAL;
    disk->use_pio(disk, on);
    return 0;
}

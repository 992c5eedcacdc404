/* The operations of the columns local and remote: blocks of 4 KiB, past the cache, straight to the driver.
   The CPU waits by looking, with interrupts on. Reading is anywhere in the disk's first MiB; writing is in a few blocks
   of it, which get their old contents back afterwards. */
#include "arch.h"
#include "console.h"
#include "digest.h"
#include "disk.h"
#include "frames.h"
#include "kernel_bench.h"

#define READ_BLOCKS 256 /* the disk's first MiB */
#define FIRST_WRITTEN 64
#define WRITTEN 32      /* blocks from there on */
#define WORDS (BLOCK_SIZE / 8)

static u64 buffers[BENCH_BURST], kept[WRITTEN]; /* frames */
static struct disk_request requests[BENCH_BURST];

static u64 *words(u64 frame) { return phys_to_virt(frame); }

static void prepare(struct disk_request *request, enum disk_operation operation, u64 block, u64 frame)
{
    *request = (struct disk_request){
        .operation = operation, .sector = block * BLOCK_SECTORS, .sectors = BLOCK_SECTORS, .memory = frame};
}

static i64 perform(struct disk *disk, enum disk_operation operation, u64 block, u64 frame)
{
    prepare(&requests[0], operation, block, frame);
    disk_submit(disk, &requests[0]);
    disk_wait(disk, &requests[0]);
    return requests[0].result;
}

/* False: there is no disk, it is too small, or there is no memory for the buffers. */
static bool ready(const struct disk *disk)
{
    for (u64 i = 0; i < BENCH_BURST; i++)
        if ((!buffers[i] && !(buffers[i] = frame_alloc())) || (!kept[i] && !(kept[i] = frame_alloc())))
            return false;
    return disk && disk->sectors >= READ_BLOCKS * BLOCK_SECTORS;
}

/* What a block says: a few of its words, and that it came. */
static u64 digest_block(u64 digest, const struct disk_request *request)
{
    const u64 *word = words(request->memory);
    digest = digest_add(digest, (u64)request->result);
    for (u64 i = 0; i < WORDS; i += WORDS / 8)
        digest = digest_add(digest, word[i]);
    return digest_add(digest, word[WORDS - 1]);
}

/* `depth` requests at a time; under IDE, which has no queue, they are done one after the other all the same. */
static u64 read_bursts(struct disk *disk, u64 iterations, u64 seed, u64 depth)
{
    u64 digest = DIGEST_START;
    measure_begin();
    for (u64 n = 0; n < iterations && !console_interrupted;) {
        u64 count = iterations - n < depth ? iterations - n : depth;
        for (u64 i = 0; i < count; i++, n++) {
            prepare(&requests[i], DISK_READ, random_at(seed, n) % READ_BLOCKS, buffers[i]);
            disk_submit(disk, &requests[i]);
        }
        for (u64 i = 0; i < count; i++) {
            disk_wait(disk, &requests[i]);
            digest = digest_block(digest, &requests[i]);
        }
    }
    measure_end();
    return digest;
}

static u64 written_block(u64 seed, u64 n) { return FIRST_WRITTEN + random_at(seed, n) % WRITTEN; }

static u64 write_blocks(struct disk *disk, u64 iterations, u64 seed)
{
    u64 digest = DIGEST_START;
    for (u64 i = 0; i < WRITTEN; i++)
        digest = digest_add(digest, (u64)perform(disk, DISK_READ, FIRST_WRITTEN + i, kept[i]));
    for (u64 i = 0; i < WORDS; i++)
        words(buffers[0])[i] = random_at(seed, i);

    measure_begin();
    for (u64 n = 0; n < iterations && !console_interrupted; n++) {
        words(buffers[0])[n % WORDS] = n;
        digest = digest_add(digest, (u64)perform(disk, DISK_WRITE, written_block(seed, n), buffers[0]));
    }
    measure_end();

    for (u64 i = 0; i < WRITTEN; i++) { /* a block that was not written says what was there before: not in the digest */
        bool written = false;
        for (u64 n = 0; n < iterations && !written; n++)
            written = written_block(seed, n) == FIRST_WRITTEN + i;
        if (!written)
            continue;
        perform(disk, DISK_READ, FIRST_WRITTEN + i, buffers[1]);
        digest = digest_block(digest, &requests[0]);
        perform(disk, DISK_WRITE, FIRST_WRITTEN + i, kept[i]);
    }
    return digest;
}

static u64 flush(struct disk *disk, u64 iterations, u64 seed)
{
    u64 digest = digest_add(DIGEST_START, seed);
    measure_begin();
    for (u64 n = 0; n < iterations && !console_interrupted; n++)
        digest = digest_add(digest, (u64)perform(disk, DISK_FLUSH, 0, 0));
    measure_end();
    return digest;
}

static u64 read_one(struct disk *disk, u64 iterations, u64 seed) { return read_bursts(disk, iterations, seed, 1); }
static u64 read_burst(struct disk *disk, u64 iterations, u64 seed)
{
    return read_bursts(disk, iterations, seed, BENCH_BURST);
}

static u64 round(u64 (*run)(struct disk *, u64, u64), enum disk_place place, u64 iterations, u64 seed)
{
    struct disk *disk = disk_at(place);
    if (!ready(disk))
        return measure_absent(disk ? "the disk is too small" : "this machine has no such disk");
    arch_irq_enable();
    u64 digest = run(disk, iterations, seed);
    arch_irq_disable();
    return digest;
}

u64 local_read4k(u64 iterations, u64 seed) { return round(read_one, DISK_LOCAL, iterations, seed); }
u64 local_write4k(u64 iterations, u64 seed) { return round(write_blocks, DISK_LOCAL, iterations, seed); }
u64 local_read_qd32(u64 iterations, u64 seed) { return round(read_burst, DISK_LOCAL, iterations, seed); }
u64 local_flush(u64 iterations, u64 seed) { return round(flush, DISK_LOCAL, iterations, seed); }
u64 remote_read4k(u64 iterations, u64 seed) { return round(read_one, DISK_REMOTE, iterations, seed); }
u64 remote_write4k(u64 iterations, u64 seed) { return round(write_blocks, DISK_REMOTE, iterations, seed); }
u64 remote_read_qd32(u64 iterations, u64 seed) { return round(read_burst, DISK_REMOTE, iterations, seed); }
u64 remote_flush(u64 iterations, u64 seed) { return round(flush, DISK_REMOTE, iterations, seed); }

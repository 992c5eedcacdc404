/* The allocator of physical memory: frames of 4 KiB, each with a count of its users.
   Never-used frames lie above a watermark. Freed frames' numbers are on a stack outside the frames, last in first out,
   so that a free frame is never touched: under a hypervisor a frame costs memory only once it has been used.
   Simplified: memory below the kernel's image (the first MiB) is never handed out. */
#include "frames.h"

#include "arch.h"
#include "console.h"

static struct memory_map ram; /* what is left of it for frames */
static u32 watermark_range;   /* never-used frames begin in this range, at its start */
static u64 total, fresh;      /* frames */
static u32 *freed;            /* the stack of frame numbers */
static u64 freed_count;
static u16 *references;       /* by frame number */
static bool fresh_first;

static u64 take(u64 *address, u64 bytes)
{
    u64 taken = *address;
    *address += round_up(bytes, PAGE_SIZE);
    return taken;
}

void frames_init(const struct memory_map *map)
{
    u64 frames = map->count ? map->range[map->count - 1].end / PAGE_SIZE : 0;
    u64 next = arch_image_end();
    u64 freed_at = take(&next, frames * sizeof *freed);
    u64 references_at = take(&next, frames * sizeof *references);

    for (u32 i = 0; i < map->count; i++) {
        struct memory_range range = map->range[i];
        if (range.start < arch_image_end() && next < range.end)
            range.start = next; /* the range that holds the image and, after it, the two arrays */
        if (range.start < next)
            continue;
        ram.range[ram.count++] = range;
        total += (range.end - range.start) / PAGE_SIZE;
    }
    if (!ram.count || ram.range[0].start != next)
        panic("not enough memory after the kernel");
    fresh = total;

    /* Written once as a whole, so that no later use of them is the first touch of a page. */
    freed = phys_to_virt(freed_at);
    references = phys_to_virt(references_at);
    for (u64 i = 0; i < frames; i++) {
        freed[i] = 0;
        references[i] = i * PAGE_SIZE < next; /* the image's frames have a user for ever */
    }
    kprintf("memory: %lu MiB, %lu frames free\n", round_up(total * PAGE_SIZE + next, MIB) / MIB, total);
}

static u64 take_fresh(void)
{
    if (!fresh)
        return 0;
    struct memory_range *range = &ram.range[watermark_range];
    u64 frame = range->start;
    range->start += PAGE_SIZE;
    if (range->start == range->end)
        watermark_range++;
    fresh--;
    return frame;
}

static u64 take_freed(void) { return freed_count ? freed[--freed_count] * PAGE_SIZE : 0; }

/* A frame full of zeros with one user; 0 if there is none left. */
u64 frame_alloc(void)
{
    u64 frame = fresh_first ? take_fresh() : take_freed();
    if (!frame)
        frame = fresh_first ? take_freed() : take_fresh();
    if (!frame)
        return 0;
    references[frame / PAGE_SIZE] = 1;
    arch_zero_page(phys_to_virt(frame));
    return frame;
}

void frame_share(u64 frame) { references[frame / PAGE_SIZE]++; }

void frame_release(u64 frame)
{
    if (--references[frame / PAGE_SIZE] == 0)
        freed[freed_count++] = (u32)(frame / PAGE_SIZE);
}

u32 frame_references(u64 frame) { return references[frame / PAGE_SIZE]; }

/* Prefer never-used frames to freed ones: for measuring what a frame's very first use costs. */
void frames_fresh_first(bool on) { fresh_first = on; }

void frames_info(struct memory_info *info)
{
    *info = (struct memory_info){.total = total, .free = fresh + freed_count, .fresh = fresh};
}

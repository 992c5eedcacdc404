/* Physical memory: frames of 4 KiB with a reference count each. An address 0 means "none". */
#pragma once

#include "syscall.h"
#include "types.h"

#define MAX_RANGES 16

struct memory_range {
    u64 start; /* physical, page aligned */
    u64 end;   /* first address after it */
};

struct memory_map {
    struct memory_range range[MAX_RANGES]; /* RAM, ascending */
    u32 count;
};

void frames_init(const struct memory_map *map);
u64 frame_alloc(void);
void frame_share(u64 frame);
void frame_release(u64 frame);
u32 frame_references(u64 frame);
void frames_fresh_first(bool on);
void frames_info(struct memory_info *info);

/* The PVH start information (Xen's public ABI, arch-x86/hvm/start_info.h): here only its memory map. */
#include "arch.h"
#include "console.h"
#include "frames.h"

#define START_INFO_MAGIC 0x336EC578 /* "xEn3" with the top bit of the E set */
#define MEMORY_RAM 1

struct start_info {
    u32 magic;
    u32 version; /* the memory map is there from version 1 on */
    u32 flags;
    u32 modules;
    u64 module_list;
    u64 command_line;
    u64 rsdp;
    u64 memory_map; /* physical address of the entries */
    u32 memory_map_entries;
    u32 reserved;
};

struct memory_map_entry {
    u64 address;
    u64 size;
    u32 type;
    u32 reserved;
};

/* Inserts in ascending order: the ABI promises none. */
static void add_range(struct memory_map *map, u64 start, u64 end)
{
    if (start >= end || map->count == MAX_RANGES)
        return;
    u32 i = map->count++;
    for (; i > 0 && map->range[i - 1].start > start; i--)
        map->range[i] = map->range[i - 1];
    map->range[i] = (struct memory_range){start, end};
}

void arch_read_memory_map(u64 boot_info, struct memory_map *map)
{
    if (on_xen()) {
        xen_read_memory_map(map);
        return;
    }
    const struct start_info *info = phys_to_virt(boot_info);
    if (info->magic != START_INFO_MAGIC || info->version < 1 || !info->memory_map_entries)
        panic("the loader passed no PVH memory map");
    const struct memory_map_entry *entry = phys_to_virt(info->memory_map);
    map->count = 0;
    for (u32 i = 0; i < info->memory_map_entries; i++, entry++)
        if (entry->type == MEMORY_RAM)
            add_range(map, round_up(entry->address, PAGE_SIZE), round_down(entry->address + entry->size, PAGE_SIZE));
}

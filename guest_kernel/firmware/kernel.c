/* Loads the kernel through fw_cfg (QEMU, docs/specs/fw_cfg): its segments go by DMA straight to where they belong. Then
   what the PVH boot protocol hands over (Xen's public headers, arch-x86/hvm/start_info.h). */
#include "firmware.h"

#define FW_SELECTOR 0x510
#define FW_DATA 0x511
#define FW_DMA_LOW 0x518
#define ITEM_SIGNATURE 0
#define ITEM_FEATURES 1
#define FEATURE_DMA 2
#define ITEM_KERNEL_SIZE 0x08
#define ITEM_KERNEL_DATA 0x11
#define DMA_ERROR 1
#define DMA_READ 2
#define DMA_SKIP 4
#define DMA_SELECT 8

#define PT_LOAD 1
#define PT_NOTE 4
#define NOTE_PVH_ENTRY 18
#define MOST_SEGMENTS 16

#define START_INFO 0x9000u
#define START_INFO_MAGIC 0x336EC578u
#define RAM 1
#define RESERVED 2

struct elf_header {
    u8 magic[16];
    u16 type, machine;
    u32 version;
    u64 entry, segments, sections;
    u32 flags;
    u16 header_size, segment_size, segment_count;
} __attribute__((packed));

struct elf_segment {
    u32 type, flags;
    u64 offset, virtual, physical, file_size, memory_size, alignment;
} __attribute__((packed));

struct range {
    u64 start, size;
    u32 type, reserved;
};

struct start_info {
    u32 magic, version, flags, modules;
    u64 module_list, command_line, rsdp, memory_map;
    u32 ranges, reserved;
    struct range range[8];
    char line[8];
};

static u32 big_endian(u32 value) { return __builtin_bswap32(value); }

/* One DMA request. `control` says what; the device clears it when it is done. */
static void dma(u32 control, void *to, u32 length)
{
    static volatile struct {
        u32 control, length, address_high, address_low;
    } request;
    request.control = big_endian(control);
    request.length = big_endian(length);
    request.address_high = 0;
    request.address_low = big_endian((u32)to);
    outl(FW_DMA_LOW, big_endian((u32)&request));
    while (big_endian(request.control) & ~DMA_ERROR)
        ;
    if (request.control)
        give_up("the kernel cannot be read");
}

static u32 kernel_size;

static void read_kernel(u64 offset, void *to, u64 size)
{
    if (offset > kernel_size || size > kernel_size - offset)
        give_up("the kernel is not a whole ELF file");
    dma(ITEM_KERNEL_DATA << 16 | DMA_SELECT | DMA_SKIP, NULL, (u32)offset);
    dma(DMA_READ, to, (u32)size);
}

/* The entry point that a PVH note gives, or 0. */
static u32 entry_of(const struct elf_segment *notes)
{
    u8 bytes[1024];
    u32 size = notes->file_size < sizeof bytes ? (u32)notes->file_size : sizeof bytes;
    read_kernel(notes->offset, bytes, size);
    for (u32 at = 0; at + 12 <= size;) {
        const u32 *note = (const u32 *)(bytes + at);
        u32 name = (note[0] + 3) & ~3u, value = (note[1] + 3) & ~3u;
        if (name > size || value > size || at + 12 + name + value > size)
            break;
        const u8 *text = bytes + at + 12;
        if (note[2] == NOTE_PVH_ENTRY && note[0] == 4 && text[0] == 'X' && text[1] == 'e' && text[2] == 'n')
            return *(const u32 *)(text + name);
        at += 12 + name + value;
    }
    return 0;
}

static void load(const struct elf_segment *segment, const struct memory *memory)
{
    u64 start = segment->physical, size = segment->memory_size;
    if (start < MIB || start > memory->low || size > memory->low - start || segment->file_size > size)
        give_up("the kernel does not fit into memory");
    read_kernel(segment->offset, (void *)(u32)start, segment->file_size);
    zero((void *)(u32)(start + segment->file_size), (u32)(size - segment->file_size));
}

u32 load_kernel(const struct memory *memory)
{
    struct elf_header header;
    struct elf_segment segments[MOST_SEGMENTS];
    u32 signature = 0, entry = 0;

    outw(FW_SELECTOR, ITEM_SIGNATURE);
    for (u32 i = 0; i < 4; i++)
        signature |= (u32)inb(FW_DATA) << 8 * i;
    outw(FW_SELECTOR, ITEM_FEATURES);
    if (signature != ('Q' | 'E' << 8 | 'M' << 16 | 'U' << 24) || !(inb(FW_DATA) & FEATURE_DMA))
        give_up("there is nothing to boot from");
    dma(ITEM_KERNEL_SIZE << 16 | DMA_SELECT | DMA_READ, &kernel_size, sizeof kernel_size);
    if (!kernel_size)
        give_up("there is no kernel");
    read_kernel(0, &header, sizeof header);
    if (*(u32 *)header.magic != ('\x7F' | 'E' << 8 | 'L' << 16 | 'F' << 24) || header.segment_size != sizeof *segments ||
        header.segment_count > MOST_SEGMENTS)
        give_up("the kernel is no 64-bit ELF file");
    read_kernel(header.segments, segments, header.segment_count * sizeof *segments);
    for (u32 i = 0; i < header.segment_count; i++) {
        if (segments[i].type == PT_LOAD)
            load(&segments[i], memory);
        else if (segments[i].type == PT_NOTE && !entry)
            entry = entry_of(&segments[i]);
    }
    if (!entry)
        give_up("the kernel has no PVH entry point");
    return entry;
}

u32 write_start_info(const struct memory *memory)
{
    struct start_info *info = (struct start_info *)START_INFO;
    const struct range map[] = {
        {0, 0x9FC00, RAM, 0},
        {0x9FC00, 0x400, RESERVED, 0},
        {0xF0000, 0x10000, RESERVED, 0}, /* the firmware, with the MP table */
        {MIB, memory->low - MIB, RAM, 0},
        {0xFEC00000, 0x1400000, RESERVED, 0},
        {1ull << 32, memory->high, RAM, 0},
    };
    zero(info, sizeof *info);
    info->magic = START_INFO_MAGIC;
    info->version = 1;
    info->command_line = (u32)info->line;
    info->memory_map = (u32)info->range;
    info->ranges = sizeof map / sizeof *map - (memory->high ? 0 : 1);
    copy(info->range, map, info->ranges * sizeof *map);
    return START_INFO;
}

/* How much memory there is, and how many CPUs: what a PC keeps in its CMOS. */
#include "firmware.h"

#define CMOS_EXTENDED 0x30  /* two bytes: KiB above 1 MiB, 65535 at most */
#define CMOS_ABOVE_16M 0x34 /* two bytes: 64 KiB above 16 MiB */
#define CMOS_ABOVE_4G 0x5B  /* three bytes: 64 KiB above 4 GiB */
#define CMOS_CPUS 0x5F      /* one less than there are */

static u32 cmos(u8 at, u32 bytes)
{
    u32 value = 0;
    for (u32 i = 0; i < bytes; i++) {
        outb(0x70, (u8)(at + i));
        value |= (u32)inb(0x71) << 8 * i;
    }
    return value;
}

void find_memory(struct memory *memory)
{
    u32 above_16m = cmos(CMOS_ABOVE_16M, 2);
    memory->low = above_16m ? 16 * MIB + above_16m * 64 * KIB : MIB + cmos(CMOS_EXTENDED, 2) * KIB;
    memory->high = (u64)cmos(CMOS_ABOVE_4G, 3) * 64 * KIB;
}

u32 count_cpus(void) { return cmos(CMOS_CPUS, 1) + 1; }

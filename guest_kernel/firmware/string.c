/* What the compiler calls by itself. */
#include "firmware.h"

void *memcpy(void *to, const void *from, u32 size);
void *memset(void *at, int byte, u32 size);

void *memcpy(void *to, const void *from, u32 size)
{
    copy(to, from, size);
    return to;
}

void *memset(void *at, int byte, u32 size)
{
    void *to = at;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
    return at;
}

/* The 64-bit digest that a benchmark prints as its result, and the pseudo-random numbers it works on.
   FNV-1a taken word by word, with one shift added because a word, unlike a byte, also has high bits to spread. */
#pragma once

#include "types.h"

#define DIGEST_START 0xCBF29CE484222325ul /* FNV's offset basis */
#define DIGEST_PRIME 0x00000100000001B3ul /* FNV's prime */

static inline u64 digest_add(u64 digest, u64 word)
{
    digest = (digest ^ word) * DIGEST_PRIME;
    return digest ^ (digest >> 29);
}

static inline u64 digest_text(u64 digest, const char *text)
{
    while (*text)
        digest = digest_add(digest, (u8)*text++);
    return digest;
}

/* The i-th number of the seed's sequence: SplitMix64's finalizer over a Weyl sequence. */
static inline u64 random_at(u64 seed, u64 i)
{
    u64 x = seed + (i + 1) * 0x9E3779B97F4A7C15ul;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ul;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBul;
    return x ^ (x >> 31);
}

/* The integer types and the few constants that every file uses. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int16_t i16;
typedef int64_t i64;

#define PAGE_SIZE 4096ul
#define MIB (1024ul * 1024ul)

static inline u64 round_down(u64 value, u64 unit) { return value & ~(unit - 1); }
static inline u64 round_up(u64 value, u64 unit) { return round_down(value + unit - 1, unit); }

/* What user programs call: the system calls, printing, and text. No code here is the kernel's. */
#pragma once

#include "syscall.h"
#include "types.h"

/* From arch/<isa>/user/entry.S. */
struct fault {
    u64 cause; /* enum fault_cause; 0: there was none */
    u64 address;
};
i64 system_call(u64 number, u64 a, u64 b, u64 c);
struct fault try_store(u64 *address, u64 value);
struct fault try_divide(u64 dividend, u64 divisor);
extern char fault_landing[];

static inline i64 fork(void) { return system_call(SYS_FORK, 0, 0, 0); }
static inline i64 wait(i64 *status, bool nohang) { return system_call(SYS_WAIT, (u64)status, nohang, 0); }
static inline void yield(void) { system_call(SYS_YIELD, 0, 0, 0); }
static inline u64 getpid(void) { return (u64)system_call(SYS_GETPID, 0, 0, 0); }
static inline void set_name(const char *name) { system_call(SYS_SET_NAME, (u64)name, 0, 0); }
static inline i64 mmap(u64 length, u32 prot, u32 flags) { return system_call(SYS_MMAP, length, prot, flags); }
static inline i64 munmap(u64 address, u64 length) { return system_call(SYS_MUNMAP, address, length, 0); }

static inline __attribute__((noreturn)) void exit(i64 status)
{
    system_call(SYS_EXIT, (u64)status, 0, 0);
    __builtin_unreachable();
}

__attribute__((format(printf, 1, 2))) void print(const char *text, ...);
bool same_text(const char *a, const char *b);
bool parse_number(const char *text, u64 *number);

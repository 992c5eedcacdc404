/* The contract between user programs and the kernel: system call numbers, flags, errors. Shared by both sides.
   A call returns a value >= 0, or the negative of an error number (the numbers are Linux's). */
#pragma once

#include "types.h"

enum syscall_number {
    SYS_EXIT,         /* (status) */
    SYS_FORK,         /* () -> pid of the child, 0 in the child */
    SYS_WAIT,         /* (i64 *status, nohang) -> pid of the child that ended, 0 if nohang and none has */
    SYS_YIELD,        /* () */
    SYS_GETPID,       /* () -> pid */
    SYS_MMAP,         /* (length, prot, flags) -> address */
    SYS_MUNMAP,       /* (address, length): exactly one earlier mmap */
    SYS_READ,         /* (buffer, length) -> bytes, at least one: from the console */
    SYS_WRITE,        /* (buffer, length) -> bytes: to the console */
    SYS_SET_NAME,     /* (name): what ps shows */
    SYS_ON_FAULT,     /* (address): where this process goes on after a fault; 0 = it is killed */
    SYS_PS,           /* (): prints the process table */
    SYS_MEMORY,       /* (struct memory_info *) */
    SYS_CPUS,         /* (print) -> how many CPUs run; prints them all if `print` */
    SYS_SHOOTDOWN,    /* (): tests that another CPU notices when a page is replaced */
    SYS_POWEROFF,     /* () */
    SYS_CRASH,        /* (how): a kernel panic on purpose */
    SYS_PING,         /* (IPv4 address, sequence number) -> cycles until the answer */
    SYS_BLOCK_READ,   /* (disk_place, number, buffer): a block of BLOCK_SIZE */
    SYS_BLOCK_WRITE,  /* (disk_place, number, buffer): it may stay in the cache */
    SYS_BLOCK_FLUSH,  /* (disk_place): all that was written is on the medium now */
    SYS_DISK_INFO,    /* (disk_place, struct disk_info *) */
    SYS_DISK_PIO,     /* (disk_place, on): let the CPU move the data, or the disk itself */
    SYS_STORE,        /* (enum store_question, path, buffer) -> length: of what a hypervisor tells its guests */
    SYS_BENCH_OPEN,   /* (): no tick until SYS_BENCH_CLOSE */
    SYS_BENCH_CLOSE,  /* () */
    SYS_BENCH_ARM,    /* (probe, iterations, fresh): the marks follow at this probe's next occurrences */
    SYS_BENCH_KERNEL, /* (operation, iterations, seed): one round of an operation of the kernel's own */
    SYS_BENCH_REPORT, /* (struct bench_report *): what the last round measured */
    SYS_BENCH_PAGES,  /* (address, pages, u64 *digest): the pages' contents as the kernel sees them */
};

enum disk_place { DISK_LOCAL, DISK_REMOTE, DISK_PLACES };

enum store_question { STORE_NAMES, STORE_VALUE }; /* names end with a zero byte each */
#define STORE_PATH 128u
#define STORE_ANSWER 1024u

#define BLOCK_SIZE 4096u

struct disk_info {
    u64 blocks; /* of BLOCK_SIZE */
    char model[48];
};

enum prot {
    PROT_READ = 1,
    PROT_WRITE = 2,
    PROT_EXEC = 4,
    PROT_USER = 8, /* only within the kernel: ring 3 may use the mapping */
};

enum map_flags {
    MAP_POPULATE = 1, /* pages at once instead of at the first touch */
    MAP_TABLES = 2,   /* page tables at once, pages still at the first touch */
    MAP_SHARED = 4,   /* a fork shares the pages instead of copying them; implies MAP_POPULATE */
};

enum error {
    ENOENT = 2,
    EINTR = 4,
    EIO = 5,
    EFAULT = 14,
    EACCES = 13,
    EINVAL = 22,
    ENOSYS = 38,
    ECHILD = 10,
    EAGAIN = 11,
    ENOMEM = 12,
    EBUSY = 16,
    ENODEV = 19,
    ETIMEDOUT = 110,
    EHOSTUNREACH = 113,
};

/* What a process finds in its registers at its recovery address. */
enum fault_cause {
    FAULT_PAGE = 1,
    FAULT_DIVIDE = 2,
    FAULT_OTHER = 3,
};

enum crash { CRASH_NULL_WRITE, CRASH_STACK_OVERFLOW };

#define STATUS_KILLED (-1)

struct memory_info {
    u64 total; /* frames, in pages of 4 KiB */
    u64 free;
    u64 fresh; /* of the free ones, those never used since boot */
};

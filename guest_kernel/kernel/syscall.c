/* The system calls: what each number means. Arguments from user programs are checked where they are used. */
#include "syscall.h"

#include "console.h"
#include "disk.h"
#include "frames.h"
#include "kernel_bench.h"
#include "net.h"
#include "process.h"
#include "string.h"

static i64 sys_getpid(void)
{
    probe(PROBE_GETPID);
    return current_process()->pid;
}

static i64 sys_mmap(u64 length, u64 prot, u64 flags)
{
    probe(PROBE_MMAP);
    return vm_mmap(&current_process()->space, length, (u32)prot, (u32)flags);
}

static i64 sys_set_name(u64 name)
{
    char text[NAME_LENGTH];
    if (!vm_read(&current_process()->space, text, name, sizeof text))
        return -EFAULT;
    text[NAME_LENGTH - 1] = 0;
    memcpy(current_process()->name, text, sizeof text);
    return 0;
}

static i64 sys_on_fault(u64 address)
{
    if (address >= USER_TOP) /* a return to such an address would fault in the kernel */
        return -EINVAL;
    current_process()->recovery = address;
    return 0;
}

static i64 sys_memory(u64 address)
{
    struct memory_info info;
    frames_info(&info);
    return vm_write(&current_process()->space, address, &info, sizeof info) ? 0 : -EFAULT;
}

static i64 sys_store(u64 question, u64 path, u64 to)
{
    static char answer[STORE_ANSWER];
    char name[STORE_PATH];
    if (!vm_read(&current_process()->space, name, path, sizeof name))
        return -EFAULT;
    name[STORE_PATH - 1] = 0;
    i64 length = arch_store(question, name, answer, sizeof answer);
    if (length < 0)
        return length;
    return vm_write(&current_process()->space, to, answer, sizeof answer) ? length : -EFAULT;
}

/* Two ways for a kernel to die, for the tests of the panic report. */
static __attribute__((noinline)) void crash_inner(volatile int *where) { *where = 1; }
static __attribute__((noinline)) void crash_outer(void) { crash_inner(NULL); }

static __attribute__((noinline)) u64 overflow_stack(volatile u64 *from_caller)
{
    volatile u64 local[64];
    local[0] = *from_caller + 1;
    return local[0] ? overflow_stack(local) + local[0] : 0; /* never 0 */
}

static i64 sys_crash(u64 how)
{
    u64 depth = 0;
    if (how == CRASH_STACK_OVERFLOW)
        return (i64)overflow_stack(&depth);
    crash_outer();
    return 0;
}

i64 syscall(u64 number, u64 a, u64 b, u64 c)
{
    switch (number) {
    case SYS_EXIT:
        process_exit((i64)a);
    case SYS_FORK:
        return process_fork();
    case SYS_WAIT:
        return process_wait(a, b);
    case SYS_YIELD:
        yield();
        return 0;
    case SYS_GETPID:
        return sys_getpid();
    case SYS_MMAP:
        return sys_mmap(a, b, c);
    case SYS_MUNMAP:
        return vm_munmap(&current_process()->space, a, b);
    case SYS_READ:
        return console_read(a, b);
    case SYS_WRITE:
        return console_write(a, b);
    case SYS_SET_NAME:
        return sys_set_name(a);
    case SYS_ON_FAULT:
        return sys_on_fault(a);
    case SYS_PS:
        process_print_all();
        return 0;
    case SYS_MEMORY:
        return sys_memory(a);
    case SYS_CPUS:
        return cpus_count(a);
    case SYS_SHOOTDOWN:
        return cpus_test_shootdown();
    case SYS_POWEROFF:
        for (u64 place = 0; place < DISK_PLACES; place++)
            block_flush(place);
        arch_power_off();
    case SYS_CRASH:
        return sys_crash(a);
    case SYS_PING:
        return icmp_ping((u32)a, b);
    case SYS_BLOCK_READ:
        return block_read(a, b, c);
    case SYS_BLOCK_WRITE:
        return block_write(a, b, c);
    case SYS_BLOCK_FLUSH:
        return block_flush(a);
    case SYS_DISK_INFO:
        return disk_information(a, b);
    case SYS_DISK_PIO:
        return disk_use_pio(a, b);
    case SYS_STORE:
        return sys_store(a, b, c);
    case SYS_BENCH_OPEN:
        return bench_open();
    case SYS_BENCH_CLOSE:
        return bench_close();
    case SYS_BENCH_ARM:
        return bench_arm(a, b, c);
    case SYS_BENCH_KERNEL:
        return bench_kernel(a, b, c);
    case SYS_BENCH_REPORT:
        return bench_report(a);
    case SYS_BENCH_PAGES:
        return bench_pages(a, b, c);
    }
    return -ENOSYS;
}

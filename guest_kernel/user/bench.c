/* The command `bench NAME [N [SEED]]`: the table of operations, and the halves of them that run in user mode.
   A process of its own runs two rounds of N iterations, the first to warm up, and prints the digest of the second. Of
   what goes in bursts N is the bursts, and each packet or block an iteration.
   What a round prepares lies before it arms its probe; the kernel's probe puts the marks around N whole operations. */
#include "bench.h"

#include "bench_command.h"
#include "digest.h"
#include "lib.h"

#define MAX_ITERATIONS 100000
#define DEFAULT_ITERATIONS 100

struct round {
    u64 iterations;
    u64 seed;
    bool warm_up;
    enum kernel_operation kernel_operation; /* of the operations that are the kernel's own */
};

static void arm(enum probe probe, const struct round *round, bool fresh)
{
    system_call(SYS_BENCH_ARM, probe, round->iterations, fresh);
}

static u64 *map_pages(u64 pages, u32 prot, u32 flags)
{
    i64 address = mmap(pages * PAGE_SIZE, prot, flags);
    if (address < 0) {
        print("bench: not enough memory for %lu pages\n", pages);
        exit(1);
    }
    return (u64 *)address;
}

static void unmap_pages(const u64 *pages, u64 count) { munmap((u64)pages, count * PAGE_SIZE); }

static u64 digest_pages(const u64 *pages, u64 count)
{
    u64 digest = 0;
    system_call(SYS_BENCH_PAGES, (u64)pages, count, (u64)&digest);
    return digest;
}

#define PAGE_WORDS (PAGE_SIZE / sizeof(u64))

static u64 kernel_round(const struct round *round)
{
    struct bench_report report;
    system_call(SYS_BENCH_KERNEL, round->kernel_operation, round->iterations, round->seed);
    system_call(SYS_BENCH_REPORT, (u64)&report, 0, 0);
    return report.digest;
}

static u64 syscall_round(const struct round *round)
{
    u64 pid = getpid(), digest = digest_add(DIGEST_START, round->seed);
    arm(PROBE_GETPID, round, false);
    for (u64 i = 0; i <= round->iterations; i++)
        digest = digest_add(digest, getpid() - pid + i);
    return digest;
}

/* The kernel makes the page tables beforehand, so a fault costs one frame and one entry. In the warm-up round the
   frames are ones that nothing has ever used. */
static u64 page_fault_round(const struct round *round)
{
    u64 count = round->iterations + 1;
    struct memory_info memory;
    system_call(SYS_MEMORY, (u64)&memory, 0, 0);
    u64 tables = count / PAGE_WORDS + 16; /* and some to spare */
    if (memory.free < count + tables) {
        print("bench: not enough memory for %lu pages\n", count);
        exit(1);
    }
    u64 *pages = map_pages(count, PROT_READ | PROT_WRITE, MAP_TABLES);
    arm(PROBE_DEMAND_ZERO, round, round->warm_up);
    for (u64 i = 0; i < count; i++)
        pages[i * PAGE_WORDS] = random_at(round->seed, i);
    u64 digest = digest_pages(pages, count);
    unmap_pages(pages, count);
    return digest;
}

static u64 protection_fault_round(const struct round *round)
{
    u64 *page = map_pages(1, PROT_READ, MAP_POPULATE), digest = DIGEST_START;
    system_call(SYS_ON_FAULT, (u64)fault_landing, 0, 0);
    arm(PROBE_RECOVER, round, false);
    for (u64 i = 0; i <= round->iterations; i++) {
        u64 value = random_at(round->seed, i);
        struct fault fault = try_store(&page[value % PAGE_WORDS], value);
        digest = digest_add(digest_add(digest, fault.cause), fault.address - (u64)page);
    }
    system_call(SYS_ON_FAULT, 0, 0, 0);
    digest = digest_add(digest, digest_pages(page, 1));
    unmap_pages(page, 1);
    return digest;
}

static u64 divzero_round(const struct round *round)
{
    u64 digest = DIGEST_START;
    system_call(SYS_ON_FAULT, (u64)fault_landing, 0, 0);
    arm(PROBE_RECOVER, round, false);
    for (u64 i = 0; i <= round->iterations; i++) {
        u64 value = random_at(round->seed, i);
        struct fault fault = try_divide(value, 0);
        digest = digest_add(digest_add(digest, fault.cause), value);
    }
    system_call(SYS_ON_FAULT, 0, 0, 0);
    return digest;
}

#define MMAP_PAGES 64

static u64 mmap_and_unmap(u64 seed, u64 digest)
{
    u64 *pages = map_pages(MMAP_PAGES, PROT_READ | PROT_WRITE, MAP_POPULATE);
    for (u64 i = 0; i < MMAP_PAGES; i++) {
        digest = digest_add(digest, pages[i * PAGE_WORDS]); /* zero */
        pages[i * PAGE_WORDS] = seed + i;
    }
    for (u64 i = 0; i < MMAP_PAGES; i++)
        digest = digest_add(digest, pages[i * PAGE_WORDS]);
    unmap_pages(pages, MMAP_PAGES);
    return digest;
}

static u64 mmap_unmap_round(const struct round *round)
{
    u64 digest = mmap_and_unmap(round->seed, DIGEST_START); /* makes the page tables */
    arm(PROBE_MMAP, round, false);
    for (u64 i = 0; i <= round->iterations; i++)
        digest = mmap_and_unmap(random_at(round->seed, i), digest);
    return digest;
}

/* Each of two processes adds its own part to a number that they share, and yields to the other. */
static void take_turns(volatile u64 *shared, u64 part, u64 turns)
{
    for (u64 i = 0; i < turns; i++) {
        *shared = digest_add(*shared, part);
        yield();
    }
}

#define UNMEASURED_TURNS 2 /* until each has run and has its own copy of its stack */

static u64 context_switch_round(const struct round *round)
{
    u64 turns = round->iterations / 2 + 1; /* of each process: together more than N switches */
    u64 *shared = map_pages(1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE);
    *shared = round->seed;
    if (fork() == 0) {
        take_turns(shared, 2, UNMEASURED_TURNS + turns);
        exit(0);
    }
    take_turns(shared, 1, UNMEASURED_TURNS);
    arm(PROBE_SWITCH, round, false);
    take_turns(shared, 1, turns);
    wait(NULL, false);
    u64 digest = *shared;
    unmap_pages(shared, 1);
    return digest;
}

static u64 fork_and_exit(u64 code, u64 digest)
{
    i64 status = STATUS_KILLED;
    i64 child = fork();
    if (child == 0)
        exit((i64)code);
    bool waited_for_it = wait(&status, false) == child;
    return digest_add(digest_add(digest, (u64)status), waited_for_it);
}

static u64 fork_exit_round(const struct round *round)
{
    u64 digest = fork_and_exit(0, DIGEST_START); /* makes this process's pages read-only, those it seldom writes too */
    arm(PROBE_FORK, round, false);
    for (u64 i = 0; i <= round->iterations; i++)
        digest = fork_and_exit(random_at(round->seed, i) & 0xFF, digest);
    return digest;
}

static const struct operation {
    const char *name;
    u64 (*run_round)(const struct round *round); /* returns the digest of its payload */
    enum kernel_operation kernel_operation;
    enum { EACH, BURSTS, ONCE } counted; /* N iterations, N bursts of them, or one cold round of one iteration */
} operations[] = {
    {"cpu.compute", kernel_round, BENCH_COMPUTE, EACH},
    {"cpu.syscall", syscall_round, 0, EACH},
    {"cpu.page_fault", page_fault_round, 0, EACH},
    {"cpu.protection_fault", protection_fault_round, 0, EACH},
    {"cpu.mmap_unmap", mmap_unmap_round, 0, EACH},
    {"cpu.context_switch", context_switch_round, 0, EACH},
    {"cpu.fork_exit", fork_exit_round, 0, EACH},
    {"cpu.cpuid", kernel_round, BENCH_CPUID, EACH},
    {"cpu.irq_mask", kernel_round, BENCH_IRQ_MASK, EACH},
    {"cpu.in", kernel_round, BENCH_IN, EACH},
    {"cpu.cr8wr", kernel_round, BENCH_CR8WR, EACH},
    {"cpu.callret", kernel_round, BENCH_CALLRET, EACH},
    {"cpu.divzero", divzero_round, 0, EACH},
    {"cpu.ptemod", kernel_round, BENCH_PTEMOD, EACH},
    {"net.tx", kernel_round, BENCH_NET_TX, EACH},
    {"net.rx", kernel_round, BENCH_NET_RX, EACH},
    {"net.rr", kernel_round, BENCH_NET_RR, EACH},
    {"net.tx_burst", kernel_round, BENCH_NET_TX_BURST, BURSTS},
    {"local.read4k", kernel_round, BENCH_LOCAL_READ4K, EACH},
    {"local.write4k", kernel_round, BENCH_LOCAL_WRITE4K, EACH},
    {"local.read_qd32", kernel_round, BENCH_LOCAL_READ_QD32, BURSTS},
    {"local.flush", kernel_round, BENCH_LOCAL_FLUSH, EACH},
    {"remote.read4k", kernel_round, BENCH_REMOTE_READ4K, EACH},
    {"remote.write4k", kernel_round, BENCH_REMOTE_WRITE4K, EACH},
    {"remote.read_qd32", kernel_round, BENCH_REMOTE_READ_QD32, BURSTS},
    {"remote.flush", kernel_round, BENCH_REMOTE_FLUSH, EACH},
    {"interrupts.timer_tick", kernel_round, BENCH_TIMER_TICK, EACH},
    {"interrupts.device_irq", kernel_round, BENCH_DEVICE_IRQ, EACH},
    {"interrupts.ipi", kernel_round, BENCH_IPI, EACH},
    {"interrupts.eoi", kernel_round, BENCH_EOI, EACH},
    {"interrupts.hlt_wake", kernel_round, BENCH_HLT_WAKE, EACH},
    {"boot.boot", kernel_round, BENCH_BOOT, ONCE},
    {"boot.pci_scan", kernel_round, BENCH_PCI_SCAN, ONCE},
    {"boot.timer_calibration", kernel_round, BENCH_TIMER_CALIBRATION, ONCE},
};

#define OPERATIONS (sizeof operations / sizeof *operations)

static const struct operation *find_operation(const char *name)
{
    for (u64 i = 0; i < OPERATIONS; i++)
        if (same_text(operations[i].name, name))
            return &operations[i];
    return NULL;
}

static void print_operations(void)
{
    for (u64 i = 0; i < OPERATIONS; i++)
        print(" %s", operations[i].name);
    print("\n");
}

static void run(const struct operation *operation, u64 iterations, u64 seed)
{
    struct round round;
    struct bench_report report;
    u64 digest = 0;
    if (operation->counted == ONCE)
        iterations = 1;
    else if (operation->counted == BURSTS)
        iterations *= BENCH_BURST;
    round.iterations = iterations;
    round.seed = digest_add(digest_text(DIGEST_START, operation->name), seed); /* no two operations work on the same */
    round.kernel_operation = operation->kernel_operation;
    for (int i = operation->counted == ONCE; i < 2; i++) {
        round.warm_up = i == 0;
        digest = operation->run_round(&round);
        system_call(SYS_BENCH_REPORT, (u64)&report, 0, 0);
        digest = digest_add(digest, report.hits);
    }
    if (report.absent[0]) {
        print("bench %s na: %s\n", operation->name, report.absent);
        return;
    }
    print("bench %s iterations=%lu cycles=%lu result=%016lx\n", operation->name, iterations, report.cycles, digest);
}

void bench_command(int count, char *words[])
{
    u64 iterations = DEFAULT_ITERATIONS, seed = 0;
    i64 status;

    if (count == 1) {
        print("operations:");
        print_operations();
        return;
    }
    const struct operation *operation = find_operation(words[1]);
    if (count > 4) {
        print("bench: too many words; usage: bench NAME [N [SEED]]\n");
    } else if (!operation) {
        print("bench: unknown operation %s; there are", words[1]);
        print_operations();
    } else if (count > 2 && (!parse_number(words[2], &iterations) || !iterations || iterations > MAX_ITERATIONS)) {
        print("bench: N is a number from 1 to %u, not %s\n", MAX_ITERATIONS, words[2]);
    } else if (count > 3 && !parse_number(words[3], &seed)) {
        print("bench: SEED is a decimal number of 64 bits, not %s\n", words[3]);
    } else if (system_call(SYS_BENCH_OPEN, 0, 0, 0) < 0) {
        print("bench: other processes are running\n");
    } else {
        i64 child = fork();
        if (child == 0) {
            set_name("bench");
            run(operation, iterations, seed);
            exit(0);
        }
        if (child < 0)
            print("bench: cannot start a process\n");
        else if (wait(&status, false) == child && status == STATUS_KILLED)
            print("bench: the operation was killed\n");
        system_call(SYS_BENCH_CLOSE, 0, 0, 0);
    }
}

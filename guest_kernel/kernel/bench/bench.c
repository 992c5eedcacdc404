/* Measuring: the marks and what happens at them. The host watches the two marks and counts what lies between them;
   nothing else tells it of a measurement. The guest's own figure, cycles, is taken just outside the marks. */
#include "kernel_bench.h"

#include "console.h"
#include "digest.h"
#include "frames.h"
#include "net.h"
#include "process.h"

void hv_mark_begin(void); /* arch/<isa>/marks.S */

static kernel_operation_round *const operations[BENCH_KERNEL_OPERATIONS] = {
    [BENCH_COMPUTE] = bench_compute,
    [BENCH_CALLRET] = bench_callret,
    [BENCH_CPUID] = bench_cpuid,
    [BENCH_IRQ_MASK] = bench_irq_mask,
    [BENCH_IN] = bench_in,
    [BENCH_CR8WR] = bench_cr8wr,
    [BENCH_PTEMOD] = bench_ptemod,
    [BENCH_NET_TX] = net_tx,
    [BENCH_NET_RX] = net_rx,
    [BENCH_NET_RR] = net_rr,
    [BENCH_NET_TX_BURST] = net_tx_burst,
    [BENCH_LOCAL_READ4K] = local_read4k,
    [BENCH_LOCAL_WRITE4K] = local_write4k,
    [BENCH_LOCAL_READ_QD32] = local_read_qd32,
    [BENCH_LOCAL_FLUSH] = local_flush,
    [BENCH_REMOTE_READ4K] = remote_read4k,
    [BENCH_REMOTE_WRITE4K] = remote_write4k,
    [BENCH_REMOTE_READ_QD32] = remote_read_qd32,
    [BENCH_REMOTE_FLUSH] = remote_flush,
    [BENCH_TIMER_TICK] = bench_timer_tick,
    [BENCH_DEVICE_IRQ] = bench_device_irq,
    [BENCH_IPI] = bench_ipi,
    [BENCH_EOI] = bench_eoi,
    [BENCH_HLT_WAKE] = bench_hlt_wake,
    [BENCH_BOOT] = bench_boot,
    [BENCH_PCI_SCAN] = bench_pci_scan,
    [BENCH_TIMER_CALIBRATION] = bench_timer_calibration,
};

enum probe armed_probe; /* PROBE_NONE: nothing is measured */

static u64 iterations_armed;
static u64 started_at;
static struct bench_report report; /* of the last round */

void measure_begin(void)
{
    started_at = arch_cycles();
    hv_mark_begin();
}

void measure_end(void)
{
    hv_mark_end();
    report.cycles = arch_cycles() - started_at;
}

u64 measure_absent(const char *why)
{
    for (u64 i = 0; i < sizeof report.absent - 1 && why[i]; i++)
        report.absent[i] = why[i];
    return 0;
}

/* The armed probe's path has come by. */
void probe_hit(void)
{
    u64 occurrence = report.hits++;
    if (occurrence == 0) {
        measure_begin();
    } else if (occurrence == iterations_armed) {
        measure_end();
        armed_probe = PROBE_NONE;
        frames_fresh_first(false);
    }
}

/* Nothing but the operation may run between the marks: no tick, no other process. Only a key that is typed meanwhile
   interrupts it. */
i64 bench_open(void)
{
    if (!process_is_alone())
        return -EBUSY;
    scheduler_hold_tick(true);
    return 0;
}

i64 bench_close(void)
{
    armed_probe = PROBE_NONE; /* if the process that was measured died half way */
    frames_fresh_first(false);
    scheduler_hold_tick(false);
    return 0;
}

i64 bench_arm(u64 point, u64 iterations, bool fresh)
{
    report = (struct bench_report){0};
    iterations_armed = iterations;
    frames_fresh_first(fresh);
    armed_probe = (enum probe)point;
    return 0;
}

/* What the machine lacks for the operation, or NULL. */
static const char *missing(u64 operation)
{
    bool with_card = (operation >= BENCH_NET_TX && operation <= BENCH_NET_TX_BURST) || operation == BENCH_DEVICE_IRQ;
    if (with_card && !net_present())
        return "this machine has no network card";
    return arch_lacks(operation);
}

i64 bench_kernel(u64 operation, u64 iterations, u64 seed)
{
    if (operation >= BENCH_KERNEL_OPERATIONS)
        return -EINVAL;
    report = (struct bench_report){0};
    const char *why = missing(operation);
    if (why)
        measure_absent(why);
    else
        report.digest = operations[operation](iterations, seed);
    console_poll(); /* the operation may have given up */
    return 0;
}

i64 bench_report(u64 address)
{
    return vm_write(&current_process()->space, address, &report, sizeof report) ? 0 : -EFAULT;
}

/* The first two words and the last of each page, read through the kernel's own mapping of the frame. */
i64 bench_pages(u64 address, u64 pages, u64 digest_address)
{
    static const u64 offsets[] = {0, 8, PAGE_SIZE - 8};
    struct space *space = &current_process()->space;
    u64 digest = DIGEST_START, word;
    for (u64 i = 0; i < pages; i++) {
        for (u64 j = 0; j < sizeof offsets / sizeof *offsets; j++) {
            if (!vm_read(space, &word, address + i * PAGE_SIZE + offsets[j], sizeof word))
                return -EFAULT;
            digest = digest_add(digest, word);
        }
    }
    return vm_write(space, digest_address, &digest, sizeof digest) ? 0 : -EFAULT;
}

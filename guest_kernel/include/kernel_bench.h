/* Benchmarks, as the rest of the kernel sees them: the probes in its paths. */
#pragma once

#include "bench.h"
#include "types.h"

extern enum probe armed_probe;
void probe_hit(void);

/* Stands where an operation of this kind begins. Costs a load and a compare unless this probe is armed. */
static inline void probe(enum probe point)
{
    if (point == armed_probe)
        probe_hit();
}

/* The end mark itself (arch/<isa>/marks.S). Without a begin it ends what began at reset. */
void hv_mark_end(void);

/* For the operations in kernel/bench/: one round each, prepare, begin, N times, end, and then the digest of what it
   did. */
void measure_begin(void);
void measure_end(void);
u64 measure_absent(const char *why); /* this machine has no such thing */
typedef u64 kernel_operation_round(u64 iterations, u64 seed);
kernel_operation_round bench_compute, bench_callret, bench_cpuid, bench_irq_mask, bench_in, bench_cr8wr, bench_ptemod;
kernel_operation_round net_tx, net_rx, net_rr, net_tx_burst;
kernel_operation_round bench_timer_tick, bench_device_irq, bench_eoi, bench_hlt_wake, bench_ipi;
kernel_operation_round bench_boot, bench_pci_scan, bench_timer_calibration;
kernel_operation_round local_read4k, local_write4k, local_read_qd32, local_flush;
kernel_operation_round remote_read4k, remote_write4k, remote_read_qd32, remote_flush;

/* The system calls. */
i64 bench_open(void);
i64 bench_close(void);
i64 bench_arm(u64 point, u64 iterations, bool fresh);
i64 bench_kernel(u64 operation, u64 iterations, u64 seed);
i64 bench_report(u64 address);
i64 bench_pages(u64 address, u64 pages, u64 digest_address);

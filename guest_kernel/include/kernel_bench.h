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

/* For the operations in kernel/bench/. */
void measure_begin(void);
void measure_end(void);
u64 run_kernel_operation(enum kernel_operation operation, u64 iterations, u64 seed);

/* The operations of kernel/bench/net.c: a round of one, which returns the digest of its payload. */
u64 net_tx(u64 iterations, u64 seed);
u64 net_rx(u64 iterations, u64 seed);
u64 net_rr(u64 iterations, u64 seed);
u64 net_tx_burst(u64 iterations, u64 seed);

/* And those of kernel/bench/disk.c. */
bool disk_bench_ready(u64 place);
u64 local_read4k(u64 iterations, u64 seed);
u64 local_write4k(u64 iterations, u64 seed);
u64 local_read_qd32(u64 iterations, u64 seed);
u64 local_flush(u64 iterations, u64 seed);
u64 remote_read4k(u64 iterations, u64 seed);
u64 remote_write4k(u64 iterations, u64 seed);
u64 remote_read_qd32(u64 iterations, u64 seed);
u64 remote_flush(u64 iterations, u64 seed);

/* The system calls. */
i64 bench_open(void);
i64 bench_close(void);
i64 bench_arm(u64 point, u64 iterations, bool fresh);
i64 bench_kernel(u64 operation, u64 iterations, u64 seed);
i64 bench_report(u64 address);
i64 bench_pages(u64 address, u64 pages, u64 digest_address);

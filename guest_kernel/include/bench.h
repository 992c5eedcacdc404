/* What the two halves of a benchmark operation share: the probes in the kernel and the kernel's own operations. */
#pragma once

#include "types.h"

/* A probe is a place in a kernel path. Armed for N iterations, it executes the begin mark at its occurrence 0 and
   the end mark at its occurrence N, so that exactly N whole cycles lie between, whatever an entry or a return costs. */
enum probe {
    PROBE_NONE,
    PROBE_GETPID,
    PROBE_DEMAND_ZERO,
    PROBE_RECOVER,
    PROBE_MMAP,
    PROBE_SWITCH,
    PROBE_FORK,
};

enum kernel_operation {
    BENCH_COMPUTE,
    BENCH_CALLRET,
    BENCH_CPUID,
    BENCH_IRQ_MASK,
    BENCH_IN,
    BENCH_CR8WR,
    BENCH_PTEMOD,
    BENCH_IPI,
    BENCH_NET_TX,
    BENCH_NET_RX,
    BENCH_NET_RR,
    BENCH_NET_TX_BURST,
    BENCH_LOCAL_READ4K,
    BENCH_LOCAL_WRITE4K,
    BENCH_LOCAL_READ_QD32,
    BENCH_LOCAL_FLUSH,
    BENCH_REMOTE_READ4K,
    BENCH_REMOTE_WRITE4K,
    BENCH_REMOTE_READ_QD32,
    BENCH_REMOTE_FLUSH,
    BENCH_TIMER_TICK,
    BENCH_DEVICE_IRQ,
    BENCH_EOI,
    BENCH_HLT_WAKE,
    BENCH_BOOT,
    BENCH_PCI_SCAN,
    BENCH_TIMER_CALIBRATION,
    BENCH_KERNEL_OPERATIONS, /* how many */
};

#define BENCH_BURST 32 /* packets or blocks that are handed over together */

struct bench_report {
    u64 cycles; /* between the marks */
    u64 hits;   /* occurrences of the probe: N + 1, or the round was not whole; 0 for a kernel operation */
    u64 digest; /* of a kernel operation's payload */
    char absent[64]; /* why this machine has no such operation; empty if it has */
};

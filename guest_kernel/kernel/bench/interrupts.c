/* The operations of the column interrupts that run in the kernel. */
#include "arch.h"
#include "cpus.h"
#include "digest.h"
#include "kernel_bench.h"

struct partner {
    volatile bool there, enough;
    u64 seed, digest, calls;
};

/* What the other CPU does meanwhile: it runs, with interrupts on. */
static void busy_wait(void *argument)
{
    struct partner *partner = argument;
    partner->there = true;
    while (!partner->enough)
        arch_pause();
}

static void answer(void *argument)
{
    struct partner *partner = argument;
    partner->digest = digest_add(partner->digest, random_at(partner->seed, partner->calls++));
}

/* An interrupt to another CPU, whose handler answers by a flag, for which this one busy-waits. */
u64 bench_ipi(u64 iterations, u64 seed)
{
    struct partner partner = {.seed = seed, .digest = DIGEST_START};
    cpu_give_work(1, busy_wait, &partner);
    while (!partner.there)
        arch_pause();
    cpu_call(1, answer, &partner); /* not measured: from now on the sender's interrupt command is as it has to be */

    arch_irq_enable();
    measure_begin();
    for (u64 n = 0; n < iterations; n++)
        cpu_call(1, answer, &partner);
    measure_end();
    arch_irq_disable();

    partner.enough = true;
    cpu_await_work(1);
    return digest_add(partner.digest, partner.calls);
}

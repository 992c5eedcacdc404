/* The operations of the column interrupts. All but hlt_wake wait busily, with interrupts on. */
#include "arch.h"
#include "console.h"
#include "cpus.h"
#include "digest.h"
#include "kernel_bench.h"

/* Arm the timer, wait for its interrupt. The handler ends it. */
u64 bench_timer_tick(u64 iterations, u64 seed)
{
    u64 first = arch_timer_expiries;
    arch_timer_single(true);
    arch_irq_enable();
    measure_begin();
    for (u64 n = 0; n < iterations && !console_interrupted; n++) {
        arch_timer_shoot();
        while (arch_timer_expiries == first + n)
            arch_pause();
    }
    measure_end();
    arch_irq_disable();
    arch_timer_single(false);
    return digest_add(digest_add(DIGEST_START, seed), arch_timer_expiries - first);
}

/* The same, asleep. */
u64 bench_hlt_wake(u64 iterations, u64 seed)
{
    u64 first = arch_timer_expiries;
    arch_timer_single(true);
    measure_begin();
    for (u64 n = 0; n < iterations; n++) {
        arch_timer_shoot();
        while (arch_timer_expiries == first + n)
            arch_wait_for_interrupt();
    }
    measure_end();
    arch_timer_single(false);
    return digest_add(digest_add(DIGEST_START, seed), arch_timer_expiries - first);
}

/* The end of an interrupt, of which none is in service. */
u64 bench_eoi(u64 iterations, u64 seed)
{
    u64 digest = digest_add(DIGEST_START, seed);
    measure_begin();
    for (u64 n = 0; n < iterations; n++) {
        arch_end_of_interrupt();
        digest = digest_add(digest, n);
    }
    measure_end();
    return digest;
}

struct partner {
    volatile bool enough;
    volatile u64 rounds; /* of its loop, which stands still while it is in a handler */
    u64 seed, digest, calls;
};

/* What the other CPU does meanwhile: it runs, with interrupts on. */
static void busy_wait(void *argument)
{
    struct partner *partner = argument;
    while (!partner->enough) {
        partner->rounds++;
        arch_pause();
    }
}

static void await_round(const struct partner *partner)
{
    u64 rounds = partner->rounds;
    while (partner->rounds == rounds)
        arch_pause();
}

static void answer(void *argument)
{
    struct partner *partner = argument;
    partner->digest = digest_add(partner->digest, random_at(partner->seed, partner->calls++));
}

/* An interrupt to another CPU, whose handler answers by a flag, for which this one busy-waits; and until that one is
   back in its loop, so that all of the interrupt belongs to the operation. */
u64 bench_ipi(u64 iterations, u64 seed)
{
    struct partner partner = {.seed = seed, .digest = DIGEST_START};
    if (cpu_count < 2)
        return measure_absent("this machine has one CPU");
    cpu_give_work(1, busy_wait, &partner);
    await_round(&partner);
    cpu_call(1, answer, &partner); /* not measured: from now on the sender's interrupt command is as it has to be */
    await_round(&partner);

    arch_irq_enable();
    measure_begin();
    for (u64 n = 0; n < iterations && !console_interrupted; n++) {
        cpu_call(1, answer, &partner);
        await_round(&partner);
    }
    measure_end();
    arch_irq_disable();

    partner.enough = true;
    cpu_await_work(1);
    return digest_add(partner.digest, partner.calls);
}

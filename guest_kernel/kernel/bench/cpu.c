/* The operations of the column cpu that run in the kernel. The others are in user/bench.c. */
#include "arch.h"
#include "console.h"
#include "digest.h"
#include "frames.h"
#include "kernel_bench.h"

/* A few hundred plain instructions on a small buffer. */
#define COMPUTE_WORDS 64

u64 bench_compute(u64 iterations, u64 seed)
{
    u64 words[COMPUTE_WORDS], digest = DIGEST_START;
    for (u64 i = 0; i < COMPUTE_WORDS; i++)
        words[i] = random_at(seed, i);

    measure_begin();
    u64 carry = seed;
    for (u64 n = 0; n < iterations; n++) {
        for (u64 i = 0; i < COMPUTE_WORDS; i++) {
            carry = (carry ^ words[i]) * 0x9E3779B97F4A7C15ul;
            words[i] = carry ^ (carry >> 32);
        }
    }
    measure_end();

    for (u64 i = 0; i < COMPUTE_WORDS; i++)
        digest = digest_add(digest, words[i]);
    return digest;
}

static __attribute__((noinline)) u64 callee(u64 value) { return value * 3 + 1; }

u64 bench_callret(u64 iterations, u64 seed)
{
    u64 value = seed;
    measure_begin();
    for (u64 n = 0; n < iterations; n++)
        value = callee(value);
    measure_end();
    return digest_add(DIGEST_START, value);
}

u64 bench_cpuid(u64 iterations, u64 seed)
{
    u64 digest = digest_add(digest_add(DIGEST_START, seed), arch_cpuid_extended());
    measure_begin();
    for (u64 n = 0; n < iterations; n++)
        digest = digest_add(digest, arch_cpuid());
    measure_end();
    return digest;
}

/* Interrupts on before and after, so that nothing waits to come in between. */
u64 bench_irq_mask(u64 iterations, u64 seed)
{
    u64 digest = digest_add(DIGEST_START, seed);
    arch_irq_enable();
    digest = digest_add(digest, arch_irq_enabled());
    measure_begin();
    for (u64 n = 0; n < iterations; n++) {
        arch_irq_disable();
        digest = digest_add(digest, n);
        arch_irq_enable();
    }
    measure_end();
    digest = digest_add(digest, arch_irq_enabled());
    arch_irq_disable();
    return digest_add(digest, arch_irq_enabled());
}

/* What the port answers depends on the machine, so the digest has only the loop's own values. */
u64 bench_in(u64 iterations, u64 seed)
{
    u64 digest = digest_add(DIGEST_START, seed);
    measure_begin();
    for (u64 n = 0; n < iterations; n++) {
        arch_in();
        digest = digest_add(digest, n);
    }
    measure_end();
    return digest;
}

/* The CPU's interrupt priority goes between 0 and 1, which no interrupt that is in use is below. */
u64 bench_cr8wr(u64 iterations, u64 seed)
{
    u64 digest = digest_add(DIGEST_START, seed);
    u64 flip = random_at(seed, 0) & 1;
    measure_begin();
    for (u64 n = 0; n < iterations; n++)
        arch_write_priority((n ^ flip) & 1);
    measure_end();
    digest = digest_add(digest, arch_read_priority());
    arch_write_priority(1);
    digest = digest_add(digest, arch_read_priority());
    arch_write_priority(0);
    return digest_add(digest_add(digest, arch_read_priority()), iterations);
}

/* One page-table entry changes between two frames, without a TLB flush, as in Adams and Agesen 2006. */
u64 bench_ptemod(u64 iterations, u64 seed)
{
    u64 frames[2] = {frame_alloc(), frame_alloc()}, digest = DIGEST_START;
    if (!frames[0] || !frames[1])
        panic("no memory for the operation ptemod");
    for (u64 i = 0; i < 2; i++)
        *(u64 *)phys_to_virt(frames[i]) = random_at(seed, i);
    pte *slot = arch_scratch_slot();
    const pte values[2] = {pte_make(frames[0], PROT_READ | PROT_WRITE), pte_make(frames[1], PROT_READ)};

    measure_begin();
    for (u64 n = 0; n < iterations; n++)
        pte_write(slot, values[n & 1]);
    measure_end();

    for (u64 i = 0; i < 2; i++) { /* what the last write maps, then the other one */
        arch_flush_page((u64)arch_scratch_page());
        digest = digest_add(digest, *(volatile u64 *)arch_scratch_page());
        digest = digest_add(digest, pte_writable(*slot));
        pte_write(slot, values[(iterations + i) & 1]);
    }
    arch_unmap_kernel_page((u64)arch_scratch_page());
    frame_release(frames[0]);
    frame_release(frames[1]);
    return digest_add(digest, iterations);
}

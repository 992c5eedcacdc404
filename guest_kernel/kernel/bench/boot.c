/* The operations of the column boot. Each is one cold run. */
#include "arch.h"
#include "digest.h"
#include "frames.h"
#include "kernel_bench.h"
#include "pci.h"

#define HOST_BRIDGE 0x060000 /* class */
#define STEP 100000000ul     /* Hz: so exact a calibration must be */
#define TIMER_STEP 100000ul

/* From reset to the end of the kernel's start lies behind us: is everything as it must be? */
u64 bench_boot(u64 iterations, u64 seed)
{
    struct memory_info memory;
    u64 digest = digest_add(digest_add(DIGEST_START, seed), iterations);
    frames_info(&memory);
    digest = digest_add(digest, round_up(memory.total * PAGE_SIZE, MIB));
    digest = arch_image_digest(digest);

    u64 first = arch_timer_expiries;
    arch_timer_single(true);
    arch_irq_enable();
    arch_timer_shoot();
    while (arch_timer_expiries == first)
        arch_pause();
    arch_irq_disable();
    arch_timer_single(false);
    return digest_add(digest, arch_timer_expiries - first);
}

/* Which cards there are differs from row to row: the digest has what holds for all of them. */
u64 bench_pci_scan(u64 iterations, u64 seed)
{
    u64 digest = digest_add(digest_add(DIGEST_START, seed), iterations), bridges = 0, strange = 0;
    measure_begin();
    u32 count = pci_scan();
    measure_end();
    for (u32 n = 0; n < count; n++) {
        const struct pci_function *f = pci_function(n);
        bridges += f->class == HOST_BRIDGE;
        strange += pci_read(f, 0) != ((u32)f->id << 16 | f->vendor);
    }
    return digest_add(digest_add(digest, bridges), strange);
}

u64 bench_timer_calibration(u64 iterations, u64 seed)
{
    u64 digest = digest_add(digest_add(DIGEST_START, seed), iterations);
    measure_begin();
    struct clock_rates rates = arch_clock_calibrate();
    measure_end();
    digest = digest_add(digest, (rates.cycles_hz + STEP / 2) / STEP);
    return digest_add(digest, (rates.timer_hz + TIMER_STEP / 2) / TIMER_STEP);
}

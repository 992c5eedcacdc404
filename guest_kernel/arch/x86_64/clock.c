/* The clocks: how fast the time-stamp counter and the local APIC's timer run is measured against the 8254, the one
   clock whose rate is known. Its counter 0, the PC's tick, is stopped: it would interrupt for nothing. */
#include "clock.h"

#include "apic.h"
#include "arch.h"
#include "console.h"

#define PIT_HZ 1193182ul
#define PIT_COUNTER_2 0x42
#define PIT_CONTROL 0x43
#define STOP_COUNTER_0 0x30 /* a new mode, and no count: it stands still */
#define COUNTER_2_ONCE 0xB0 /* its output rises at the end of the count */
#define PORT_B 0x61
#define PORT_B_GATE 0x01    /* of counter 2 */
#define PORT_B_SPEAKER 0x02
#define PORT_B_OUT 0x20     /* output of counter 2 */
#define COUNTS 2386ul       /* about 2 ms */

struct clock_rates arch_clock_calibrate(void)
{
    u8 closed = arch_io_read(PORT_B) & ~(PORT_B_GATE | PORT_B_SPEAKER);
    arch_io_write(PORT_B, closed);
    arch_io_write(PIT_CONTROL, COUNTER_2_ONCE);
    arch_io_write(PIT_COUNTER_2, COUNTS & 0xFF);
    arch_io_write(PIT_COUNTER_2, COUNTS >> 8);
    arch_io_write(PORT_B, closed | PORT_B_GATE);
    apic_timer_measure_start();
    u64 start = cpu_rdtsc();
    while (!(arch_io_read(PORT_B) & PORT_B_OUT))
        ;
    u64 cycles = cpu_rdtsc() - start, counts = apic_timer_measure_end();
    arch_io_write(PORT_B, closed);
    return (struct clock_rates){cycles * PIT_HZ / COUNTS, counts * PIT_HZ / COUNTS};
}

void clock_init(void)
{
    arch_io_write(PIT_CONTROL, STOP_COUNTER_0);
    if (xen_events()) /* whose clock says its rate */
        return;
    struct clock_rates rates = arch_clock_calibrate();
    if (!rates.timer_hz)
        panic("the local APIC's timer stands still");
    apic_timer_set_rate(rates.timer_hz);
}

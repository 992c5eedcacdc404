/* The interrupt controllers, as the rest of arch/x86_64 uses them. */
#pragma once

#include "types.h"

void apic_end_of_interrupt(void);
bool apic_line_interrupt(u64 vector); /* false: no device has this vector */

/* Calibration: counts of the timer between start and end, and then how many there are a second. */
void apic_timer_measure_start(void);
u64 apic_timer_measure_end(void);
void apic_timer_set_rate(u64 hz);

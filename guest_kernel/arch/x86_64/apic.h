/* The interrupt controllers, as the rest of arch/x86_64 uses them. */
#pragma once

#include "types.h"

#define APIC_INIT 0x4500    /* commands: the level is asserted; delivery mode INIT */
#define APIC_STARTUP 0x4600 /* a start-up message, with the number of a page */

void apic_init(void);
void apic_send(u32 apic_id, u32 command);
void apic_end_of_interrupt(void);
bool apic_line_interrupt(u64 vector); /* false: no device has this vector */

/* Calibration: counts of the timer between start and end, and then how many there are a second. */
void apic_timer_measure_start(void);
u64 apic_timer_measure_end(void);
void apic_timer_set_rate(u64 hz);

/* The interrupt controllers, as the rest of arch/x86_64 uses them. */
#pragma once

void apic_end_of_interrupt(void);

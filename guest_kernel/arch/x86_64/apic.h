/* The interrupt controllers, as the rest of arch/x86_64 uses them. */
#pragma once

#include "types.h"

void apic_end_of_interrupt(void);
void apic_device_interrupt(u32 line);

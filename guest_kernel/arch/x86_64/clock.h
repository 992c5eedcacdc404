/* What the clocks of this machine run at, as the rest of arch/x86_64 uses it. */
#pragma once

void clock_init(void);

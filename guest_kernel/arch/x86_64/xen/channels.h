/* Event channels of drivers, each to a back end in domain 0. */
#pragma once

#include "types.h"

/* Makes a channel for a back end to bind to. The handler runs with interrupts off. 0: there is none left. */
u32 xen_channel_open(void (*handler)(void *), void *argument);
void xen_channel_close(u32 port);
/* The same for a channel that is there already. */
void xen_channel_listen(u32 port, void (*handler)(void *), void *argument);
void xen_notify(u32 port);

void xen_channel_event(u32 port); /* by the upcall */

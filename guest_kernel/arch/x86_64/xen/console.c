/* The PV console: bytes go through a ring in a page that the console daemon sees too, and an event tells of them. */
#include "console_port.h"

#include "arch.h"
#include "console.h"
#include "xen.h"

static struct xen_console_ring *ring;

static void init(void) { ring = phys_to_virt(xen_pseudo(xen_start_info.console_frame << 12)); }

static void receive_all(void)
{
    u32 consumed = ring->in_consumed, produced = __atomic_load_n(&ring->in_produced, __ATOMIC_ACQUIRE);
    if (consumed == produced || !console_room())
        return;
    while (consumed != produced && console_room())
        console_receive(ring->in[consumed++ % sizeof ring->in]);
    __atomic_store_n(&ring->in_consumed, consumed, __ATOMIC_RELEASE);
    xen_notify(xen_start_info.console_port); /* there is room again */
}

static void connect(void) {} /* the event channel was there from the start */

static bool listening;

static void listen(void)
{
    listening = true;
    xen_listen(xen_start_info.console_port, true);
}

/* As much as fits at a time. The notification is a hypercall, and the daemon has read all when it returns. */
static void send(const char *bytes, u64 length)
{
    while (length) {
        u32 produced = ring->out_produced;
        u32 room = (u32)sizeof ring->out - (produced - __atomic_load_n(&ring->out_consumed, __ATOMIC_ACQUIRE));
        for (; room && length; room--, length--)
            ring->out[produced++ % sizeof ring->out] = *bytes++;
        __atomic_store_n(&ring->out_produced, produced, __ATOMIC_RELEASE);
        xen_notify(xen_start_info.console_port);
    }
}

void xen_console_event(void)
{
    if (listening)
        receive_all();
}

const struct console_port xen_console = {init, connect, listen, receive_all, send};

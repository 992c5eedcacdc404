/* Which driver's handler belongs to which event channel. */
#include "channels.h"

#include "console.h"
#include "xen.h"

#define CHANNELS 16

static struct {
    u32 port; /* 0: free */
    void (*handler)(void *);
    void *argument;
} channels[CHANNELS];

void xen_channel_listen(u32 port, void (*handler)(void *), void *argument)
{
    for (u32 i = 0; i < CHANNELS; i++) {
        if (!channels[i].port) {
            channels[i].handler = handler;
            channels[i].argument = argument;
            channels[i].port = port;
            xen_bind(port, 0);
            xen_listen(port, true);
            return;
        }
    }
    panic("more than %u drivers' event channels", CHANNELS);
}

u32 xen_channel_open(void (*handler)(void *), void *argument)
{
    struct {
        u16 domid, remote;
        u32 port;
    } unbound = {DOMID_SELF, DOMID_BACKEND, 0};
    if (xen_hypercall(EVTCHN_ALLOC_UNBOUND, (u64)&unbound, 0, 0, 0, HYPERCALL_EVENT_CHANNEL_OP))
        return 0;
    xen_channel_listen(unbound.port, handler, argument);
    return unbound.port;
}

void xen_channel_close(u32 port)
{
    for (u32 i = 0; i < CHANNELS; i++)
        if (channels[i].port == port)
            channels[i].port = 0;
    xen_listen(port, false);
    xen_hypercall(EVTCHN_CLOSE, (u64)&port, 0, 0, 0, HYPERCALL_EVENT_CHANNEL_OP);
}

void xen_channel_event(u32 port)
{
    for (u32 i = 0; i < CHANNELS; i++)
        if (channels[i].port == port)
            channels[i].handler(channels[i].argument);
}

/* The network front end of a Xen guest (public/io/netif.h): two rings shared with the back end in domain 0.
   Both directions go through buffers that are granted to it once and for all, so a packet needs no change of grants, and
   a kick only when the back end sleeps.
   Simplified: one buffer a packet; checksums are the network stack's. */
#include "arch.h"
#include "console.h"
#include "frames.h"
#include "nic.h"
#include "string.h"
#include "xen/bus.h"
#include "xen/channels.h"
#include "xen/grants.h"
#include "xen_ring.h"

struct tx_request {
    u32 grant;
    u16 offset;
    u16 flags;
    u16 id;
    u16 size;
};

struct tx_response {
    u16 id;
    i16 status;
};

struct rx_request {
    u16 id;
    u16 unused;
    u32 grant;
};

struct rx_response {
    u16 id;
    u16 offset;
    u16 flags;
    i16 status; /* the length, or negative */
};

_Static_assert(sizeof(struct tx_request) == 12 && sizeof(struct rx_request) == 8, "public/io/netif.h");

#define ENTRIES 256 /* that a page has, of either kind */
#define BUFFERS 64  /* a page each, in either direction */

struct buffer {
    u8 *data;
    u32 grant;
};

static struct xen_ring tx, rx;
static struct buffer tx_buffer[BUFFERS], rx_buffer[BUFFERS];
static u16 tx_free[BUFFERS]; /* a stack of buffers that are not on their way */
static u32 tx_free_count;
static u32 tx_event; /* the response of which we hear next */
static u32 port;
static struct xen_device device;
static struct nic nic;

static bool netfront_send(const void *frame, u64 length, bool more)
{
    if (!tx_free_count)
        return false;
    u16 id = tx_free[--tx_free_count];
    memcpy(tx_buffer[id].data, frame, length);
    *(struct tx_request *)xen_ring_request(&tx) =
        (struct tx_request){.grant = tx_buffer[id].grant, .id = id, .size = (u16)length};
    tx.asked++;
    if (more && tx_free_count)
        return true;
    if (!xen_ring_before(tx.taken, tx_event)) { /* we hear of none yet: of the last one */
        tx_event = tx.asked;
        xen_ring_listen(&tx, tx_event);
    }
    if (xen_ring_push(&tx))
        xen_notify(port);
    return true;
}

/* What has been sent. While something is on its way we hear of the last one of it. */
static void take_back_sent(void)
{
    do {
        while (xen_ring_answered(&tx)) {
            u32 id = ((const struct tx_response *)xen_ring_response(&tx))->id % BUFFERS;
            tx.taken++;
            tx_free[tx_free_count++] = (u16)id;
            nic.sent++;
        }
        if (tx.taken == tx.asked || xen_ring_before(tx.taken, tx_event))
            return;
        tx_event = tx.asked;
        xen_ring_listen(&tx, tx_event);
    } while (xen_ring_answered(&tx));
}

static void offer_buffer(u32 id)
{
    *(struct rx_request *)xen_ring_request(&rx) = (struct rx_request){.id = (u16)id, .grant = rx_buffer[id].grant};
    rx.asked++;
}

static void receive(void)
{
    do {
        while (xen_ring_answered(&rx)) {
            struct rx_response response = *(const struct rx_response *)xen_ring_response(&rx);
            u32 id = response.id % BUFFERS;
            rx.taken++;
            if (response.status > 0 && response.offset + (u64)response.status <= PAGE_SIZE)
                net_receive(rx_buffer[id].data + response.offset, (u64)response.status);
            offer_buffer(id);
        }
        xen_ring_listen(&rx, rx.taken + 1);
    } while (xen_ring_answered(&rx));
    if (xen_ring_push(&rx))
        xen_notify(port);
}

static void netfront_poll(void)
{
    take_back_sent();
    receive();
}

static void netfront_interrupt(void *argument)
{
    (void)argument;
    net_interrupt();
}

/* --- start-up --- */

static void make_buffers(struct buffer *buffers, bool read_only)
{
    for (u32 i = 0; i < BUFFERS; i++) {
        u64 page = frame_alloc();
        if (!page || !(buffers[i].grant = xen_grant(page, read_only)))
            panic("no memory for the network card");
        buffers[i].data = phys_to_virt(page);
    }
}

/* Returns the grant of a new ring's page. */
static u32 make_ring(struct xen_ring *ring, u32 entry)
{
    u64 page = frame_alloc();
    if (!page)
        panic("no memory for the network card");
    xen_ring_init(ring, phys_to_virt(page), entry, ENTRIES);
    return xen_grant(page, false);
}

/* "02:68:76:00:00:01" */
static bool read_address(u8 *address)
{
    char text[3 * ETHERNET_ADDRESS];
    if (!xen_bus_own_text(&device, "mac", text, sizeof text) || text_length(text) + 1 != sizeof text)
        return false;
    for (u32 i = 0; i < 2 * ETHERNET_ADDRESS; i++) {
        char c = text[i + i / 2];
        u32 digit = c <= '9' ? (u32)(c - '0') : (u32)(c - 'a') + 10;
        address[i / 2] = (u8)(address[i / 2] << 4 | (digit & 15));
    }
    return true;
}

struct nic *xen_net_find(void)
{
    if (!xen_bus_find(&device, "vif", 0) || !xen_bus_await(&device, XEN_INIT_WAIT) ||
        !xen_bus_number(&device, "feature-rx-copy", 0) || !read_address(nic.address))
        return NULL;
    make_buffers(tx_buffer, true);
    make_buffers(rx_buffer, false);
    u32 tx_ref = make_ring(&tx, sizeof(struct tx_request)), rx_ref = make_ring(&rx, sizeof(struct rx_request));
    for (u32 i = 0; i < BUFFERS; i++) {
        tx_free[tx_free_count++] = (u16)(BUFFERS - 1 - i);
        offer_buffer(i);
    }
    xen_ring_push(&rx); /* nobody is there yet to be told */
    port = xen_channel_open(netfront_interrupt, NULL);
    struct xen_setting settings[] = {
        {"tx-ring-ref", tx_ref, NULL}, {"rx-ring-ref", rx_ref, NULL}, {"event-channel", port, NULL},
        {"request-rx-copy", 1, NULL},  {"feature-rx-notify", 1, NULL},
    };
    if (!xen_bus_announce(&device, settings, sizeof settings / sizeof *settings, XEN_CONNECTED) ||
        !xen_bus_await(&device, XEN_CONNECTED))
        return NULL;
    nic.name = "Xen network front end";
    nic.send = netfront_send;
    nic.poll = netfront_poll;
    return &nic;
}

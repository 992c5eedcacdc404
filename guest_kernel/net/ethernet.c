/* Ethernet (IEEE 802.3, RFC 894) and the card: who gets a frame that came in, and when anybody looks. */
#include "arch.h"
#include "console.h"
#include "layers.h"
#include "string.h"

u8 net_frame[FRAME_MAX];

#define PATIENCE 200000ul /* looks: some 10 ms, more than a full send buffer of the host takes to empty */

static struct nic *nic;
static volatile bool interrupted; /* the card has something for us */
static volatile u64 interrupts;   /* of the card, so far */
static bool dropping;             /* nobody reads what comes in */
static u64 dropped;               /* frames since then */

void net_init(void)
{
    static struct nic *(*const drivers[])(void) = {ixgbevf_find, ixgbe_find, xen_net_find, e1000_find};
    for (u32 i = 0; i < sizeof drivers / sizeof *drivers && !nic; i++)
        nic = drivers[i]();
    if (!nic)
        return;
    const u8 *a = nic->address;
    kprintf("network: %s, %02x:%02x:%02x:%02x:%02x:%02x, 10.0.2.%u\n", nic->name, a[0], a[1], a[2], a[3], a[4], a[5], a[5]);
}

bool net_present(void) { return nic; }
u32 net_address(void) { return IPV4(10, 0, 2, nic->address[ETHERNET_ADDRESS - 1]); }
u64 net_sent(void) { return nic->sent; }
const u8 *ethernet_address(void) { return nic->address; }

/* By the card's interrupt handler, which may come while a frame is being put together: the rest is net_poll()'s. */
void net_interrupt(void)
{
    interrupted = true;
    interrupts++;
}

u64 net_interrupts(void) { return interrupts; }

void net_poll(void)
{
    if (interrupted) {
        interrupted = false;
        nic->poll();
    }
}

/* Waits; the caller has interrupts on. False: it has not come in PATIENCE looks, or the user waits no longer. It counts looks and not cycles, because
   a look at the clock is an exit where the kernel is deprivileged. */
bool net_wait(bool (*done)(void))
{
    for (u64 looks = 0; looks < PATIENCE && !console_interrupted; looks++) {
        if (done())
            return true;
        net_poll();
        arch_pause();
    }
    if (nic->watch && !console_interrupted)
        nic->watch();
    return false;
}

/* Switches to a wire whose frames only interrupt, and back. */
void net_drop(bool on)
{
    dropping = nic->lazy = on;
    dropped = 0;
}

u64 net_dropped(void) { return dropped; }

/* Sends net_frame, in which `length` bytes follow the header. */
bool ethernet_send(const u8 *to, u16 type, u64 length, bool more)
{
    struct ethernet *header = (struct ethernet *)net_frame;
    memcpy(header->to, to, ETHERNET_ADDRESS);
    memcpy(header->from, nic->address, ETHERNET_ADDRESS);
    header->type = swap16(type);
    return nic->send(net_frame, sizeof *header + length, more);
}

void net_receive(const u8 *frame, u64 length)
{
    const struct ethernet *header = (const struct ethernet *)frame;
    if (dropping) {
        dropped++;
        return;
    }
    if (length < sizeof *header)
        return;
    const u8 *packet = frame + sizeof *header;
    u64 rest = length - sizeof *header;
    if (header->type == swap16(TYPE_ARP))
        arp_receive(packet, rest);
    else if (header->type == swap16(TYPE_IPV4))
        ipv4_receive(packet, rest);
    else if (header->type == swap16(TYPE_AOE))
        aoe_receive(header->from, packet, rest);
}

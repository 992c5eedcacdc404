/* ARP (RFC 826): which Ethernet address belongs to an IP address.
   Simplified: the table never forgets, and its oldest entry makes room for a new one. */
#include "arch.h"
#include "layers.h"
#include "string.h"

struct arp {
    u16 hardware, protocol;
    u8 hardware_length, protocol_length;
    u16 operation;
    u8 from_hardware[ETHERNET_ADDRESS];
    u32 from;
    u8 to_hardware[ETHERNET_ADDRESS];
    u32 to;
} __attribute__((packed));
#define HARDWARE_ETHERNET 1
#define REQUEST 1
#define REPLY 2

#define ENTRIES 8

static struct entry {
    u32 address; /* 0: free */
    u8 hardware[ETHERNET_ADDRESS];
} table[ENTRIES];
static u32 oldest;
static u32 wanted;

const u8 *arp_lookup(u32 address)
{
    for (u32 i = 0; i < ENTRIES; i++)
        if (table[i].address == address)
            return table[i].hardware;
    return NULL;
}

static void learn(u32 address, const u8 *hardware)
{
    u8 *known = (u8 *)arp_lookup(address);
    if (!known) {
        table[oldest].address = address;
        known = table[oldest].hardware;
        oldest = (oldest + 1) % ENTRIES;
    }
    memcpy(known, hardware, ETHERNET_ADDRESS);
}

static void send(u16 operation, u32 to, const u8 *to_hardware)
{
    static const u8 everybody[ETHERNET_ADDRESS] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
    struct arp *arp = (struct arp *)(net_frame + sizeof(struct ethernet));
    arp->hardware = swap16(HARDWARE_ETHERNET);
    arp->protocol = swap16(TYPE_IPV4);
    arp->hardware_length = ETHERNET_ADDRESS;
    arp->protocol_length = sizeof arp->to;
    arp->operation = swap16(operation);
    memcpy(arp->from_hardware, ethernet_address(), ETHERNET_ADDRESS);
    arp->from = swap32(net_address());
    memset(arp->to_hardware, 0, ETHERNET_ADDRESS);
    if (to_hardware)
        memcpy(arp->to_hardware, to_hardware, ETHERNET_ADDRESS);
    arp->to = swap32(to);
    ethernet_send(to_hardware ? to_hardware : everybody, TYPE_ARP, sizeof *arp, false);
}

void arp_receive(const u8 *packet, u64 length)
{
    const struct arp *arp = (const struct arp *)packet;
    if (length < sizeof *arp || arp->hardware != swap16(HARDWARE_ETHERNET) || arp->protocol != swap16(TYPE_IPV4) ||
        arp->to != swap32(net_address()))
        return;
    u8 hardware[ETHERNET_ADDRESS];
    memcpy(hardware, arp->from_hardware, sizeof hardware);
    u32 from = swap32(arp->from);
    learn(from, hardware);
    if (arp->operation == swap16(REQUEST))
        send(REPLY, from, hardware);
}

static bool resolved(void) { return arp_lookup(wanted); }

/* Asks who has an address, if that is not known, and waits for the answer. Called with interrupts off. */
bool arp_resolve(u32 address)
{
    wanted = address;
    if (resolved())
        return true;
    send(REQUEST, address, NULL);
    arch_irq_enable();
    bool answered = net_wait(resolved);
    arch_irq_disable();
    return answered;
}

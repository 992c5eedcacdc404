/* UDP (RFC 768): sockets are ports with a function that takes what arrives. */
#include "layers.h"
#include "string.h"

struct udp {
    u16 from, to, length, checksum;
} __attribute__((packed));

#define SOCKETS 4

static struct udp_socket *sockets[SOCKETS];

/* The sum of the pseudo header, which the checksum covers too. */
static u32 pseudo_sum(u32 a, u32 b, u64 length)
{
    return (a >> 16) + (a & 0xFFFF) + (b >> 16) + (b & 0xFFFF) + PROTOCOL_UDP + (u32)length;
}

/* A socket is listened to until another one with its port takes its place. */
void udp_listen(struct udp_socket *socket)
{
    u32 place = 0;
    for (u32 i = SOCKETS; i-- > 0;)
        if (!sockets[i] || sockets[i]->port == socket->port)
            place = i;
    sockets[place] = socket;
}

/* False: the address is not resolved (arp_resolve), the card is full, or the payload is too long. */
bool udp_send(u32 address, u16 from, u16 to, const void *payload, u64 length, bool more)
{
    u64 whole = sizeof(struct udp) + length;
    if (whole > IP_PAYLOAD_MAX)
        return false;
    struct udp *udp = (struct udp *)(net_frame + IP_PAYLOAD);
    memcpy(udp + 1, payload, length);
    *udp = (struct udp){swap16(from), swap16(to), swap16((u16)whole), 0};
    u16 sum = checksum(udp, whole, pseudo_sum(net_address(), address, whole));
    udp->checksum = sum ? swap16(sum) : 0xFFFF; /* 0 would say that there is none */
    return ipv4_send(address, PROTOCOL_UDP, whole, more);
}

void udp_receive(const struct ipv4 *header, const u8 *datagram, u64 length)
{
    const struct udp *udp = (const struct udp *)datagram;
    u64 whole = length < sizeof *udp ? 0 : swap16(udp->length);
    if (whole < sizeof *udp || whole > length)
        return;
    if (udp->checksum && checksum(datagram, whole, pseudo_sum(swap32(header->from), swap32(header->to), whole)))
        return;
    for (u32 i = 0; i < SOCKETS; i++)
        if (sockets[i] && sockets[i]->port == swap16(udp->to))
            sockets[i]->receive(udp + 1, whole - sizeof *udp);
}

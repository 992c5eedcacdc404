/* IPv4 (RFC 791). Simplified: one network without routers, no options, no fragments. */
#include "layers.h"

#define VERSION_4_LENGTH_5 0x45
#define TIME_TO_LIVE 64
#define FRAGMENT 0x3FFF /* more fragments, or an offset */

/* The Internet checksum (RFC 1071): the complement of the sum of all 16-bit words, carries added at the end. */
u16 checksum(const void *data, u64 length, u32 start)
{
    const u8 *byte = data;
    u32 sum = start;
    for (; length > 1; length -= 2, byte += 2)
        sum += (u32)byte[0] << 8 | byte[1];
    if (length)
        sum += (u32)byte[0] << 8;
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return (u16)~sum;
}

/* Sends the payload that lies in net_frame. False: the address is not resolved, or the card is full. */
bool ipv4_send(u32 to, u8 protocol, u64 length, bool more)
{
    static u16 identification;
    struct ipv4 *header = (struct ipv4 *)(net_frame + sizeof(struct ethernet));
    const u8 *hardware = arp_lookup(to);
    if (!hardware)
        return false;
    header->version_length = VERSION_4_LENGTH_5;
    header->service = 0;
    header->length = swap16((u16)(sizeof *header + length));
    header->identification = swap16(identification++);
    header->fragment = 0;
    header->time_to_live = TIME_TO_LIVE;
    header->protocol = protocol;
    header->checksum = 0;
    header->from = swap32(net_address());
    header->to = swap32(to);
    header->checksum = swap16(checksum(header, sizeof *header, 0));
    return ethernet_send(hardware, TYPE_IPV4, sizeof *header + length, more);
}

void ipv4_receive(const u8 *packet, u64 length)
{
    const struct ipv4 *header = (const struct ipv4 *)packet;
    if (length < sizeof *header || header->version_length != VERSION_4_LENGTH_5 || checksum(header, sizeof *header, 0))
        return;
    u64 whole = swap16(header->length);
    if (whole < sizeof *header || whole > length || header->to != swap32(net_address()) ||
        (swap16(header->fragment) & FRAGMENT))
        return;
    const u8 *payload = packet + sizeof *header;
    if (header->protocol == PROTOCOL_ICMP)
        icmp_receive(swap32(header->from), payload, whole - sizeof *header);
    else if (header->protocol == PROTOCOL_UDP)
        udp_receive(header, payload, whole - sizeof *header);
}

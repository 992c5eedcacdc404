/* The headers, as they go over the wire, and what the layers of the stack ask of each other.
   A frame is built in one buffer from the inside out: each layer puts its header in front of what is there already. */
#pragma once

#include "net.h"
#include "nic.h"
#include "types.h"

static inline u16 swap16(u16 value) { return __builtin_bswap16(value); }
static inline u32 swap32(u32 value) { return __builtin_bswap32(value); }

struct ethernet {
    u8 to[ETHERNET_ADDRESS], from[ETHERNET_ADDRESS];
    u16 type;
} __attribute__((packed));
#define TYPE_IPV4 0x0800
#define TYPE_ARP 0x0806
#define TYPE_AOE 0x88A2

struct ipv4 {
    u8 version_length; /* 4 and 5: no options */
    u8 service;
    u16 length;
    u16 identification;
    u16 fragment;
    u8 time_to_live;
    u8 protocol;
    u16 checksum;
    u32 from, to;
} __attribute__((packed));
#define PROTOCOL_ICMP 1
#define PROTOCOL_UDP 17

/* Where an IP payload lies in a frame that is to be sent. */
#define IP_PAYLOAD (sizeof(struct ethernet) + sizeof(struct ipv4))
#define IP_PAYLOAD_MAX (FRAME_MAX - IP_PAYLOAD)
extern u8 net_frame[FRAME_MAX];

bool ethernet_send(const u8 *to, u16 type, u64 length, bool more);
const u8 *ethernet_address(void);

const u8 *arp_lookup(u32 address);
void arp_receive(const u8 *packet, u64 length);

bool ipv4_send(u32 to, u8 protocol, u64 length, bool more);
void ipv4_receive(const u8 *packet, u64 length);
void aoe_receive(const u8 *from, const u8 *packet, u64 length); /* drivers/aoe.c */
u16 checksum(const void *data, u64 length, u32 start);

void icmp_receive(u32 from, const u8 *message, u64 length);
void udp_receive(const struct ipv4 *header, const u8 *datagram, u64 length);

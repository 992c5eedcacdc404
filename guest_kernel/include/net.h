/* The network 10.0.2.0/24: a host with one card and one address, of which the last byte is that of the card's Ethernet
   address, so that hosts whose cards differ do too. Addresses and ports are numbers in the CPU's byte order. */
#pragma once

#include "types.h"

#define IPV4(a, b, c, d) ((u32)(a) << 24 | (u32)(b) << 16 | (u32)(c) << 8 | (d))
#define NET_PEER IPV4(10, 0, 2, 2)

struct udp_socket {
    u16 port;
    void (*receive)(const void *payload, u64 length); /* called by net_poll() */
};

void net_init(void);
bool net_present(void);
u32 net_address(void);
void net_poll(void);
bool net_wait(bool (*done)(void));
u64 net_sent(void);
void net_drop(bool on);
u64 net_dropped(void);
u64 net_interrupts(void);

bool arp_resolve(u32 address);
bool udp_send(u32 address, u16 from, u16 to, const void *payload, u64 length, bool more);
void udp_listen(struct udp_socket *socket);
i64 icmp_ping(u32 address, u64 sequence);

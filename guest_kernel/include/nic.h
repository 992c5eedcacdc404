/* What a driver of a network card gives to the network stack. */
#pragma once

#include "types.h"

#define ETHERNET_ADDRESS 6
#define FRAME_MAX 1514 /* without the frame check sequence */

struct nic {
    const char *name;
    u8 address[ETHERNET_ADDRESS];
    /* Takes a copy of a frame. With `more`, another one follows at once, and the card need not hear of this one yet.
       False: there is no room until something has been sent. */
    bool (*send)(const void *frame, u64 length, bool more);
    /* After an interrupt: takes back what has been sent, and gives each received frame to net_receive(). */
    void (*poll)(void);
    /* After a wait in vain: is the card still well? NULL: the driver does not look. */
    void (*watch)(void);
    u64 sent; /* frames that the card has reported as sent */
    bool lazy; /* buffers of received frames may be given back late, many at once */
};

/* The drivers, each with its own way to find its card. NULL: there is none. */
struct nic *ixgbevf_find(void);
struct nic *ixgbe_find(void);
struct nic *e1000_find(void);
struct nic *xen_net_find(void);

/* Called by the driver: by its interrupt handler, and by poll(). */
void net_interrupt(void);
void net_receive(const u8 *frame, u64 length);

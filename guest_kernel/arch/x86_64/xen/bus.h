/* Xenbus: split devices, whose front end is a driver here and whose back end is in another domain. Each has a directory
   in the store, with a state that the other one watches (public/io/xenbus.h). */
#pragma once

#include "store.h"
#include "types.h"

enum xen_state {
    XEN_UNKNOWN,
    XEN_INITIALISING,
    XEN_INIT_WAIT, /* the back end has said what it can */
    XEN_INITIALISED,
    XEN_CONNECTED,
    XEN_CLOSING,
    XEN_CLOSED,
};

#define XEN_PATH 64

struct xen_device {
    char path[XEN_PATH];    /* "device/vif/0" */
    char backend[XEN_PATH]; /* of the other end's directory */
    enum xen_state state;   /* this end's, as written last */
    volatile enum xen_state other;
    /* The other end has gone to another state. With interrupts off. NULL: nobody wants to know. */
    void (*changed)(struct xen_device *device);
    struct xen_watch watch;
};

/* What a front end tells its back end: a name and a number or, if it is not NULL, a text. */
struct xen_setting {
    const char *name;
    u64 number;
    const char *text;
};

/* The device of a kind ("vif", "vbd") with this number. False: there is none, or no bus. */
bool xen_bus_find(struct xen_device *device, const char *kind, u32 number);
/* A node of the back end's directory. The number is `otherwise` if there is none. False: there is no such text. */
u64 xen_bus_number(const struct xen_device *device, const char *name, u64 otherwise);
bool xen_bus_text(const struct xen_device *device, const char *name, char *text, u64 size);
/* A node of the front end's own directory, which the toolstack has written ("mac"). */
bool xen_bus_own_text(const struct xen_device *device, const char *name, char *text, u64 size);
/* Writes the settings, all at once, and then the state. */
bool xen_bus_announce(struct xen_device *device, const struct xen_setting *settings, u32 count, enum xen_state state);
bool xen_bus_switch(struct xen_device *device, enum xen_state state);
/* Waits until the back end is in that state or in a later one. True: it is in that one. */
bool xen_bus_await(struct xen_device *device, enum xen_state state);

/* The front ends' side of xenbus. */
#include "bus.h"

#include "string.h"
#include "syscall.h"

#define DIGITS 21

static char *append(char *to, const char *end, const char *text)
{
    while (*text && to + 1 < end)
        *to++ = *text++;
    *to = 0;
    return to;
}

static const char *decimal(char digits[DIGITS], u64 value)
{
    char *c = digits + DIGITS - 1;
    *c = 0;
    do
        *--c = (char)('0' + value % 10);
    while (value /= 10);
    return c;
}

static bool parse(const char *text, u64 *value)
{
    *value = 0;
    for (const char *c = text; *c; c++) {
        if (*c < '0' || *c > '9')
            return false;
        *value = *value * 10 + (u64)(*c - '0');
    }
    return *text;
}

u64 xen_bus_number(const struct xen_device *device, const char *name, u64 otherwise)
{
    char text[DIGITS];
    u64 value;
    return xen_bus_text(device, name, text, sizeof text) && parse(text, &value) ? value : otherwise;
}

bool xen_bus_text(const struct xen_device *device, const char *name, char *text, u64 size)
{
    return xen_store_read(0, device->backend, name, text, size) >= 0;
}

bool xen_bus_own_text(const struct xen_device *device, const char *name, char *text, u64 size)
{
    return xen_store_read(0, device->path, name, text, size) >= 0;
}

static void state_fired(struct xen_watch *watch)
{
    struct xen_device *device = (struct xen_device *)((char *)watch - __builtin_offsetof(struct xen_device, watch));
    enum xen_state state = (enum xen_state)xen_bus_number(device, "state", XEN_UNKNOWN);
    if (state == device->other)
        return;
    device->other = state;
    if (device->changed)
        device->changed(device);
}

bool xen_bus_find(struct xen_device *device, const char *kind, u32 number)
{
    char digits[DIGITS];
    char *const end = device->path + XEN_PATH;
    char *at = append(device->path, end, "device/");
    at = append(append(at, end, kind), end, "/");
    append(at, end, decimal(digits, number));
    if (!xen_store_present() || xen_store_read(0, device->path, "backend", device->backend, XEN_PATH) < 0)
        return false;
    device->watch = (struct xen_watch){.directory = device->backend, .name = "state", .fired = state_fired};
    return xen_bus_switch(device, XEN_INITIALISING) && xen_store_watch(&device->watch) == 0;
}

static bool write_all(u32 transaction, const struct xen_device *device, const struct xen_setting *settings, u32 count)
{
    char digits[DIGITS];
    for (const struct xen_setting *s = settings; s < settings + count; s++)
        if (xen_store_write(transaction, device->path, s->name, s->text ? s->text : decimal(digits, s->number)) < 0)
            return false;
    return true;
}

bool xen_bus_announce(struct xen_device *device, const struct xen_setting *settings, u32 count, enum xen_state state)
{
    for (;;) {
        i64 transaction = xen_store_begin();
        if (transaction < 0)
            return false;
        bool written = write_all((u32)transaction, device, settings, count);
        i64 result = xen_store_finish((u32)transaction, written);
        if (!written || (result < 0 && result != -EAGAIN))
            return false;
        if (!result)
            return xen_bus_switch(device, state);
    }
}

bool xen_bus_switch(struct xen_device *device, enum xen_state state)
{
    char digits[DIGITS];
    device->state = state;
    if (state == XEN_INITIALISING)
        device->other = XEN_UNKNOWN; /* what it was before counts no more */
    return xen_store_write(0, device->path, "state", decimal(digits, state)) == 0;
}

bool xen_bus_await(struct xen_device *device, enum xen_state state)
{
    while (device->other < state)
        if (!xen_store_wait())
            return false;
    return device->other == state;
}

/* The xenstore client (docs/misc/xenstore.txt, public/io/xs_wire.h): requests go through one ring of bytes, replies and
   the events of watches come through another. One request at a time, by CPU 0, with interrupts off; while it waits, it
   polls the store's channel, so it needs no interrupt. Values end with a zero byte here, whatever the store has. */
#include "store.h"

#include "arch.h"
#include "channels.h"
#include "string.h"
#include "syscall.h"
#include "xen.h"

#define PATIENCE_NS 5000000000ul /* for an answer, by Xen's clock */
#define MOST_PIECES 4

static struct xen_store_ring *ring;
static u32 port;
static struct xen_watch *watches;
static char payload[STORE_MOST_PAYLOAD + 1]; /* of the message that came last, and a zero */
static bool firing;

struct piece {
    const char *data;
    u64 length;
};

static struct piece piece(const char *text, bool with_zero) { return (struct piece){text, text_length(text) + with_zero}; }

bool xen_store_present(void) { return ring; }

/* --- the rings --- */

/* Sleeps until the store has done something. False: it has not in all this time. */
static bool wait(void)
{
    u64 until = xen_clock() + PATIENCE_NS;
    struct xen_poll poll = {&port, 1, until};
    if (xen_port_take(port))
        return true;
    xen_hypercall(SCHED_POLL, (u64)&poll, 0, 0, 0, HYPERCALL_SCHED_OP);
    return xen_port_take(port) || xen_clock() < until;
}

static bool send(const char *bytes, u64 length)
{
    while (length) {
        u32 produced = ring->request_produced;
        u32 room = (u32)sizeof ring->requests - (produced - __atomic_load_n(&ring->request_consumed, __ATOMIC_ACQUIRE));
        if (room > sizeof ring->requests)
            return false; /* nonsense: the store is broken */
        if (!room) {
            xen_notify(port);
            if (!wait())
                return false;
        }
        for (; room && length; room--, length--)
            ring->requests[produced++ % sizeof ring->requests] = *bytes++;
        __atomic_store_n(&ring->request_produced, produced, __ATOMIC_RELEASE);
    }
    return true;
}

static u32 arrived(void) { return __atomic_load_n(&ring->reply_produced, __ATOMIC_ACQUIRE) - ring->reply_consumed; }

static bool receive(char *bytes, u64 length)
{
    while (length) {
        u32 there = arrived(), consumed = ring->reply_consumed;
        bool full = there >= sizeof ring->replies;
        if (there > sizeof ring->replies || (!there && !wait()))
            return false;
        for (; there && length; there--, length--)
            *bytes++ = ring->replies[consumed++ % sizeof ring->replies];
        __atomic_store_n(&ring->reply_consumed, consumed, __ATOMIC_RELEASE);
        if (full)
            xen_notify(port); /* there is room again */
    }
    return true;
}

/* One message, into `payload`. */
static bool receive_message(struct xen_store_message *message)
{
    if (!receive((char *)message, sizeof *message) || message->length > STORE_MOST_PAYLOAD)
        return false;
    payload[message->length] = 0;
    return receive(payload, message->length);
}

/* --- watches --- */

/* The payload of an event is a path and the watch's token, which is its address. */
static void note_event(void)
{
    const char *c = payload + text_length(payload) + 1;
    u64 token = 0;
    for (; *c; c++)
        token = token << 4 | (u64)(*c <= '9' ? *c - '0' : *c - 'a' + 10);
    for (struct xen_watch *watch = watches; watch; watch = watch->next)
        if ((u64)watch == token)
            watch->pending = true;
}

static struct xen_watch *next_pending(void)
{
    struct xen_watch *watch = watches;
    while (watch && !watch->pending)
        watch = watch->next;
    return watch;
}

static void fire(void)
{
    struct xen_watch *watch;
    if (firing)
        return;
    firing = true;
    while ((watch = next_pending())) {
        watch->pending = false;
        watch->fired(watch);
    }
    firing = false;
}

/* Takes the events that are there. */
static bool take_events(void)
{
    struct xen_store_message message;
    bool any = false;
    while (arrived() && receive_message(&message)) {
        if (message.type == STORE_WATCH_EVENT)
            note_event();
        any = true;
    }
    return any;
}

static void store_event(void *unused)
{
    (void)unused;
    if (take_events())
        fire();
}

bool xen_store_wait(void)
{
    bool enabled = arch_irq_enabled(), any;
    arch_irq_disable();
    any = take_events() || (wait() && take_events());
    fire();
    if (enabled)
        arch_irq_enable();
    return any;
}

/* --- requests --- */

static i64 error_number(void)
{
    static const struct {
        const char *name;
        i64 number;
    } errors[] = {{"ENOENT", ENOENT}, {"EAGAIN", EAGAIN}, {"EACCES", EACCES}, {"EINVAL", EINVAL}, {"EBUSY", EBUSY}};
    for (u32 i = 0; i < sizeof errors / sizeof *errors; i++)
        if (memcmp(payload, errors[i].name, text_length(errors[i].name) + 1) == 0)
            return -errors[i].number;
    return -EIO;
}

/* The reply is in `payload`. Returns its length, or the negative of an error number. */
static i64 exchange(u32 type, u32 transaction, const struct piece *pieces, u32 count)
{
    static u32 last_request;
    struct xen_store_message message = {type, ++last_request, transaction, 0};
    for (u32 i = 0; i < count; i++)
        message.length += (u32)pieces[i].length;
    if (message.length > STORE_MOST_PAYLOAD)
        return -EINVAL;
    bool sent = send((const char *)&message, sizeof message);
    for (u32 i = 0; sent && i < count; i++)
        sent = send(pieces[i].data, pieces[i].length);
    xen_notify(port);
    while (sent && receive_message(&message)) {
        if (message.type == STORE_WATCH_EVENT)
            note_event();
        else if (message.request == last_request)
            return message.type == STORE_ERROR ? error_number() : (i64)message.length;
    }
    return -EIO;
}

/* The same, and copies the reply to `to`, cut to `size` with a zero at its end. */
static i64 request(u32 type, u32 transaction, const struct piece *pieces, u32 count, char *to, u64 size)
{
    bool enabled = arch_irq_enabled();
    if (!ring)
        return -ENODEV;
    arch_irq_disable();
    i64 length = exchange(type, transaction, pieces, count);
    if (length >= 0 && size) {
        length = length < (i64)size ? length : (i64)size - 1;
        memcpy(to, payload, (u64)length);
        to[length] = 0;
    }
    fire();
    if (enabled)
        arch_irq_enable();
    return length;
}

/* A request about a node; `value` follows its path. */
static i64 about(u32 type, u32 transaction, const char *directory, const char *name, struct piece value, char *to, u64 size)
{
    const char *between = *name ? "/" : "";
    struct piece pieces[MOST_PIECES] = {piece(directory, false), piece(between, false), piece(name, true), value};
    return request(type, transaction, pieces, MOST_PIECES, to, size);
}

static const struct piece nothing;

i64 xen_store_read(u32 transaction, const char *directory, const char *name, char *value, u64 size)
{
    return about(STORE_READ, transaction, directory, name, nothing, value, size);
}

i64 xen_store_list(u32 transaction, const char *directory, const char *name, char *names, u64 size)
{
    return about(STORE_DIRECTORY, transaction, directory, name, nothing, names, size);
}

i64 xen_store_write(u32 transaction, const char *directory, const char *name, const char *value)
{
    i64 result = about(STORE_WRITE, transaction, directory, name, piece(value, false), NULL, 0);
    return result < 0 ? result : 0;
}

i64 xen_store_begin(void)
{
    char number[16];
    const struct piece zero = {"", 1};
    i64 result = request(STORE_TRANSACTION_START, 0, &zero, 1, number, sizeof number), transaction = 0;
    if (result < 0)
        return result;
    for (const char *c = number; *c; c++)
        transaction = transaction * 10 + (*c - '0');
    return transaction;
}

i64 xen_store_finish(u32 transaction, bool commit)
{
    const struct piece how = piece(commit ? "T" : "F", true);
    i64 result = request(STORE_TRANSACTION_END, transaction, &how, 1, NULL, 0);
    return result < 0 ? result : 0;
}

i64 xen_store_watch(struct xen_watch *watch)
{
    char token[17];
    for (u32 i = 0; i < 16; i++)
        token[i] = "0123456789abcdef"[(u64)watch >> (60 - 4 * i) & 15];
    token[16] = 0;
    watch->next = watches;
    watches = watch;
    i64 result = about(STORE_WATCH, 0, watch->directory, watch->name, piece(token, true), NULL, 0);
    return result < 0 ? result : 0;
}

void xen_store_init(struct xen_store_ring *page, u32 channel)
{
    ring = page;
    port = channel;
    xen_channel_listen(port, store_event, NULL);
}

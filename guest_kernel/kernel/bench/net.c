/* The operations of the column net, and interrupts.device_irq, for which a card is needed too. The peer at the other end of the wire (10.0.2.2) echoes on port 7, swallows on port
   9, and does what it is asked on port 9000: it sends datagrams, or tells what it has swallowed.
   The CPU waits by looking, with interrupts on. What has been sent or received is known by the card's interrupt only. */
#include "arch.h"
#include "digest.h"
#include "kernel_bench.h"
#include "net.h"

#define PORT_ECHO 7
#define PORT_SWALLOW 9
#define PORT_CONTROL 9000
#define PORT_OURS 4000

#define REQUEST_SEND 1 /* count, length, gap in ns, seed */
#define REQUEST_TALLY 2

#define WORDS 8      /* of payload in each datagram */
#define GAP 20000    /* ns between the datagrams of net.rx: more than any row takes for one */

static u64 received; /* datagrams */
static u64 digest;   /* of their payloads */

static void take(const void *payload, u64 length)
{
    const u8 *byte = payload;
    for (u64 i = 0; i < length; i++)
        digest = digest_add(digest, byte[i]);
    received++;
}

static struct udp_socket ours = {PORT_OURS, take};

static u64 wanted;
static bool has_received(void) { return received >= wanted; }
static bool has_dropped(void) { return net_dropped() >= wanted; }
static bool has_sent(void) { return net_sent() >= wanted; }

/* False, after a while, if they do not come. */
static bool wait_for_received(u64 count)
{
    wanted = count;
    return net_wait(has_received);
}

static bool wait_for_sent(u64 count)
{
    wanted = count;
    return net_wait(has_sent);
}

/* Sends datagram number `n` of the seed's sequence. */
static bool send(u16 port, u64 seed, u64 n, bool more)
{
    u64 payload[WORDS];
    for (u64 i = 0; i < WORDS; i++)
        payload[i] = random_at(seed, n * WORDS + i);
    return udp_send(NET_PEER, PORT_OURS, port, payload, sizeof payload, more);
}

static bool request(u32 what, u32 count, u32 length, u32 gap, u64 seed)
{
    u32 words[] = {what, count, length, gap, (u32)(seed >> 32), (u32)seed};
    for (u64 i = 0; i < sizeof words / sizeof *words; i++)
        words[i] = __builtin_bswap32(words[i]);
    u64 sent = net_sent();
    return udp_send(NET_PEER, PORT_OURS, PORT_CONTROL, words, sizeof words, false) && wait_for_sent(sent + 1);
}

/* Adds to the digest what the peer has swallowed since it was last asked: how many datagrams, and a checksum. */
static bool tally(void)
{
    u64 before = received;
    return request(REQUEST_TALLY, 0, 0, 0, 0) && wait_for_received(before + 1);
}

/* Before and after the marks: everything runs with interrupts on. */
static void open(void)
{
    udp_listen(&ours);
    arp_resolve(NET_PEER);
    arch_irq_enable();
    tally();
    received = 0;
    digest = DIGEST_START;
}

static u64 close(void)
{
    arch_irq_disable();
    return digest;
}

/* Hands over datagram `n`. A card without room has it again when it has reported what it was given, all after `before`. */
static bool hand_over(u64 seed, u64 n, bool more, u64 before)
{
    return send(PORT_SWALLOW, seed, n, more) || (wait_for_sent(before + n) && send(PORT_SWALLOW, seed, n, more));
}

/* Bursts of `burst` datagrams, each burst with one doorbell; the next when the card has reported the last one sent. */
static u64 send_bursts(u64 iterations, u64 seed, u64 burst)
{
    u64 before = net_sent();
    measure_begin();
    for (u64 n = 0; n < iterations; n++) {
        bool last = (n + 1) % burst == 0 || n + 1 == iterations;
        if (!hand_over(seed, n, !last, before) || (last && !wait_for_sent(before + n + 1)))
            break;
    }
    measure_end();
    tally();
    return close();
}

u64 net_tx(u64 iterations, u64 seed)
{
    open();
    return send_bursts(iterations, seed, 1);
}

u64 net_tx_burst(u64 iterations, u64 seed)
{
    open();
    return send_bursts(iterations, seed, BENCH_BURST);
}

static bool wait_for_dropped(u64 count)
{
    wanted = count;
    return net_wait(has_dropped);
}

/* From the arrival of one datagram to that of the N-th after it. */
u64 net_rx(u64 iterations, u64 seed)
{
    open();
    request(REQUEST_SEND, (u32)iterations + 1, WORDS * sizeof(u64), GAP, seed);
    bool begun = wait_for_received(1);
    measure_begin();
    for (u64 n = 0; n < iterations && begun; n++)
        begun = wait_for_received(n + 2);
    measure_end();
    return close();
}

/* From one interrupt of the card to the N-th after it. Frames come in as in net.rx, one an interrupt, but nobody reads
   them, and their buffers are given back many at once. */
u64 bench_device_irq(u64 iterations, u64 seed)
{
    open();
    net_drop(true);
    request(REQUEST_SEND, (u32)iterations + 1, sizeof(u32), GAP, seed);
    bool begun = wait_for_dropped(1);
    u64 before = net_interrupts();
    measure_begin();
    for (u64 n = 0; n < iterations && begun; n++)
        begun = wait_for_dropped(n + 2);
    measure_end();
    u64 interrupts = net_interrupts() - before;
    net_drop(false);
    close();
    return digest_add(digest_add(DIGEST_START, seed), interrupts);
}

/* A datagram goes to the peer, and comes back. */
u64 net_rr(u64 iterations, u64 seed)
{
    open();
    measure_begin();
    for (u64 n = 0; n < iterations; n++)
        if (!send(PORT_ECHO, seed, n, false) || !wait_for_received(n + 1))
            break;
    measure_end();
    return close();
}

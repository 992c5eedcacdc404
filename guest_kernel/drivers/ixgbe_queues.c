/* The queues of Intel's 82599 (82599 10 GbE Controller Datasheet, 331520), for its physical and its virtual functions.
   Two rings of descriptors in memory, in the advanced format (7.1.6, 7.2.3.2). The card overwrites a descriptor when it
   is done with it; what is in memory costs nothing to look at.
   An interrupt needs no register: its cause is cleared (EIAC) and masked (EIAM) as the message is sent, as Linux's drivers
   have it, and unmasked when the rings have been looked through.
   Simplified: one card, one pair of queues, no offloads, one buffer a frame. */
#include "ixgbe_queues.h"

#include "arch.h"
#include "frames.h"
#include "string.h"

/* Registers of a queue, receive and transmit. */
#define RING_LOW 0x00            /* physical address, length in bytes, head, tail */
#define RING_HIGH 0x04
#define RING_LENGTH 0x08
#define RING_HEAD 0x10
#define SPLIT 0x14               /* SRRCTL, receive only: */
#define SPLIT_BUFFER_KIB 2u      /* bits 4:0 */
#define SPLIT_ADVANCED (1u << 25)
#define SPLIT_DROP (1u << 28)    /* a frame without a buffer is lost, and holds up nobody else's */
#define RING_TAIL 0x18
#define QUEUE_CONTROL 0x28
#define QUEUE_ENABLE (1u << 25)

union tx_descriptor {
    struct {
        u64 address;
        u32 command; /* length in bits 15:0 */
        u32 payload; /* length of the whole frame in bits 31:14 */
    };
    struct {
        u64 reserved;
        u32 seed;
        u32 status;
    } done;
};
#define TX_DATA (3u << 20)
#define TX_END_OF_PACKET (1u << 24)
#define TX_INSERT_FCS (1u << 25)
#define TX_REPORT (1u << 27)     /* set TX_DONE, and interrupt */
#define TX_ADVANCED (1u << 29)
#define TX_PAYLOAD 14
#define TX_DONE 1u

union rx_descriptor {
    struct {
        u64 address;
        u64 header; /* 0: no buffer for headers */
    };
    struct {
        u64 hash;
        u32 status;
        u16 length, vlan;
    } done;
};
#define RX_DONE 1u
#define RX_END_OF_PACKET 2u
#define RX_ERRORS 0xFFF00000u

#define RING 64u
#define BUFFER 2048u
#define PATIENCE 100000u

static volatile u8 *rx_registers, *tx_registers, *enable;
static volatile union tx_descriptor *tx;
static volatile union rx_descriptor *rx;
static u64 tx_ring, rx_ring; /* physical */
static u64 tx_buffer[RING], rx_buffer[RING]; /* physical */
static u32 tx_next;  /* to be filled */
static u32 tx_first; /* that has not been reported as sent */
static u32 rx_next;  /* to be received */
static struct nic *nic;

bool ixgbe_wait(volatile u8 *registers, u32 offset, u32 mask, u32 wanted)
{
    for (u32 looks = 0; looks < PATIENCE; looks++) {
        u32 value = arch_register_read(registers + offset);
        if (value == IXGBE_NO_CARD)
            return false;
        if ((value & mask) == wanted)
            return true;
    }
    return false;
}

static bool ixgbe_send(const void *frame, u64 length, bool more)
{
    u32 next = (tx_next + 1) % RING;
    if (next == tx_first)
        return false;
    memcpy(phys_to_virt(tx_buffer[tx_next]), frame, length);
    tx[tx_next].address = tx_buffer[tx_next];
    tx[tx_next].command =
        (u32)length | TX_DATA | TX_ADVANCED | TX_END_OF_PACKET | TX_INSERT_FCS | (more ? 0 : TX_REPORT);
    tx[tx_next].payload = (u32)length << TX_PAYLOAD;
    tx_next = next;
    if (!more)
        arch_register_write(tx_registers + RING_TAIL, tx_next); /* the doorbell */
    return true;
}

/* A descriptor that is reported as done says so for those before it too. */
static void take_back_sent(void)
{
    u32 done = tx_first;
    for (u32 i = tx_first; i != tx_next; i = (i + 1) % RING)
        if (tx[i].done.status & TX_DONE)
            done = (i + 1) % RING;
    nic->sent += (done - tx_first) % RING;
    tx_first = done;
}

static void give_buffer(u32 i)
{
    rx[i].address = rx_buffer[i];
    rx[i].header = 0;
}

static void receive(void)
{
    u32 last = rx_next;
    for (; rx[rx_next].done.status & RX_DONE; rx_next = (rx_next + 1) % RING) {
        u32 status = rx[rx_next].done.status;
        if (status & RX_END_OF_PACKET && !(status & RX_ERRORS))
            net_receive(phys_to_virt(rx_buffer[rx_next]), rx[rx_next].done.length);
        give_buffer(rx_next);
        last = rx_next;
    }
    if (last != rx_next) /* the buffers are the card's again; one stays ours, so that full differs from empty */
        arch_register_write(rx_registers + RING_TAIL, last);
}

static void ixgbe_poll(void)
{
    take_back_sent();
    receive();
    arch_register_write(enable, IXGBE_CAUSE);
}

void ixgbe_interrupt(void) { net_interrupt(); }

/* An empty ring of descriptors, which has a page of its own. */
static void *set_ring(volatile u8 *queue, u64 page)
{
    memset(phys_to_virt(page), 0, PAGE_SIZE);
    arch_register_write(queue + RING_LOW, (u32)page);
    arch_register_write(queue + RING_HIGH, (u32)(page >> 32));
    arch_register_write(queue + RING_LENGTH, RING * sizeof(*tx));
    arch_register_write(queue + RING_HEAD, 0);
    arch_register_write(queue + RING_TAIL, 0);
    return phys_to_virt(page);
}

/* Two buffers a page. */
static bool make_buffers(u64 *buffers)
{
    for (u32 i = 0; i < RING; i += 2) {
        buffers[i] = frame_alloc();
        buffers[i + 1] = buffers[i] + BUFFER;
        if (!buffers[i])
            return false;
    }
    return true;
}

static bool enable_queue(volatile u8 *queue)
{
    arch_register_write(queue + QUEUE_CONTROL, arch_register_read(queue + QUEUE_CONTROL) | QUEUE_ENABLE);
    return ixgbe_wait(queue, QUEUE_CONTROL, QUEUE_ENABLE, QUEUE_ENABLE);
}

bool ixgbe_start_queues(volatile u8 *registers, const struct ixgbe_places *places, struct nic *card)
{
    rx_registers = registers + places->receive;
    tx_registers = registers + places->transmit;
    enable = registers + places->enable;
    nic = card;
    if (!make_buffers(tx_buffer) || !make_buffers(rx_buffer))
        return false;
    tx_ring = frame_alloc();
    rx_ring = frame_alloc();
    if (!tx_ring || !rx_ring)
        return false;
    nic->send = ixgbe_send;
    nic->poll = ixgbe_poll;
    return ixgbe_restart_queues();
}

bool ixgbe_restart_queues(void)
{
    tx_next = tx_first = rx_next = 0;
    tx = set_ring(tx_registers, tx_ring);
    rx = set_ring(rx_registers, rx_ring);
    if (!enable_queue(tx_registers))
        return false;

    for (u32 i = 0; i < RING; i++)
        give_buffer(i);
    arch_register_write(rx_registers + SPLIT, SPLIT_BUFFER_KIB | SPLIT_ADVANCED | SPLIT_DROP);
    if (!enable_queue(rx_registers))
        return false;
    arch_register_write(rx_registers + RING_TAIL, RING - 1);
    return true;
}

/* Intel's 82540EM (PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual).
   Two rings of descriptors in memory: the card reads and writes them between head, which is its, and tail, which is
   ours. What is in memory costs nothing to look at; each register access is an exit under an emulating hypervisor.
   Simplified: no offloads, no VLANs, one buffer a frame, and the link is taken as it is. */
#include "arch.h"
#include "console.h"
#include "frames.h"
#include "nic.h"
#include "pci.h"
#include "string.h"

#define VENDOR_INTEL 0x8086
#define DEVICE_82540EM 0x100E

#define CTRL 0x0000              /* device control */
#define CTRL_LINK_UP (1u << 6)
#define CTRL_RESET (1u << 26)
#define ICR 0x00C0               /* causes of the interrupt; reading clears them, and with them the line */
#define IMS 0x00D0               /* a one lets a cause interrupt */
#define IMC 0x00D8               /* a one masks it */
#define CAUSE_SENT (1u << 0)
#define CAUSE_RECEIVED (1u << 7)
#define RCTL 0x0100              /* receive control */
#define RCTL_ENABLE (1u << 1)
#define RCTL_BROADCAST (1u << 15)
#define RCTL_STRIP_FCS (1u << 26) /* buffers of 2048 bytes: zeros */
#define TCTL 0x0400              /* transmit control */
#define TCTL_ENABLE (1u << 1)
#define TCTL_PAD (1u << 3)       /* short frames to 64 bytes */
#define TCTL_COLLISIONS (0x0Fu << 4 | 0x40u << 12)
#define TIPG 0x0410              /* gaps between frames */
#define TIPG_COPPER (10u | 8u << 10 | 6u << 20)
#define RX_RING 0x2800
#define TX_RING 0x3800
#define RING_LOW 0x00            /* of each ring: physical address, length in bytes, head, tail */
#define RING_HIGH 0x04
#define RING_LENGTH 0x08
#define RING_HEAD 0x10
#define RING_TAIL 0x18
#define MULTICAST_TABLE 0x5200
#define MULTICAST_WORDS 128
#define ADDRESS_LOW 0x5400       /* from the card's EEPROM */
#define ADDRESS_HIGH 0x5404

struct tx_descriptor {
    u64 address;
    u16 length;
    u8 checksum_offset;
    u8 command;
    u8 status;
    u8 checksum_start;
    u16 special;
};
#define TX_END_OF_PACKET 0x01
#define TX_INSERT_FCS 0x02
#define TX_REPORT 0x08 /* set TX_DONE, and interrupt */
#define TX_DONE 0x01

struct rx_descriptor {
    u64 address;
    u16 length;
    u16 checksum;
    u8 status;
    u8 errors;
    u16 special;
};
#define RX_DONE 0x01

#define RING 64u
#define BUFFER 2048u

static volatile u8 *registers;
static volatile struct tx_descriptor *tx;
static volatile struct rx_descriptor *rx;
static u8 *tx_buffer[RING], *rx_buffer[RING];
static u32 tx_next;  /* to be filled */
static u32 tx_first; /* that has not been reported as sent */
static u32 rx_next;  /* to be received */
static u32 rx_last;  /* that the card has been given; one stays ours, so that full differs from empty */
static struct nic nic;

static u32 get(u32 offset) { return arch_register_read(registers + offset); }
static void set(u32 offset, u32 value) { arch_register_write(registers + offset, value); }

static bool e1000_send(const void *frame, u64 length, bool more)
{
    u32 next = (tx_next + 1) % RING;
    if (next == tx_first)
        return false;
    if ((next + 1) % RING == tx_first)
        more = false; /* the ring is full: only a report makes room again */
    memcpy(tx_buffer[tx_next], frame, length);
    tx[tx_next].length = (u16)length;
    tx[tx_next].status = 0;
    tx[tx_next].command = TX_END_OF_PACKET | TX_INSERT_FCS | (more ? 0 : TX_REPORT);
    tx_next = next;
    if (!more)
        set(TX_RING + RING_TAIL, tx_next); /* the doorbell */
    return true;
}

/* A descriptor that is reported as done says so for those before it too. */
static void take_back_sent(void)
{
    u32 done = tx_first;
    for (u32 i = tx_first; i != tx_next; i = (i + 1) % RING)
        if (tx[i].status & TX_DONE)
            done = (i + 1) % RING;
    nic.sent += (done - tx_first) % RING;
    tx_first = done;
}

static void receive(void)
{
    for (; rx[rx_next].status & RX_DONE; rx_next = (rx_next + 1) % RING) {
        net_receive(rx_buffer[rx_next], rx[rx_next].length);
        rx[rx_next].status = 0;
    }
    u32 last = (rx_next - 1) % RING, ours = (last - rx_last) % RING;
    if (ours > (nic.lazy ? RING / 2 : 0)) { /* the buffers are the card's again */
        rx_last = last;
        set(RX_RING + RING_TAIL, last);
    }
}

static void e1000_poll(void)
{
    take_back_sent();
    receive();
}

static void e1000_interrupt(void)
{
    if (get(ICR))
        net_interrupt();
}

/* A ring of descriptors in a page of its own. */
static void *make_ring(u32 base)
{
    u64 page = frame_alloc();
    if (!page)
        panic("no memory for the network card");
    memset(phys_to_virt(page), 0, PAGE_SIZE);
    set(base + RING_LOW, (u32)page);
    set(base + RING_HIGH, (u32)(page >> 32));
    set(base + RING_LENGTH, RING * 16);
    set(base + RING_HEAD, 0);
    set(base + RING_TAIL, 0);
    return phys_to_virt(page);
}

/* Two buffers a page. Returns the physical address of buffer `i`. */
static u64 make_buffer(u32 i)
{
    static u64 page;
    if (i % 2 == 0 && !(page = frame_alloc()))
        panic("no memory for the network card");
    return page + i % 2 * BUFFER;
}

static void fill_rings(void)
{
    for (u32 i = 0; i < RING; i++) {
        tx[i].address = make_buffer(i);
        tx_buffer[i] = phys_to_virt(tx[i].address);
    }
    for (u32 i = 0; i < RING; i++) {
        rx[i].address = make_buffer(i);
        rx_buffer[i] = phys_to_virt(rx[i].address);
    }
}

struct nic *e1000_find(void)
{
    const struct pci_function *card = pci_find(VENDOR_INTEL, DEVICE_82540EM);
    if (!card || !pci_bar(card, 0))
        return NULL;
    pci_enable(card);
    registers = arch_map_device(pci_bar(card, 0), 0x20000);

    set(IMC, 0xFFFFFFFF);
    set(CTRL, CTRL_RESET);
    while (get(CTRL) & CTRL_RESET)
        ;
    set(IMC, 0xFFFFFFFF);
    set(CTRL, get(CTRL) | CTRL_LINK_UP);
    for (u32 i = 0; i < MULTICAST_WORDS; i++)
        set(MULTICAST_TABLE + 4 * i, 0);
    u32 address[2] = {get(ADDRESS_LOW), get(ADDRESS_HIGH)};
    memcpy(nic.address, address, sizeof nic.address);

    tx = make_ring(TX_RING);
    rx = make_ring(RX_RING);
    fill_rings();
    set(TIPG, TIPG_COPPER);
    set(TCTL, TCTL_ENABLE | TCTL_PAD | TCTL_COLLISIONS);
    rx_last = RING - 1;
    set(RX_RING + RING_TAIL, rx_last);
    set(RCTL, RCTL_ENABLE | RCTL_BROADCAST | RCTL_STRIP_FCS);

    nic.name = "82540EM";
    nic.send = e1000_send;
    nic.poll = e1000_poll;
    arch_irq_connect(card->line, true, e1000_interrupt);
    get(ICR); /* what happened before now */
    set(IMS, CAUSE_SENT | CAUSE_RECEIVED);
    return &nic;
}

/* A virtual function of Intel's 82599 (82599 10 GbE Controller Datasheet, 331520, chapter 9).
   It has queues and interrupts of its own, and whatever concerns the whole card it asks the owner of the physical
   function for, through a mailbox: 16 words that both can see, and bits that say whose turn it is (4.6.12, 7.10.2.9).
   What the words mean is agreed between the drivers: the numbers are those of Linux's.
   Simplified: no VLANs, no multicast beyond broadcast. The mailbox does not interrupt: whether the owner has reset the
   card, this function with it, is looked up when something has not come (Linux's driver looks every two seconds). */
#include "arch.h"
#include "ixgbe_queues.h"
#include "pci.h"
#include "string.h"

#define DEVICE_82599_VF 0x10ED
#define REGISTERS_SIZE 0x4000

#define CONTROL 0x0000
#define EICR 0x0100               /* causes of interrupts; reading clears them */
#define EIMS 0x0108               /* a one lets a cause interrupt */
#define EIMC 0x010C               /* a one masks it */
#define EIAC 0x0110               /* a one: the message clears the cause, */
#define EIAM 0x0114               /* and masks it */
#define ALL_CAUSES 7u
#define IVAR 0x0120               /* which vector a queue has */
#define MEMORY 0x0200             /* the mailbox's 16 words */
#define MAILBOX 0x02FC
#define MAILBOX_REQUEST (1u << 0) /* there is a message for the physical function */
#define MAILBOX_TAKEN (1u << 1)   /* its message has been read */
#define MAILBOX_OURS (1u << 2)    /* the words are ours, as long as this stays */
#define MAILBOX_MESSAGE (1u << 4) /* there is a message for us */
#define MAILBOX_READ (1u << 5)    /* ours has been read */
#define MAILBOX_RESETS (3u << 6)  /* the physical function resets, has reset */
#define MAILBOX_CLEARED (MAILBOX_MESSAGE | MAILBOX_READ | 1u << 7) /* by reading the register */

/* Messages: their first word. */
#define RESET 0x01u
#define NEGOTIATE 0x08u
#define GRANTED (1u << 31)
#define CLEAR_TO_SEND (1u << 29)  /* in an answer: the physical function takes more than RESET */

#define PATIENCE 10000u

static const struct ixgbe_places places = {.receive = 0x1000, .transmit = 0x2000, .enable = EIMS};

static volatile u8 *registers;
static u32 seen; /* bits of MAILBOX that reading has cleared */
static struct nic nic;

static u32 get(u32 offset) { return arch_register_read(registers + offset); }
static void set(u32 offset, u32 value) { arch_register_write(registers + offset, value); }

/* Waits for one of these bits of the mailbox, and takes it as seen. */
static bool mailbox_wait(u32 bits)
{
    for (u32 looks = 0; looks < PATIENCE; looks++) {
        u32 now = get(MAILBOX);
        if (now == IXGBE_NO_CARD)
            return false;
        seen |= now & MAILBOX_CLEARED;
        if ((now | seen) & bits) {
            seen &= ~bits;
            return true;
        }
    }
    return false;
}

static bool mailbox_take(void)
{
    for (u32 looks = 0; looks < PATIENCE; looks++) {
        set(MAILBOX, MAILBOX_OURS);
        u32 now = get(MAILBOX);
        if (now == IXGBE_NO_CARD)
            return false;
        seen |= now & MAILBOX_CLEARED;
        if (now & MAILBOX_OURS)
            return true;
    }
    return false;
}

/* Sends `words` and gets as many back, the answer. False: there is none, or the request was refused. */
static bool ask(u32 *message, u32 words)
{
    u32 request = message[0];
    if (!mailbox_take())
        return false;
    seen = 0;
    for (u32 i = 0; i < words; i++)
        set(MEMORY + 4 * i, message[i]);
    set(MAILBOX, MAILBOX_REQUEST);
    if (!mailbox_wait(MAILBOX_READ) || !mailbox_wait(MAILBOX_MESSAGE) || !mailbox_take())
        return false;
    for (u32 i = 0; i < words; i++)
        message[i] = get(MEMORY + 4 * i);
    set(MAILBOX, MAILBOX_TAKEN);
    return (message[0] & ~CLEAR_TO_SEND) == (request | GRANTED);
}

/* From whatever state it is in to one in which its queues can be set up. The answer to a reset is our address. */
static bool reset(void)
{
    u32 message[4] = {RESET};
    set(EIMC, ALL_CAUSES);
    get(EICR);
    set(CONTROL, IXGBE_RESET);
    if (!mailbox_wait(MAILBOX_RESETS) || !ask(message, 4))
        return false;
    memcpy(nic.address, &message[1], ETHERNET_ADDRESS);
    return true;
}

/* The newest version of the messages that both know. Without one, the physical function still takes the oldest. */
static void negotiate(void)
{
    static const u32 versions[] = {2 /* 1.1 */, 0 /* 1.0 */};
    for (u32 i = 0; i < sizeof versions / sizeof *versions; i++) {
        u32 message[2] = {NEGOTIATE, versions[i]};
        if (ask(message, 2))
            return;
    }
}

static void take_interrupts(void)
{
    set(IVAR, IXGBE_IVAR_QUEUES);
    set(EIAC, IXGBE_CAUSE);
    set(EIAM, IXGBE_CAUSE);
    set(EIMS, IXGBE_CAUSE);
}

/* Starts again if the owner has reset the card. What the rings held is lost. */
static void watch(void)
{
    u32 now = get(MAILBOX);
    if (now == IXGBE_NO_CARD || !((now | seen) & MAILBOX_RESETS) || !reset())
        return;
    negotiate();
    if (ixgbe_restart_queues())
        take_interrupts();
}

struct nic *ixgbevf_find(void)
{
    const struct pci_function *card = pci_find(VENDOR_INTEL, DEVICE_82599_VF);
    if (!card || !pci_bar(card, 0))
        return NULL;
    pci_enable(card);
    registers = arch_map_device(pci_bar(card, 0), REGISTERS_SIZE);
    if (!reset())
        return NULL;
    negotiate();
    if (!ixgbe_start_queues(registers, &places, &nic))
        return NULL;

    u32 data = arch_message_connect(ixgbe_interrupt);
    if (!pci_message_enable(card, IXGBE_VECTOR, arch_message_address(), data))
        return NULL;
    take_interrupts();
    nic.watch = watch;
    nic.name = "82599 virtual function";
    return &nic;
}

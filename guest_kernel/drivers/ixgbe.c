/* Intel's 82599, a 10-gigabit Ethernet controller (82599 10 GbE Controller Datasheet, 331520): its physical function, for
   whoever has the whole card. In the order of 4.6.3: reset, link, receiving, sending, interrupts.
   Simplified: no flow control, no VLANs, no virtual functions; the link is as the card's EEPROM sets it up. */
#include "arch.h"
#include "ixgbe_queues.h"
#include "pci.h"
#include "string.h"

#define DEVICE_82599 0x10FB
#define REGISTERS_SIZE 0x20000

#define CTRL 0x00000
#define CTRL_EXT 0x00018
#define CTRL_EXT_NO_SNOOP_OFF (1u << 16)
#define CTRL_EXT_DRIVER (1u << 28)    /* a driver has the card */
#define EICR 0x00800                  /* causes of interrupts */
#define EIAC 0x00810                  /* a one: the message clears the cause, */
#define EIAM 0x00890                  /* and masks it */
#define EIMS 0x00880                  /* a one lets a cause interrupt */
#define EIMC 0x00888                  /* a one masks it */
#define EIMC_EX(n) (0x00AB0 + 4 * (n))
#define ALL_CAUSES 0x7FFFFFFFu
#define GPIE 0x00898                  /* how it interrupts: */
#define GPIE_MSIX (1u << 4 | 1u << 31) /* several vectors, a pending bit for each */
#define GPIE_AUTO_MASK (1u << 30)     /* EIAM counts for messages too */
#define IVAR 0x00900                  /* which vector a queue has */
#define RDRXCTL 0x02F00
#define RDRXCTL_STRIP_FCS (1u << 1)   /* as in HLREG0 */
#define RDRXCTL_DMA_READY (1u << 3)
#define RXCTRL 0x03000
#define RXCTRL_ENABLE 1u
#define HLREG0 0x04240
#define HLREG0_FRAMES (1u << 0 | 1u << 1 | 1u << 10) /* append the FCS, strip it, pad short frames */
#define AUTOC 0x042A0
#define AUTOC_RESTART (1u << 12)
#define DMATXCTL 0x04A80
#define DMATXCTL_ENABLE 1u
#define FCTRL 0x05080
#define FCTRL_BROADCAST (1u << 10)
#define MULTICAST_TABLE 0x05200
#define MULTICAST_WORDS 128
#define ADDRESS_LOW 0x0A200           /* from the card's EEPROM */
#define ADDRESS_HIGH 0x0A204
#define SECRXCTRL 0x08D00             /* the way in, which must be empty when receiving begins (4.6.7) */
#define SECRXCTRL_HALT (1u << 1)
#define SECRXSTAT 0x08D04
#define SECRXSTAT_EMPTY 1u
#define EEC 0x10010
#define EEC_READ (1u << 9)            /* the EEPROM has been read after the reset */

static const struct ixgbe_places places = {.receive = 0x1000, .transmit = 0x6000, .enable = EIMS};

static volatile u8 *registers;
static struct nic nic;

static u32 get(u32 offset) { return arch_register_read(registers + offset); }
static void set(u32 offset, u32 value) { arch_register_write(registers + offset, value); }

static void mask_interrupts(void)
{
    set(EIMC, ALL_CAUSES);
    set(EIMC_EX(0), ~0u);
    set(EIMC_EX(1), ~0u);
    get(EICR);
}

static bool reset(void)
{
    mask_interrupts();
    set(CTRL, get(CTRL) | IXGBE_RESET);
    if (!ixgbe_wait(registers, CTRL, IXGBE_RESET, 0))
        return false;
    mask_interrupts();
    return ixgbe_wait(registers, EEC, EEC_READ, EEC_READ) &&
           ixgbe_wait(registers, RDRXCTL, RDRXCTL_DMA_READY, RDRXCTL_DMA_READY);
}

/* What comes in: frames for our address, and broadcasts. */
static void set_filters(void)
{
    u32 address[2] = {get(ADDRESS_LOW), get(ADDRESS_HIGH)};
    memcpy(nic.address, address, sizeof nic.address);
    for (u32 i = 0; i < MULTICAST_WORDS; i++)
        set(MULTICAST_TABLE + 4 * i, 0);
    set(FCTRL, get(FCTRL) | FCTRL_BROADCAST);
}

static bool start_receiving(void)
{
    set(SECRXCTRL, get(SECRXCTRL) | SECRXCTRL_HALT);
    bool empty = ixgbe_wait(registers, SECRXSTAT, SECRXSTAT_EMPTY, SECRXSTAT_EMPTY);
    set(RXCTRL, get(RXCTRL) | RXCTRL_ENABLE);
    set(SECRXCTRL, get(SECRXCTRL) & ~SECRXCTRL_HALT);
    return empty;
}

struct nic *ixgbe_find(void)
{
    const struct pci_function *card = pci_find(VENDOR_INTEL, DEVICE_82599);
    if (!card || !pci_bar(card, 0))
        return NULL;
    pci_enable(card);
    registers = arch_map_device(pci_bar(card, 0), REGISTERS_SIZE);
    if (!reset())
        return NULL;
    set(CTRL_EXT, get(CTRL_EXT) | CTRL_EXT_NO_SNOOP_OFF | CTRL_EXT_DRIVER);
    set(AUTOC, get(AUTOC) | AUTOC_RESTART);
    set_filters();

    set(HLREG0, get(HLREG0) | HLREG0_FRAMES);
    set(RDRXCTL, get(RDRXCTL) | RDRXCTL_STRIP_FCS);
    set(DMATXCTL, get(DMATXCTL) | DMATXCTL_ENABLE);
    if (!ixgbe_start_queues(registers, &places, &nic) || !start_receiving())
        return NULL;

    u32 data = arch_message_connect(ixgbe_interrupt);
    if (!pci_message_enable(card, IXGBE_VECTOR, arch_message_address(), data))
        return NULL;
    set(GPIE, GPIE_MSIX | GPIE_AUTO_MASK);
    set(IVAR, IXGBE_IVAR_QUEUES);
    set(EIAC, IXGBE_CAUSE);
    set(EIAM, IXGBE_CAUSE);
    set(EIMS, IXGBE_CAUSE);
    nic.name = "82599";
    return &nic;
}

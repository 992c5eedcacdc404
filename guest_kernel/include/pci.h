/* PCI: what functions there are, and their configuration registers. */
#pragma once

#include "types.h"

#define PCI_BAR(number) (0x10u + 4 * (number))
#define PCI_COMMAND 0x04
#define PCI_COMMAND_IO 1
#define PCI_COMMAND_MEMORY 2
#define PCI_COMMAND_MASTER 4
#define PCI_MOST_FUNCTIONS 32

struct pci_function {
    u8 device, function;
    u16 vendor, id;
    u32 class; /* class, subclass and programming interface, 8 bits each */
    u8 pin;    /* 0: it does not interrupt */
    u8 line;   /* where its interrupt arrives, as the firmware has routed it: level-triggered */
};

/* Finds all functions; returns how many. */
u32 pci_scan(void);
/* The n-th of them, or NULL. */
const struct pci_function *pci_function(u32 n);
/* The first with these numbers, or NULL. */
const struct pci_function *pci_find(u16 vendor, u16 id);

u32 pci_read(const struct pci_function *f, u32 offset); /* 32 bits, at a multiple of 4 */
void pci_write(const struct pci_function *f, u32 offset, u32 value);
/* Physical address, or port, of base address register n; 0 if it has none. */
u64 pci_bar(const struct pci_function *f, u32 n);
/* Lets it answer at its addresses and be bus master. */
void pci_enable(const struct pci_function *f);
/* MSI-X: lets it send `data` to `address` for its interrupt number `vector`. False: it cannot. */
bool pci_message_enable(const struct pci_function *f, u32 vector, u64 address, u32 data);

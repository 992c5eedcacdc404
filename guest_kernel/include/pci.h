/* PCI: finding a card and talking to its configuration space. */
#pragma once

#include "types.h"

#define PCI_COMMAND 0x04
#define PCI_COMMAND_IO 0x1
#define PCI_COMMAND_MEMORY 0x2
#define PCI_COMMAND_MASTER 0x4
#define PCI_BAR(number) (0x10u + 4 * (number))
#define PCI_INTERRUPT_LINE 0x3C

/* A function of a card; 0, the host bridge, stands for "none". */
typedef u32 pci_function;

pci_function pci_find(u16 vendor, u16 device);
u32 pci_read(pci_function function, u32 offset);
void pci_write(pci_function function, u32 offset, u32 value);
void pci_enable(pci_function function, u32 command);
u64 pci_bar(pci_function function, u32 number);
u32 pci_irq(pci_function function);
bool pci_message_enable(pci_function function, u32 vector, u64 address, u32 data);

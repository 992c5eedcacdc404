/* PCI by configuration mechanism #1: an address goes to one port, data through another.
   Simplified: bus 0 only, memory windows of 32 bits. The firmware gives cards their places; where there was none, the
   kernel gives places to those that it drives. */
#include "pci.h"

#include "arch.h"

#define CONFIG_ADDRESS 0xCF8
#define CONFIG_ENABLE 0x80000000u
#define CONFIG_DATA 0xCFC

#define SLOTS 32
#define FUNCTIONS 8
#define VENDOR_NONE 0xFFFF
#define HEADER_TYPE 0x0E            /* in the upper half of the word at 0x0C */
#define HEADER_MULTIFUNCTION 0x80u
#define BAR_ADDRESS 0xFFFFFFF0u

#define CAPABILITIES 0x34
#define CAPABILITY_MSIX 0x11
#define MSIX_ENABLE (1u << 31)      /* in the capability's first word */
#define MSIX_TABLE 4                /* where the table is: window in bits 2:0, offset above */
#define MSIX_ENTRY 16               /* bytes: address, data, mask */

/* For machines without firmware. */
#define WINDOW_START 0xFE000000u
#define ISA_BRIDGE (1u << 11)       /* 00:01.0 */
#define PIRQ_ROUTE 0x60             /* a byte for each of its four wires */
#define SPARE_IRQ 11

u32 pci_read(pci_function function, u32 offset)
{
    arch_io_write32(CONFIG_ADDRESS, CONFIG_ENABLE | function | (offset & ~3u));
    return arch_io_read32(CONFIG_DATA);
}

void pci_write(pci_function function, u32 offset, u32 value)
{
    arch_io_write32(CONFIG_ADDRESS, CONFIG_ENABLE | function | (offset & ~3u));
    arch_io_write32(CONFIG_DATA, value);
}

/* The first function with this name; 0 if there is none. */
pci_function pci_find(u16 vendor, u16 device)
{
    for (u32 slot = 1; slot < SLOTS; slot++) {
        u32 functions = 1;
        for (u32 number = 0; number < functions; number++) {
            pci_function function = slot << 11 | number << 8;
            u32 name = pci_read(function, 0);
            if ((u16)name == VENDOR_NONE)
                continue;
            if (name == ((u32)device << 16 | vendor))
                return function;
            if (number == 0 && (pci_read(function, HEADER_TYPE) >> 16 & HEADER_MULTIFUNCTION))
                functions = FUNCTIONS;
        }
    }
    return 0;
}

/* Gives the card a place and an interrupt, as firmware would. */
static void assign(pci_function function)
{
    static u32 next = WINDOW_START;
    pci_write(function, PCI_BAR(0), 0xFFFFFFFF);
    u32 size = ~(pci_read(function, PCI_BAR(0)) & BAR_ADDRESS) + 1;
    next = (u32)round_up(next, size);
    pci_write(function, PCI_BAR(0), next);
    next += size;

    u32 pin = pci_read(function, PCI_INTERRUPT_LINE) >> 8 & 0xFF;
    if (!pin)
        return;
    u32 wire = (pin - 1 + (function >> 11) - 1) % 4;
    u32 route = pci_read(ISA_BRIDGE, PIRQ_ROUTE) & ~(0xFFu << 8 * wire);
    pci_write(ISA_BRIDGE, PIRQ_ROUTE, route | SPARE_IRQ << 8 * wire);
    pci_write(function, PCI_INTERRUPT_LINE, SPARE_IRQ);
}

/* Lets the card answer, and read and write memory by itself, as far as `command` says. */
void pci_enable(pci_function function, u32 command)
{
    if (!pci_bar(function, 0))
        assign(function);
    pci_write(function, PCI_COMMAND, (pci_read(function, PCI_COMMAND) & 0xFFFF) | command);
}

/* Where a memory window is. */
u64 pci_bar(pci_function function, u32 number) { return pci_read(function, PCI_BAR(number)) & BAR_ADDRESS; }

u32 pci_irq(pci_function function) { return pci_read(function, PCI_INTERRUPT_LINE) & 0xFF; }

/* The offset of a capability; 0: the card does not have it. */
static u32 find_capability(pci_function function, u8 id)
{
    u32 at = pci_read(function, CAPABILITIES) & 0xFC;
    for (u32 looks = 0; at && looks < 48; looks++) {
        u32 head = pci_read(function, at);
        if ((u8)head == id)
            return at;
        at = head >> 8 & 0xFC;
    }
    return 0;
}

/* MSI-X: lets the card send `data` to `address` for its interrupt number `vector`. */
bool pci_message_enable(pci_function function, u32 vector, u64 address, u32 data)
{
    u32 capability = find_capability(function, CAPABILITY_MSIX);
    if (!capability || vector > (pci_read(function, capability) >> 16 & 0x7FF))
        return false;
    u32 table = pci_read(function, capability + MSIX_TABLE);
    u64 entry = pci_bar(function, table & 7) + (table & ~7u) + vector * MSIX_ENTRY;
    u8 *registers = (u8 *)arch_map_device(entry & ~(PAGE_SIZE - 1), PAGE_SIZE) + entry % PAGE_SIZE;
    arch_register_write(registers, (u32)address);
    arch_register_write(registers + 4, (u32)(address >> 32));
    arch_register_write(registers + 8, data);
    arch_register_write(registers + 12, 0);
    pci_write(function, capability, pci_read(function, capability) | MSIX_ENABLE);
    return true;
}

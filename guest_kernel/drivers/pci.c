/* PCI configuration by mechanism #1, ports 0xCF8 and 0xCFC. The firmware has placed and routed everything.
   Simplified: one bus. */
#include "pci.h"

#include "arch.h"
#include "syscall.h"

#define CONFIG_ADDRESS 0xCF8
#define CONFIG_DATA 0xCFC
#define CONFIG_ENABLE 0x80000000u

#define VENDOR 0x00
#define CLASS 0x08 /* revision in bits 0 to 7 */
#define HEADER 0x0C
#define MULTIFUNCTION 0x800000
#define BAR_IO 1
#define BAR_64 4
#define INTERRUPT 0x3C

#define DEVICES 32
#define NOBODY 0xFFFFFFFF

static struct pci_function functions[PCI_MOST_FUNCTIONS];
static u32 count;

static u32 config_select(u32 device, u32 function, u32 offset)
{
    arch_io_write32(CONFIG_ADDRESS, CONFIG_ENABLE | device << 11 | function << 8 | offset);
    return CONFIG_DATA;
}

u32 pci_read(const struct pci_function *f, u32 offset)
{
    return arch_io_read32(config_select(f->device, f->function, offset));
}

void pci_write(const struct pci_function *f, u32 offset, u32 value)
{
    arch_io_write32(config_select(f->device, f->function, offset), value);
}

/* Looks at one place; false if nobody is there. */
static bool look(struct pci_function *f)
{
    u32 id = pci_read(f, VENDOR);
    if (id == NOBODY)
        return false;
    u32 interrupt = pci_read(f, INTERRUPT);
    f->vendor = (u16)id;
    f->id = (u16)(id >> 16);
    f->class = pci_read(f, CLASS) >> 8;
    f->line = (u8)interrupt;
    f->pin = (u8)(interrupt >> 8);
    return true;
}

u32 pci_scan(void)
{
    count = 0;
    if (!arch_has_pci())
        return 0;
    for (u32 device = 0; device < DEVICES; device++) {
        u32 last = 0;
        for (u32 function = 0; function <= last && count < PCI_MOST_FUNCTIONS; function++) {
            struct pci_function *f = &functions[count];
            f->device = (u8)device;
            f->function = (u8)function;
            if (!look(f))
                continue;
            if (function == 0 && pci_read(f, HEADER) & MULTIFUNCTION)
                last = 7;
            count++;
        }
    }
    return count;
}

const struct pci_function *pci_function(u32 n) { return n < count ? &functions[n] : NULL; }

const struct pci_function *pci_find(u16 vendor, u16 id)
{
    for (u32 i = 0; i < count; i++)
        if (functions[i].vendor == vendor && functions[i].id == id)
            return &functions[i];
    return NULL;
}

u64 pci_bar(const struct pci_function *f, u32 n)
{
    u32 low = pci_read(f, PCI_BAR(n));
    if (low & BAR_IO)
        return low & ~3u;
    u64 high = low & BAR_64 ? pci_read(f, PCI_BAR(n + 1)) : 0;
    return high << 32 | (low & ~15u);
}

void pci_enable(const struct pci_function *f)
{
    u32 command = pci_read(f, PCI_COMMAND) & 0xFFFF; /* zeros leave the status bits above as they are */
    pci_write(f, PCI_COMMAND, command | PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

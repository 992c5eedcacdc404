/* PCI: finds the functions, sizes their windows, gives each an address, routes the interrupt wires.
   Simplified: one bus; windows of 64-bit memory are placed below 4 GiB like the others. */
#include "firmware.h"

#define CONFIG_ADDRESS 0xCF8
#define CONFIG_DATA 0xCFC

#define VENDOR 0x00
#define COMMAND 0x04
#define COMMAND_IO 1
#define PIIX3_IDE 0x70108086
#define PIIX3_IDE_TIMING 0x40         /* two channels, 16 bits each */
#define PIIX3_IDE_DECODE 0x80008000u  /* both channels answer */
#define COMMAND_MEMORY 2
#define CLASS 0x08
#define HEADER 0x0C /* header type in bits 16 to 23 */
#define MULTIFUNCTION 0x800000
#define BAR(n) (0x10 + 4 * (n))
#define BARS 6
#define BAR_IO 1
#define BAR_64 4
#define INTERRUPT 0x3C /* line in bits 0 to 7, pin in 8 to 15 */

#define ISA_BRIDGE 1       /* device 1, function 0: PIIX3 */
#define PIRQ_ROUTE 0x60    /* four bytes, one a wire */
#define ELCR_SLAVE 0x4D1   /* edge or level: IRQ 8 to 15 */

#define FIRST_PORT 0xC000u
#define MEMORY_TOP 0xFEC00000u /* the I/O APIC; windows go downwards from here */
#define MEMORY_END 0xE0000000u

static const u8 irqs[4] = {10, 10, 11, 11}; /* of PIRQA to PIRQD */

static u32 next_port = FIRST_PORT, next_memory = MEMORY_TOP;

static u32 address(u32 device, u32 function, u32 offset)
{
    return 1u << 31 | device << 11 | function << 8 | offset;
}

static u32 read(u32 device, u32 function, u32 offset)
{
    outl(CONFIG_ADDRESS, address(device, function, offset));
    return inl(CONFIG_DATA);
}

static void write(u32 device, u32 function, u32 offset, u32 value)
{
    outl(CONFIG_ADDRESS, address(device, function, offset));
    outl(CONFIG_DATA, value);
}

u32 pci_irq(u32 device, u32 pin) { return irqs[(device - 1 + pin - 1) & 3]; }

/* Sizes one window and places it. Returns which kind of decoding it needs. */
static u32 place(u32 device, u32 function, u32 bar)
{
    u32 before = read(device, function, bar);
    write(device, function, bar, 0xFFFFFFFF);
    u32 sized = read(device, function, bar);
    write(device, function, bar, before);
    if (!sized)
        return 0;
    if (sized & BAR_IO) {
        u32 size = -(sized & ~3u) & 0xFFFF;
        next_port = (next_port + size - 1) & -size;
        if (next_port + size > 0x10000)
            give_up("no room for a PCI card's ports");
        write(device, function, bar, next_port);
        next_port += size;
        return COMMAND_IO;
    }
    u32 size = -(sized & ~15u);
    if (size > next_memory - MEMORY_END)
        give_up("no room for a PCI card's memory");
    next_memory = (next_memory - size) & -size;
    write(device, function, bar, next_memory);
    if (sized & BAR_64)
        write(device, function, bar + 4, 0);
    return COMMAND_MEMORY;
}

static void set_up(u32 device, u32 function)
{
    u32 command = read(device, function, COMMAND) & 0xFFFF;
    write(device, function, COMMAND, command & ~(COMMAND_IO | COMMAND_MEMORY));
    for (u32 n = 0; n < BARS; n++) {
        u32 kind = place(device, function, BAR(n));
        command |= kind;
        if (kind == COMMAND_MEMORY && read(device, function, BAR(n)) & BAR_64)
            n++;
    }
    if (read(device, function, CLASS) >> 16 == 0x0101)
        command |= COMMAND_IO; /* an IDE controller also answers at the ports of the AT */
    if (read(device, function, VENDOR) == PIIX3_IDE)
        write(device, function, PIIX3_IDE_TIMING, PIIX3_IDE_DECODE);
    write(device, function, COMMAND, command);
    u32 pin = read(device, function, INTERRUPT) >> 8 & 0xFF;
    if (pin)
        write(device, function, INTERRUPT, pci_irq(device, pin));
}

u32 init_pci(void)
{
    u32 found = 0;
    for (u32 device = 0; device < 32; device++) {
        if (read(device, 0, VENDOR) == 0xFFFFFFFF)
            continue;
        u32 functions = read(device, 0, HEADER) & MULTIFUNCTION ? 8 : 1;
        for (u32 function = 0; function < functions; function++) {
            if (read(device, function, VENDOR) == 0xFFFFFFFF)
                continue;
            set_up(device, function);
            found++;
        }
    }
    write(ISA_BRIDGE, 0, PIRQ_ROUTE, irqs[0] | irqs[1] << 8 | irqs[2] << 16 | irqs[3] << 24);
    outb(ELCR_SLAVE, 1 << (irqs[0] - 8) | 1 << (irqs[2] - 8)); /* PCI's wires are level-triggered */
    return found;
}

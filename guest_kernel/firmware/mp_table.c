/* The MP table (MultiProcessor Specification 1.4): what CPUs there are, and how interrupts reach them. */
#include "firmware.h"

#define LOCAL_APIC 0xFEE00000u
#define IO_APIC 0xFEC00000u
#define APIC_VERSION 0x10
#define IO_APIC_VERSION 0x11
#define ENABLED 1
#define BOOTSTRAP 2
#define MOST_CPUS 8
#define BUS_PCI 0
#define BUS_ISA 1
#define TIMER_PIN 2      /* IRQ 0 of the ISA bus */
#define LEVEL_LOW 0xF    /* how PCI interrupts: active low, level */
#define ALL_APICS 0xFF
#define TEXT __attribute__((nonstring)) /* no zero at its end */

enum entry { PROCESSOR, BUS, IO_APIC_ENTRY, IO_INTERRUPT, LOCAL_INTERRUPT };
enum kind { VECTORED, NMI, SMI, EXTINT };

struct floating_pointer {
    u8 signature[4] TEXT;
    u32 table;
    u8 length, revision, checksum, features[5];
} __attribute__((packed));

struct header {
    u8 signature[4] TEXT;
    u16 length;
    u8 revision, checksum, maker[8] TEXT, product[12] TEXT;
    u32 oem_table;
    u16 oem_size, entries;
    u32 local_apic, extended;
} __attribute__((packed));

/* Found by its signature on a 16-byte boundary of the ROM. */
static struct {
    struct floating_pointer pointer __attribute__((aligned(16)));
    u8 table[sizeof(struct header) + 20 * MOST_CPUS + 8 * 64];
} mp;

static u8 *next;
static u16 entries;

static u8 checksum(const void *from, u32 size)
{
    u8 sum = 0;
    for (u32 i = 0; i < size; i++)
        sum += ((const u8 *)from)[i];
    return (u8)-sum;
}

static void add(const void *entry, u32 size)
{
    copy(next, entry, size);
    next += size;
    entries++;
}

static void add_interrupt(enum entry entry, enum kind kind, u8 flags, u8 bus, u8 irq, u8 apic, u8 pin)
{
    const u8 bytes[8] = {(u8)entry, (u8)kind, flags, 0, bus, irq, apic, pin};
    add(bytes, sizeof bytes);
}

void write_mp_table(u32 cpus)
{
    struct header header = {"PCMP", 0, 4, 0, "HVLADDER", "HV FIRMWARE ", 0, 0, 0, LOCAL_APIC, 0};
    u8 io_apic = (u8)cpus;
    cpus = cpus < MOST_CPUS ? cpus : MOST_CPUS;
    next = mp.table + sizeof header;
    for (u32 i = 0; i < cpus; i++) {
        const u8 processor[20] = {PROCESSOR, (u8)i, APIC_VERSION, ENABLED | (i ? 0 : BOOTSTRAP), 0, 6, 0, 0, 1, 2};
        add(processor, sizeof processor);
    }
    add((const u8[8]){BUS, BUS_PCI, 'P', 'C', 'I', ' ', ' ', ' '}, 8);
    add((const u8[8]){BUS, BUS_ISA, 'I', 'S', 'A', ' ', ' ', ' '}, 8);
    add((const u8[8]){IO_APIC_ENTRY, io_apic, IO_APIC_VERSION, ENABLED, 0, 0, 0xC0, 0xFE}, 8);
    add_interrupt(IO_INTERRUPT, EXTINT, 0, BUS_ISA, 0, io_apic, 0);
    for (u8 irq = 0; irq < 16; irq++)
        if (irq != 2 && irq != 10 && irq != 11)
            add_interrupt(IO_INTERRUPT, VECTORED, 0, BUS_ISA, irq, io_apic, irq ? irq : TIMER_PIN);
    for (u8 device = 1; device < 8; device++)
        for (u8 pin = 0; pin < 4; pin++)
            add_interrupt(IO_INTERRUPT, VECTORED, LEVEL_LOW, BUS_PCI, (u8)(device << 2 | pin), io_apic,
                          (u8)pci_irq(device, pin + 1u));
    add_interrupt(LOCAL_INTERRUPT, EXTINT, 0, BUS_ISA, 0, 0, 0);
    add_interrupt(LOCAL_INTERRUPT, NMI, 0, BUS_ISA, 0, ALL_APICS, 1);
    header.length = (u16)(next - mp.table);
    header.entries = entries;
    copy(mp.table, &header, sizeof header);
    ((struct header *)mp.table)->checksum = checksum(mp.table, header.length);

    struct floating_pointer pointer = {"_MP_", (u32)mp.table, 1, 4, 0, {0}};
    pointer.checksum = checksum(&pointer, sizeof pointer);
    copy(&mp.pointer, &pointer, sizeof pointer);
    *(volatile u32 *)IO_APIC = 0; /* its register 0 is its number */
    *(volatile u32 *)(IO_APIC + 0x10) = (u32)io_apic << 24;
}

/* The local APIC in xAPIC mode, with its timer as the tick, and the I/O APIC with the serial port's line.
   Simplified: the timer is not calibrated, and devices are where a PC has them, not where ACPI says. */
#include "apic.h"

#include "arch.h"
#include "console.h"
#include "traps.h"

/* Local APIC registers, as offsets. */
#define APIC_ID 0x020            /* bits 31-24 */
#define APIC_TASK_PRIORITY 0x080
#define APIC_EOI 0x0B0           /* a write ends the interrupt in service */
#define APIC_SPURIOUS 0x0F0
#define APIC_ENABLE 0x100        /* in APIC_SPURIOUS */
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350     /* the 8259's line */
#define APIC_LVT_LINT1 0x360     /* NMI */
#define APIC_LVT_ERROR 0x370
#define APIC_MASKED 0x10000      /* in an LVT entry */
#define APIC_PERIODIC 0x20000    /* in APIC_LVT_TIMER */
#define APIC_TIMER_COUNT 0x380   /* initial count: a write starts the timer, 0 stops it */
#define APIC_TIMER_DIVIDE 0x3E0
#define APIC_DIVIDE_BY_16 0x3

#define TICK_COUNT 15625 /* 10 ms at divider 16, if the timer's clock is 25 MHz; a later version calibrates */

/* I/O APIC: a register is chosen by its number, then read or written through the window. */
#define IO_APIC_ADDRESS 0xFEC00000ul
#define IO_APIC_SELECT 0x00
#define IO_APIC_WINDOW 0x10
#define IO_APIC_REDIRECTION(line) (0x10 + 2 * (line)) /* low half; the high half follows */

#define IO_APIC_LEVEL 0x8000       /* in a redirection entry */

#define MESSAGES 0xFEE00000u       /* bits 19:12: the destination */

#define LINE_SERIAL 4 /* COM1 */

static u32 apic_read(u32 offset) { return *(volatile u32 *)(SLOT_LOCAL_APIC + offset); }
static void apic_write(u32 offset, u32 value) { *(volatile u32 *)(SLOT_LOCAL_APIC + offset) = value; }

static void io_apic_write(u32 number, u32 value)
{
    *(volatile u32 *)(SLOT_IO_APIC + IO_APIC_SELECT) = number;
    *(volatile u32 *)(SLOT_IO_APIC + IO_APIC_WINDOW) = value;
}

/* Active high, fixed delivery to this CPU, not masked: all of these are zeros, as is edge-triggered. */
static void io_apic_route(u32 line, u32 vector)
{
    io_apic_write(IO_APIC_REDIRECTION(line) + 1, apic_read(APIC_ID));
    io_apic_write(IO_APIC_REDIRECTION(line), vector);
}

/* A device's line, level-triggered: it stays up until the handler has seen to what the device wants. */
static void (*device_handler[DEVICE_LINES + DEVICE_MESSAGES])(void);

void arch_irq_connect(u32 line, void (*handler)(void))
{
    if (line >= DEVICE_LINES)
        panic("no interrupt line %u", line);
    device_handler[line] = handler;
    io_apic_route(line, IO_APIC_LEVEL | (VECTOR_DEVICES + line));
}

/* An interrupt that a card sends by writing to memory: it has no line, and is an edge. Returns what the card writes. */
u32 arch_message_connect(void (*handler)(void))
{
    static u32 next = DEVICE_LINES;
    if (next == DEVICE_LINES + DEVICE_MESSAGES)
        panic("no interrupt vector is left for a card");
    device_handler[next] = handler;
    return VECTOR_DEVICES + next++;
}

/* And where: at this CPU's local APIC. */
u64 arch_message_address(void) { return MESSAGES | apic_read(APIC_ID) >> 24 << 12; }

void apic_device_interrupt(u32 line)
{
    device_handler[line]();
    apic_end_of_interrupt();
}

static void map_device(u64 slot, u64 physical)
{
    pte_write(arch_leaf_slot(cpu_read_cr3(), slot, true),
              pte_make(physical, PROT_READ | PROT_WRITE) | PTE_CACHE_OFF);
}

/* Makes a device's registers readable and writable. Returns where. */
void *arch_map_device(u64 physical, u64 size)
{
    static u64 next = SLOT_DEVICES;
    u64 slot = next;
    for (u64 at = 0; at < size; at += PAGE_SIZE)
        map_device(slot + at, physical + at);
    next += round_up(size, PAGE_SIZE);
    return (void *)slot;
}

void arch_interrupts_init(void)
{
    map_device(SLOT_LOCAL_APIC, cpu_read_msr(MSR_APIC_BASE) & PTE_ADDRESS);
    map_device(SLOT_IO_APIC, IO_APIC_ADDRESS);

    apic_write(APIC_TASK_PRIORITY, 0);
    apic_write(APIC_LVT_LINT0, APIC_MASKED); /* which also silences the 8259s */
    apic_write(APIC_LVT_LINT1, APIC_MASKED);
    apic_write(APIC_LVT_ERROR, APIC_MASKED);
    apic_write(APIC_SPURIOUS, APIC_ENABLE | VECTOR_SPURIOUS);
    apic_write(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_16);
    apic_write(APIC_LVT_TIMER, APIC_PERIODIC | VECTOR_TIMER);
    io_apic_route(LINE_SERIAL, VECTOR_SERIAL);
}

void apic_end_of_interrupt(void) { apic_write(APIC_EOI, 0); }

void arch_tick_start(void) { apic_write(APIC_TIMER_COUNT, TICK_COUNT); }
void arch_tick_stop(void) { apic_write(APIC_TIMER_COUNT, 0); }

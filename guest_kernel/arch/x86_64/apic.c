/* The local APIC in xAPIC mode, with its timer as the tick, and the I/O APIC with the lines of the devices.
   Simplified: the APICs are where a PC has them, not where ACPI says. */
#include "apic.h"

#include "arch.h"
#include "clock.h"
#include "console.h"
#include "traps.h"

/* Local APIC registers, as offsets. */
#define APIC_ID 0x020            /* bits 31-24 */
#define APIC_TASK_PRIORITY 0x080
#define APIC_EOI 0x0B0           /* a write ends the interrupt in service */
#define APIC_SPURIOUS 0x0F0
#define APIC_ENABLE 0x100        /* in APIC_SPURIOUS */
#define APIC_COMMAND 0x300       /* a write sends an interrupt */
#define APIC_DESTINATION 0x310   /* bits 31-24: the APIC that it is for */
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350     /* the 8259's line */
#define APIC_LVT_LINT1 0x360     /* NMI */
#define APIC_LVT_ERROR 0x370
#define APIC_MASKED 0x10000      /* in an LVT entry */
#define APIC_PERIODIC 0x20000    /* in APIC_LVT_TIMER */
#define APIC_TIMER_COUNT 0x380   /* initial count: a write starts the timer, 0 stops it */
#define APIC_TIMER_CURRENT 0x390
#define APIC_TIMER_DIVIDE 0x3E0
#define APIC_DIVIDE_BY_16 0x3

#define TICKS_A_SECOND 100
#define SHOT_MICROSECONDS 10

#define PIC_MASTER_MASK 0x21
#define PIC_SLAVE_MASK 0xA1

/* I/O APIC: a register is chosen by its number, then read or written through the window. */
#define IO_APIC_ADDRESS 0xFEC00000ul
#define IO_APIC_SELECT 0x00
#define IO_APIC_WINDOW 0x10
#define IO_APIC_REDIRECTION(line) (0x10 + 2 * (line)) /* low half; the high half follows */

#define IO_APIC_LEVEL_LOW 0xA000 /* how PCI interrupts: level-triggered, active low */
#define LINES 16

#define MESSAGES 0xFEE00000u       /* where cards send theirs; bits 19:12: the destination, or Xen's pirq */
#define MOST_MESSAGES 16

static u32 shot; /* counts of SHOT_MICROSECONDS */
static u64 timer_hz; /* of the local APIC's timer behind its divider */
static void (*line_handler[LINES + MOST_MESSAGES])(void);

static u32 apic_read(u32 offset) { return *(volatile u32 *)(SLOT_LOCAL_APIC + offset); }
static void apic_write(u32 offset, u32 value) { *(volatile u32 *)(SLOT_LOCAL_APIC + offset) = value; }

static void io_apic_write(u32 number, u32 value)
{
    *(volatile u32 *)(SLOT_IO_APIC + IO_APIC_SELECT) = number;
    *(volatile u32 *)(SLOT_IO_APIC + IO_APIC_WINDOW) = value;
}

/* To this CPU, fixed delivery, not masked: zeros. */
void arch_irq_connect(u32 line, bool level, void (*handler)(void))
{
    if (line >= LINES)
        panic("no interrupt line has the number %u", line);
    line_handler[line] = handler;
    io_apic_write(IO_APIC_REDIRECTION(line) + 1, apic_read(APIC_ID));
    io_apic_write(IO_APIC_REDIRECTION(line), (VECTOR_LINES + line) | (level ? IO_APIC_LEVEL_LOW : 0));
}

static u64 message_address;

u32 arch_message_connect(void (*handler)(void))
{
    static u32 next = LINES;
    if (next == LINES + MOST_MESSAGES)
        panic("no interrupt vector is left for a card");
    line_handler[next] = handler;
    u32 pirq = xen_events() ? xen_hvm_pirq_connect(&line_handler[next]) : 0;
    message_address = MESSAGES | (pirq ? pirq : apic_read(APIC_ID) >> 24) << 12;
    u32 data = pirq ? XEN_MESSAGE : VECTOR_LINES + next;
    next++;
    return data;
}

u64 arch_message_address(void) { return message_address; }

bool apic_line_interrupt(u64 vector)
{
    if (vector < VECTOR_LINES || vector >= VECTOR_LINES + LINES + MOST_MESSAGES || !line_handler[vector - VECTOR_LINES])
        return false;
    line_handler[vector - VECTOR_LINES]();
    apic_end_of_interrupt();
    return true;
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
    if (on_xen()) {
        xen_events_init();
        xen_rings_init();
        return;
    }
    map_device(SLOT_LOCAL_APIC, cpu_read_msr(MSR_APIC_BASE) & PTE_ADDRESS);
    map_device(SLOT_IO_APIC, IO_APIC_ADDRESS);
    arch_io_write(PIC_MASTER_MASK, 0xFF);
    arch_io_write(PIC_SLAVE_MASK, 0xFF);
    apic_init();
    clock_init();
    if (xen_events())
        xen_events_init();
}

/* This CPU's local APIC. All have the same address, and each CPU sees its own there. */
void apic_init(void)
{
    apic_write(APIC_TASK_PRIORITY, 0);
    apic_write(APIC_LVT_LINT0, APIC_MASKED); /* which also silences the 8259s */
    apic_write(APIC_LVT_LINT1, APIC_MASKED);
    apic_write(APIC_LVT_ERROR, APIC_MASKED);
    apic_write(APIC_SPURIOUS, APIC_ENABLE | VECTOR_SPURIOUS);
    apic_write(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_16);
    apic_write(APIC_LVT_TIMER, APIC_MASKED | VECTOR_TIMER);
}

/* Only CPU 0 sends, and waits for each answer: so nothing is under way here, and the destination is what it was. */
void apic_send(u32 apic_id, u32 command)
{
    static u32 destination = (u32)-1;
    if (apic_id != destination)
        apic_write(APIC_DESTINATION, apic_id << 24);
    destination = apic_id;
    apic_write(APIC_COMMAND, command);
}

void apic_end_of_interrupt(void) { apic_write(APIC_EOI, 0); }
void arch_end_of_interrupt(void) { apic_end_of_interrupt(); }

void apic_timer_measure_start(void) { apic_write(APIC_TIMER_COUNT, 0xFFFFFFFF); }

u64 apic_timer_measure_end(void)
{
    u32 counts = 0xFFFFFFFF - apic_read(APIC_TIMER_CURRENT);
    apic_write(APIC_TIMER_COUNT, 0);
    return counts;
}

void apic_timer_set_rate(u64 hz)
{
    timer_hz = hz;
    shot = (u32)(hz * SHOT_MICROSECONDS / 1000000);
    apic_write(APIC_LVT_TIMER, APIC_PERIODIC | VECTOR_TIMER);
}

void arch_tick_start(void)
{
    if (xen_events())
        xen_tick_start();
    else
        apic_write(APIC_TIMER_COUNT, (u32)(timer_hz / TICKS_A_SECOND));
}

void arch_tick_stop(void)
{
    if (xen_events())
        xen_tick_stop();
    else
        apic_write(APIC_TIMER_COUNT, 0);
}

/* The tick is off meanwhile. Xen's timer expires once anyway. */
void arch_timer_single(bool on)
{
    if (!xen_events())
        apic_write(APIC_LVT_TIMER, (on ? 0 : APIC_PERIODIC) | VECTOR_TIMER);
}

void arch_timer_shoot(void)
{
    if (xen_events())
        xen_timer_shoot(SHOT_MICROSECONDS * 1000);
    else
        apic_write(APIC_TIMER_COUNT, shot);
}

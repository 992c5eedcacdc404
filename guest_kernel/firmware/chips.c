/* Interrupt controllers, timer and local APIC, as a PC's firmware leaves them; the CPU's clock. */
#include "firmware.h"

#define PIC_MASTER 0x20
#define PIC_SLAVE 0xA0
#define PIT_COUNTER(n) (0x40 + (n))
#define PIT_CONTROL 0x43
#define PORT_B 0x61
#define PORT_B_GATE 0x01 /* of counter 2 */
#define PORT_B_OUT 0x20  /* its output */
#define PIT_HZ 1193182u
#define CALIBRATION 1193u /* counts of about a millisecond */

#define LOCAL_APIC 0xFEE00000u
#define APIC_SPURIOUS 0x0F0
#define APIC_LINT0 0x350
#define APIC_LINT1 0x360
#define DELIVER_NMI 0x400
#define DELIVER_EXTINT 0x700

void init_interrupt_controllers(void)
{
    const struct {
        u16 port;
        u8 vector, cascade;
    } chips[] = {{PIC_MASTER, 0x08, 1 << 2}, {PIC_SLAVE, 0x70, 2}};
    for (u32 i = 0; i < 2; i++) {
        outb(chips[i].port, 0x11);                  /* edge-triggered, cascaded, a fourth word follows */
        outb(chips[i].port + 1, chips[i].vector);   /* the vectors of a PC's BIOS */
        outb(chips[i].port + 1, chips[i].cascade);
        outb(chips[i].port + 1, 0x01);              /* 8086 mode */
        outb(chips[i].port + 1, 0xFF);              /* nothing yet */
    }
}

void init_timer(void)
{
    outb(PIT_CONTROL, 0x36); /* counter 0: square wave of 18.2 Hz, the PC's tick */
    outb(PIT_COUNTER(0), 0);
    outb(PIT_COUNTER(0), 0);
}

/* Counter 2 counts down once while the time-stamp counter counts up. */
u32 calibrate_tsc(void)
{
    outb(PORT_B, inb(PORT_B) & ~3u);
    outb(PIT_CONTROL, 0xB0); /* counter 2: its output rises at the end of the count */
    outb(PIT_COUNTER(2), CALIBRATION & 0xFF);
    outb(PIT_COUNTER(2), CALIBRATION >> 8);
    outb(PORT_B, (inb(PORT_B) & ~3u) | PORT_B_GATE);
    u32 start = (u32)rdtsc();
    while (!(inb(PORT_B) & PORT_B_OUT))
        ;
    u32 cycles = (u32)rdtsc() - start;
    return cycles / (CALIBRATION * 1000 / (PIT_HZ / 1000));
}

/* "Virtual wire": the 8259s' interrupts pass through the APIC of the first CPU. */
void init_local_apic(void)
{
    *(volatile u32 *)(LOCAL_APIC + APIC_SPURIOUS) = 0x1FF;
    *(volatile u32 *)(LOCAL_APIC + APIC_LINT0) = DELIVER_EXTINT;
    *(volatile u32 *)(LOCAL_APIC + APIC_LINT1) = DELIVER_NMI;
}

/* The PC's clock, an MC146818, as a source of periodic interrupts. */
#include "arch.h"
#include "irq_source.h"

#define LINE_RTC 8
#define INDEX 0x70
#define DATA 0x71

#define REGISTER_A 10
#define RATE 0x0F          /* in register A */
#define RATE_8192_HZ 3
#define REGISTER_B 11
#define PERIODIC 0x40      /* in register B: it interrupts */
#define REGISTER_C 12      /* why it interrupted; reading takes it back */
#define REGISTER_D 13
#define VALID 0x80         /* all of register D */

static struct irq_source rtc;

static u8 rtc_read(u8 number)
{
    arch_io_write(INDEX, number);
    return arch_io_read(DATA);
}

static void rtc_write(u8 number, u8 value)
{
    arch_io_write(INDEX, number);
    arch_io_write(DATA, value);
}

static void interrupt(void)
{
    if (rtc_read(REGISTER_C) & PERIODIC)
        rtc.interrupts++;
}

static void start(void)
{
    arch_irq_connect(LINE_RTC, false, interrupt);
    rtc_write(REGISTER_A, (rtc_read(REGISTER_A) & ~RATE) | RATE_8192_HZ);
    rtc_read(REGISTER_C);
    rtc_write(REGISTER_B, rtc_read(REGISTER_B) | PERIODIC);
}

static void stop(void)
{
    rtc_write(REGISTER_B, rtc_read(REGISTER_B) & ~PERIODIC);
    rtc_read(REGISTER_C);
}

static struct irq_source rtc = {"clock", start, stop, 0};

struct irq_source *irq_source(void)
{
    if (arch_irq_source())
        return arch_irq_source();
    return rtc_read(REGISTER_D) == VALID ? &rtc : NULL;
}

/* The first serial port, so that one sees what the firmware does. Its FIFOs stay off: what somebody has typed already
   is for the kernel. */
#include "firmware.h"

#define COM1 0x3F8
#define LINE_STATUS (COM1 + 5)
#define STATUS_SENT 0x20
#define PANIC_PORT 0x505

void serial_init(void)
{
    outb(COM1 + 1, 0);    /* no interrupts */
    outb(COM1 + 3, 0x80); /* the divisor */
    outb(COM1 + 0, 1);    /* 115200 baud */
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 0x03); /* 8 data bits, no parity, 1 stop bit */
    outb(COM1 + 4, 0x03); /* DTR and RTS */
}

void say(const char *text)
{
    for (u32 i = 0; text[i]; i++) {
        while (!(inb(LINE_STATUS) & STATUS_SENT))
            ;
        outb(COM1, (u8)text[i]);
    }
}

void say_number(u32 number)
{
    char digits[11];
    u32 at = sizeof digits - 1;
    digits[at] = 0;
    do
        digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    say(digits + at);
}

void give_up(const char *why)
{
    say("\r\nhv firmware: ");
    say(why);
    say("\r\n");
    outb(PANIC_PORT, 1);
    for (;;)
        __asm__ volatile("cli; hlt");
}

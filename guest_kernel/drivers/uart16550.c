/* The 16550 serial port. Received bytes come by interrupt; sent bytes by polling, a FIFO full at a time, so that no
   sending interrupt can fall into a measurement. */
#include "uart.h"

#include "arch.h"
#include "console.h"
#include "console_port.h"

#define BASE 0x3F8 /* COM1 */
#define LINE 4

#define DATA (BASE + 0)             /* read: received byte; write: byte to send */
#define INTERRUPT_ENABLE (BASE + 1)
#define ENABLE_RECEIVE 0x01
#define FIFO_CONTROL (BASE + 2)
#define FIFO_ENABLE 0x01            /* empties both FIFOs */
#define LINE_CONTROL (BASE + 3)
#define LINE_8N1 0x03               /* 8 data bits, no parity, 1 stop bit */
#define LINE_DIVISOR 0x80           /* DATA and INTERRUPT_ENABLE are the divisor of the baud rate */
#define MODEM_CONTROL (BASE + 4)
#define MODEM_DTR_RTS 0x03
#define MODEM_OUT2 0x08             /* on a PC: connects the interrupt line */
#define LINE_STATUS (BASE + 5)
#define STATUS_RECEIVED 0x01
#define STATUS_SENT 0x20            /* the sending FIFO is empty */

#define FIFO_SIZE 16
#define DIVISOR 1                   /* 115200 baud */

static void init(void)
{
    arch_io_write(INTERRUPT_ENABLE, 0);
    arch_io_write(LINE_CONTROL, LINE_8N1 | LINE_DIVISOR);
    arch_io_write(DATA, DIVISOR & 0xFF);
    arch_io_write(INTERRUPT_ENABLE, DIVISOR >> 8);
    arch_io_write(LINE_CONTROL, LINE_8N1);
    uart_interrupt(); /* takes what was typed before now */
    arch_io_write(FIFO_CONTROL, FIFO_ENABLE);
    arch_io_write(MODEM_CONTROL, MODEM_DTR_RTS | MODEM_OUT2);
}

static void connect(void) { arch_irq_connect(LINE, false, uart_interrupt); }

/* Bytes that wait when this is switched on raise the interrupt at once. */
static void listen(void) { arch_io_write(INTERRUPT_ENABLE, ENABLE_RECEIVE); }

static void more(void) {} /* they wait in the FIFO and interrupt again */

static void send(const char *bytes, u64 length)
{
    for (u64 i = 0; i < length; i++) {
        while (i % FIFO_SIZE == 0 && !(arch_io_read(LINE_STATUS) & STATUS_SENT))
            ;
        arch_io_write(DATA, (u8)bytes[i]);
    }
}

void uart_interrupt(void)
{
    while (arch_io_read(LINE_STATUS) & STATUS_RECEIVED)
        console_receive((char)arch_io_read(DATA));
}

const struct console_port uart_console = {init, connect, listen, more, send};

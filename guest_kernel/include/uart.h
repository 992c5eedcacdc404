/* The serial port's driver. */
#pragma once

extern const struct console_port uart_console;
void uart_interrupt(void);

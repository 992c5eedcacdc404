/* The serial port's driver, as the console uses it. */
#pragma once

#include "types.h"

void uart_init(void);
void uart_connect(void); /* to its interrupt line */
void uart_listen(bool on);
void uart_send(const char *bytes, u64 length);
void uart_interrupt(void);

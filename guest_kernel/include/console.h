/* The console: printing from the kernel, bytes to and from user programs. */
#pragma once

#include "types.h"

void console_init(void);
void console_connect(void); /* once interrupts can come */
void console_listen(void);
void console_receive(char c);
void console_poll(void);
extern volatile bool console_interrupted; /* Ctrl-C was typed: whoever waits or goes round in the kernel gives up */
u32 console_room(void);
i64 console_read(u64 buffer, u64 length);
i64 console_write(u64 buffer, u64 length);

__attribute__((format(printf, 1, 2))) void kprintf(const char *text, ...);
__attribute__((format(printf, 1, 2), noreturn)) void panic(const char *text, ...);

/* What carries the console's bytes: a driver, chosen at boot. */
#pragma once

#include "types.h"

struct console_port {
    void (*init)(void);
    void (*connect)(void);   /* to its interrupt */
    void (*listen)(void);    /* from now on bytes from outside go to console_receive() */
    void (*more)(void);      /* bytes that console_room() had no place for */
    void (*send)(const char *bytes, u64 length);
};

const struct console_port *arch_console_port(void);

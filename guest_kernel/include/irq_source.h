/* A device that interrupts by itself, again and again: for the operation interrupts.device_irq. Which device that is
   depends on the machine. */
#pragma once

#include "types.h"

struct irq_source {
    const char *name;
    void (*start)(void);
    void (*stop)(void);
    volatile u64 interrupts; /* so far */
};

/* This machine's, or NULL. */
struct irq_source *irq_source(void);

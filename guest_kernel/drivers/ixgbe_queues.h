/* What the 82599's physical and virtual functions have in common: a receive and a transmit queue, and how they interrupt.
   The registers of a queue are the same in both kinds of function, at other places. */
#pragma once

#include "nic.h"
#include "types.h"

#define VENDOR_INTEL 0x8086

/* Where a function has them: registers of its first receive and its first transmit queue; a one written to `enable` lets
   an interrupt cause interrupt again. */
struct ixgbe_places {
    u32 receive, transmit;
    u32 enable;
};

#define IXGBE_VECTOR 0u           /* the one interrupt of ours, whatever its cause is */
#define IXGBE_CAUSE (1u << IXGBE_VECTOR)
#define IXGBE_IVAR_QUEUES (0x8080u | IXGBE_VECTOR | IXGBE_VECTOR << 8) /* of both queues; valid */

#define IXGBE_RESET (1u << 26)    /* in CTRL and VFCTRL */
#define IXGBE_NO_CARD 0xFFFFFFFFu /* what a read gives when the function is not there (any more) */

/* Waits until the bits of `mask` in a register are `wanted`. False: they do not come to be. */
bool ixgbe_wait(volatile u8 *registers, u32 offset, u32 mask, u32 wanted);

/* Makes the rings and starts both queues. Fills in what of `nic` is not the function's own. */
bool ixgbe_start_queues(volatile u8 *registers, const struct ixgbe_places *places, struct nic *nic);
/* Starts both queues again, empty, after a reset of the function. */
bool ixgbe_restart_queues(void);
void ixgbe_interrupt(void);

/* The two marks of a measurement: each a label on a NOP. The hypervisor watches these two addresses; to the guest
   they are functions that do nothing. */

#include "asm.h"

.text
FUNCTION(hv_mark_begin)
    nop
    ret
END(hv_mark_begin)

FUNCTION(hv_mark_end)
    nop
    ret
END(hv_mark_end)

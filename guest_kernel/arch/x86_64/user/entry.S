/* The assembly that user programs need: their start, the system call, and instructions that are meant to fault. */

#include "asm.h"

.text
FUNCTION(user_start)
    xorl %ebp, %ebp             /* the outermost frame of a backtrace */
    call shell_main
    ud2
END(user_start)

/* i64 system_call(u64 number, u64 a, u64 b, u64 c) */
FUNCTION(system_call)
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    movq %rcx, %rdx
    syscall                     /* changes rcx and r11 */
    ret
END(system_call)

/* The functions below return a struct fault {cause, address} in rax and rdx: cause 0 means that nothing faulted.
   After a fault the kernel puts both there and goes on at fault_landing, with the stack as it was. */

/* struct fault try_store(u64 *address, u64 value) */
FUNCTION(try_store)
    xorl %eax, %eax
    movq %rsi, (%rdi)
.global fault_landing
fault_landing:
    ret
END(try_store)

/* struct fault try_divide(u64 dividend, u64 divisor) */
FUNCTION(try_divide)
    movq %rdi, %rax
    xorl %edx, %edx
    divq %rsi
    xorl %eax, %eax
    xorl %edx, %edx
    ret
END(try_divide)

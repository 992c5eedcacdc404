/* Interrupt vectors above the CPU's own 32 exceptions. A vector's upper four bits are its priority (CR8). */
#pragma once

#define EXCEPTIONS 32
#define VECTOR_TIMER 0x40
#define VECTOR_LINES 0x50 /* the 16 interrupt lines of a PC */
#define VECTOR_CALL 0xE0  /* from another CPU */
#define VECTOR_XEN_EVENTS 0xF3 /* not the CPU's: an upcall */
#define VECTOR_SPURIOUS 0xFF

#define BREAKPOINT 3 /* the only exception that a program may raise by `int` */

#ifndef __ASSEMBLER__
void traps_load(void); /* into this CPU */
#endif

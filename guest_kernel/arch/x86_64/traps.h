/* Interrupt vectors above the CPU's own 32 exceptions. A vector's upper four bits are its priority (CR8). */
#pragma once

#define EXCEPTIONS 32
#define VECTOR_TIMER 0x40
#define VECTOR_SERIAL 0x50
#define VECTOR_DEVICES 0x60 /* and up: the devices' lines, by their number */
#define DEVICE_LINES 16
#define DEVICE_MESSAGES 16  /* and behind them, those that cards send as messages */
#define VECTOR_SPURIOUS 0xFF

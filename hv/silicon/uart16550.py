"""A 16550A UART, register level (National Semiconductor PC16550D data sheet).

It gets offsets, an interrupt line and a sink for its output; it does not know its port or its machine.
Simplified: no baud rate (a byte is sent the moment it is written), no modem lines, no parity or framing errors.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

FIFO = 16  # bytes
# Registers (DLAB = 0): 0 receive/transmit, 1 interrupt enable, 2 interrupt identification / FIFO control,
# 3 line control, 4 modem control, 5 line status, 6 modem status, 7 scratch. DLAB = 1: 0 and 1 are the divisor.
IER_RX, IER_TX = 1, 2
IIR_NONE, IIR_TX, IIR_RX, IIR_FIFOS = 1, 2, 4, 0xC0
FCR_ENABLE, FCR_CLEAR_RX = 1, 2
LCR_DLAB = 0x80
MCR_OUT2, MCR_LOOP = 8, 16
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
MSR_PRESENT = MSR_CTS | MSR_DSR | MSR_DCD  # somebody is at the other end
LSR_DATA, LSR_OVERRUN, LSR_THRE, LSR_IDLE = 1, 2, 0x20, 0x40


def _looped(mcr: int) -> int:
    """In loopback the four modem outputs (DTR, RTS, OUT1, OUT2) come in as DSR, CTS, RI, DCD."""
    return sum(line for bit, line in enumerate((MSR_DSR, MSR_CTS, MSR_RI, MSR_DCD)) if mcr >> bit & 1)


class UartState(msgspec.Struct):
    """Everything that the chip remembers."""

    rx: list[int] = []
    ier: int = 0
    fcr: int = 0
    lcr: int = 3
    mcr: int = 0
    scratch: int = 0
    divisor: int = 1
    overrun: bool = False
    tx_empty_pending: bool = False


class Uart:
    """`irq(level)` drives the interrupt line, `sink(byte)` takes what the guest sends."""

    def __init__(self, irq: Callable[[bool], None], sink: Callable[[int], None]) -> None:
        self.irq, self.sink = irq, sink
        self.state = UartState()

    @property
    def room(self) -> int:
        """How many bytes the receiver can still take."""
        return FIFO - len(self.state.rx)

    def receive(self, data: bytes) -> None:
        """Bytes arrive from the line. Those that do not fit are lost and set the overrun bit."""
        s = self.state
        s.overrun |= len(data) > self.room
        s.rx.extend(data[: self.room])
        self._update()

    def _pending(self) -> int:
        s = self.state
        if s.ier & IER_RX and s.rx:
            return IIR_RX
        if s.ier & IER_TX and s.tx_empty_pending:
            return IIR_TX
        return IIR_NONE

    def _update(self) -> None:
        self.irq(self._pending() != IIR_NONE and bool(self.state.mcr & MCR_OUT2))

    def port_read(self, offset: int, size: int) -> int:
        s = self.state
        value = 0
        if offset == 0 and s.lcr & LCR_DLAB:
            value = s.divisor & 0xFF
        elif offset == 0:
            value = s.rx.pop(0) if s.rx else 0
        elif offset == 1:
            value = s.divisor >> 8 if s.lcr & LCR_DLAB else s.ier
        elif offset == 2:
            value = self._pending() | (IIR_FIFOS if s.fcr & FCR_ENABLE else 0)
            if value & 0xF == IIR_TX:
                s.tx_empty_pending = False  # reading the cause clears it
        elif offset == 3:
            value = s.lcr
        elif offset == 4:
            value = s.mcr
        elif offset == 5:
            value = LSR_THRE | LSR_IDLE | (LSR_DATA if s.rx else 0) | (LSR_OVERRUN if s.overrun else 0)
            s.overrun = False
        elif offset == 6:
            value = _looped(s.mcr) if s.mcr & MCR_LOOP else MSR_PRESENT
        elif offset == 7:
            value = s.scratch
        self._update()
        return value | ((1 << 8 * size) - 1 & ~0xFF)

    def port_write(self, offset: int, size: int, value: int) -> None:
        s = self.state
        value &= 0xFF
        if offset == 0 and s.lcr & LCR_DLAB:
            s.divisor = s.divisor & 0xFF00 | value
        elif offset == 0:
            if s.mcr & MCR_LOOP:
                self.receive(bytes([value]))
            else:
                self.sink(value)
            s.tx_empty_pending = True
        elif offset == 1 and s.lcr & LCR_DLAB:
            s.divisor = s.divisor & 0xFF | value << 8
        elif offset == 1:
            s.tx_empty_pending |= bool(value & ~s.ier & IER_TX)
            s.ier = value & 0xF
        elif offset == 2:
            s.fcr = value
            if value & FCR_CLEAR_RX:
                s.rx.clear()
        elif offset == 3:
            s.lcr = value
        elif offset == 4:
            s.mcr = value & 0x1F
        elif offset == 7:
            s.scratch = value
        self._update()

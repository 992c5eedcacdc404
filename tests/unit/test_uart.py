"""The 16550, register by register (National Semiconductor PC16550D data sheet)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hv.silicon.uart16550 import FIFO, Uart

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7


class Bench:
    """A chip on the bench: its line, and what it has sent."""

    def __init__(self) -> None:
        self.level = False
        self.sent = bytearray()
        self.chip = Uart(self.set_line, self.sent.append)

    def set_line(self, level: bool) -> None:
        self.level = level

    def line(self) -> bool:
        return self.level

    def write(self, offset: int, value: int) -> None:
        self.chip.port_write(offset, 1, value)

    def read(self, offset: int) -> int:
        return self.chip.port_read(offset, 1)

    def interrupts_on(self, enabled: int) -> None:
        self.write(MCR, 8)  # OUT2 lets the line through
        self.write(IER, enabled)


def test_a_byte_written_is_sent_and_the_transmitter_is_empty_again() -> None:
    uart = Bench()
    uart.write(THR, ord("x"))
    assert uart.sent == b"x"
    assert uart.read(LSR) & 0x60 == 0x60


def test_bytes_received_are_read_in_order_while_data_ready_is_set() -> None:
    uart = Bench()
    assert uart.read(LSR) & 1 == 0
    uart.chip.receive(b"ab")
    assert uart.read(LSR) & 1 == 1
    assert uart.read(RBR) == ord("a")
    assert uart.read(LSR) & 1 == 1
    assert uart.read(RBR) == ord("b")
    assert uart.read(LSR) & 1 == 0


def test_the_receiver_holds_16_bytes_and_an_overrun_is_told_once() -> None:
    uart = Bench()
    uart.chip.receive(bytes(range(FIFO)))
    assert uart.chip.room == 0
    assert uart.read(LSR) & 2 == 0
    uart.chip.receive(b"!")
    assert uart.read(LSR) & 2 == 2
    assert uart.read(LSR) & 2 == 0
    assert [uart.read(RBR) for _ in range(FIFO)] == list(range(FIFO))
    assert uart.chip.room == FIFO


def test_received_data_raises_the_line_until_it_is_read() -> None:
    uart = Bench()
    uart.interrupts_on(1)
    uart.chip.receive(b"ab")
    assert uart.line()
    assert uart.read(IIR) & 0xF == 4
    uart.read(RBR)
    assert uart.line()
    uart.read(RBR)
    assert not uart.line()
    assert uart.read(IIR) & 0xF == 1


def test_an_empty_transmitter_raises_the_line_until_the_cause_is_read() -> None:
    uart = Bench()
    uart.interrupts_on(2)
    assert uart.line()
    assert uart.read(IIR) & 0xF == 2
    assert not uart.line()
    uart.write(THR, 0)
    assert uart.line()
    assert uart.read(IIR) & 0xF == 2
    assert uart.read(IIR) & 0xF == 1


def test_received_data_comes_before_the_empty_transmitter() -> None:
    uart = Bench()
    uart.interrupts_on(3)
    uart.chip.receive(b"a")
    assert uart.read(IIR) & 0xF == 4
    uart.read(RBR)
    assert uart.read(IIR) & 0xF == 2


def test_without_out2_or_without_enable_the_line_stays_low() -> None:
    uart = Bench()
    uart.write(IER, 1)
    uart.chip.receive(b"a")
    assert not uart.line()
    uart.write(MCR, 8)
    assert uart.line()
    uart.write(IER, 0)
    assert not uart.line()


def test_the_divisor_lies_behind_dlab_and_leaves_the_other_registers_alone() -> None:
    uart = Bench()
    uart.write(IER, 5)
    uart.write(LCR, 0x83)
    uart.write(DLL, 0x0C)
    uart.write(DLM, 0x01)
    assert (uart.read(DLL), uart.read(DLM)) == (0x0C, 0x01)
    uart.write(LCR, 0x03)
    assert uart.read(IER) == 5
    assert uart.sent == b""


def test_interrupt_identification_tells_whether_the_fifos_are_on() -> None:
    uart = Bench()
    assert uart.read(IIR) & 0xC0 == 0
    uart.write(FCR, 1)
    assert uart.read(IIR) & 0xC0 == 0xC0


def test_fifo_control_clears_the_receiver() -> None:
    uart = Bench()
    uart.chip.receive(b"abc")
    uart.write(FCR, 3)
    assert uart.read(LSR) & 1 == 0
    assert uart.chip.room == FIFO


def test_loopback_returns_what_is_sent_and_sends_nothing() -> None:
    uart = Bench()
    uart.write(MCR, 16)
    uart.write(THR, 0x5A)
    assert uart.sent == b""
    assert uart.read(RBR) == 0x5A


def test_loopback_turns_the_modem_control_outputs_into_modem_status() -> None:
    """The data sheet, 8.6.7: DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD. Linux's probe looks at that."""
    uart = Bench()
    uart.write(MCR, 0x1A)
    assert uart.read(MSR) & 0xF0 == 0x90
    uart.write(MCR, 0x15)
    assert uart.read(MSR) & 0xF0 == 0x60


def test_fixed_bits_read_as_zero_and_the_scratch_register_keeps_its_byte() -> None:
    uart = Bench()
    uart.write(IER, 0xFF)
    assert uart.read(IER) == 0x0F
    uart.write(MCR, 0xFF)
    assert uart.read(MCR) == 0x1F
    uart.write(SCR, 0xA5)
    assert uart.read(SCR) == 0xA5


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("w"), st.integers(0, 7), st.integers(0, (1 << 32) - 1)),
            st.tuples(st.just("r"), st.integers(0, 7), st.sampled_from([1, 2, 4])),
            st.tuples(st.just("i"), st.binary(max_size=40), st.just(0)),
        ),
        max_size=60,
    )
)
def test_no_traffic_upsets_the_chip(traffic: list[tuple[str, int | bytes, int]]) -> None:
    uart = Bench()
    for kind, where, value in traffic:
        if isinstance(where, bytes):
            uart.chip.receive(where)
        elif kind == "w":
            uart.chip.port_write(where, 4, value)
        else:
            assert 0 <= uart.chip.port_read(where, value) < 1 << 8 * value
        assert 0 <= uart.chip.room <= FIFO
    uart.write(LCR, 3)
    uart.write(MCR, 8)
    uart.write(IER, 0)
    assert not uart.line()

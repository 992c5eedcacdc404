"""REP INS and OUTS through a port: what arrives, in which order, and that a fault loses nothing."""

from __future__ import annotations

import pytest

from tests.support import (
    DATA,
    EVERYWHERE,
    NATIVE_HW,
    NATIVE_TRAP,
    NOT_MAPPED,
    PORTABLE_HW,
    PORTABLE_TRAP,
    UNDER_TRAP,
    RawGuest,
    Where,
)

PORT = 0x5000
UNDER = [
    pytest.param(NATIVE_HW, id="hw-native"),
    pytest.param(PORTABLE_HW, id="hw-portable"),
    pytest.param(NATIVE_TRAP, id="trap-native"),
    pytest.param(PORTABLE_TRAP, id="trap-portable"),
]


class Queue:
    """A chip that gives bytes 1, 2, 3 ... and keeps what it is given."""

    def __init__(self) -> None:
        self.given, self.taken = 0, bytearray()

    def port_read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._next(size), "little")

    def port_write(self, offset: int, size: int, value: int) -> None:
        self.taken += value.to_bytes(size, "little")

    def _next(self, size: int) -> bytes:
        self.given += size
        return bytes(value & 0xFF for value in range(self.given - size + 1, self.given + 1))


class BlockQueue(Queue):
    """The same with a buffer, in one piece."""

    def port_read_string(self, offset: int, size: int, count: int) -> bytes | None:
        return self._next(size * count)

    def port_write_string(self, offset: int, size: int, data: bytes) -> bool:
        self.taken += data
        return True


@pytest.fixture(params=[Queue, BlockQueue])
def chip(request: pytest.FixtureRequest) -> Queue:
    queue: Queue = request.param()
    return queue


def run(code: str, where: Where, chip: Queue, **memory: bytes) -> RawGuest:
    guest = RawGuest(
        f"movb DATA, %al; movb DATA+0x1000, %al; mov ${PORT}, %edx; {code}; cld; finish", where,
        memory={DATA: memory["data"]} if memory else None,
    )  # fmt: skip
    guest.vm.board.ports.add(PORT, 1, chip)
    return guest.finish()


@pytest.mark.parametrize("where", UNDER)
def test_words_come_in_and_go_out_in_order(where: Where, chip: Queue) -> None:
    guest = run(
        "mov $DATA+8, %edi; mov $100, %ecx; rep insw; mov $DATA+8, %esi; mov $100, %ecx; rep outsw", where, chip
    )
    assert guest.read(DATA + 8, 200) == chip.taken == bytes(value & 0xFF for value in range(1, 201))
    registers = guest.registers()
    assert (registers["rcx"], registers["rdi"], registers["rsi"]) == (0, DATA + 208, DATA + 208)


@pytest.mark.parametrize("where", UNDER)
def test_downwards_each_element_keeps_its_bytes_and_the_last_comes_first(where: Where, chip: Queue) -> None:
    guest = run(
        "std; mov $DATA+12, %edi; mov $4, %ecx; rep insl; mov $DATA+12, %esi; mov $4, %ecx; rep outsl", where, chip
    )
    assert guest.read(DATA, 16) == bytes([13, 14, 15, 16, 9, 10, 11, 12, 5, 6, 7, 8, 1, 2, 3, 4])
    assert chip.taken == bytes(range(1, 17))
    assert guest.registers()["rdi"] == DATA - 4


@pytest.mark.parametrize("where", UNDER)
@pytest.mark.parametrize("start", [0xFF8, 0xFFB, 0xFFF])
def test_over_the_end_of_a_page(where: Where, chip: Queue, start: int) -> None:
    """Also with an element that lies in both: it belongs to the page in which it begins."""
    guest = run(f"mov $DATA+{start}, %edi; mov $8, %ecx; rep insl", where, chip)
    assert guest.read(DATA + start, 32) == bytes(range(1, 33))
    assert guest.exits["ioio"] == 2


@pytest.mark.parametrize("where", UNDER)
def test_downwards_over_the_beginning_of_a_page(where: Where, chip: Queue) -> None:
    code = "std; mov $DATA+0x1003, %esi; mov $4, %ecx; rep outsw"
    guest = run(code, where, chip, data=bytes(0xFFD) + bytes(range(1, 9)))
    assert chip.taken == bytes([7, 8, 5, 6, 3, 4, 1, 2])
    assert guest.exits["ioio"] == 2


@pytest.mark.parametrize("where", UNDER)
def test_a_fault_comes_before_the_device_has_given_anything_away(where: Where, chip: Queue) -> None:
    code = (
        f"movb $0, {NOT_MAPPED - 8}; lea over(%rip), %r15; mov ${NOT_MAPPED - 4}, %edi; mov $4, %ecx; rep insw; over:"
    )
    guest = run(code, where, chip)
    (fault,) = guest.log
    assert (fault.vector, fault.cr2) == (14, NOT_MAPPED)
    assert guest.read(NOT_MAPPED - 4, 4) == bytes([1, 2, 3, 4])
    assert chip.given == 4
    registers = guest.registers()
    assert (registers["rcx"], registers["rdi"]) == (2, NOT_MAPPED)


@pytest.mark.parametrize("where", EVERYWHERE + UNDER_TRAP)
def test_each_element_of_a_rep_is_retired_on_top_of_the_instruction(where: Where) -> None:
    """Whoever performs it; 16 of the 36 words lie in the first page."""
    code = "mov $DATA+0xFE0, %edi; mov ${0}, %ecx; rep insw; mov $DATA, %esi; mov ${0}, %ecx; rep outsw"
    retired = [run(code.format(count), where, Queue()).vm.machine.cpus[0].m.retired for count in (0, 36)]
    assert retired[1] - retired[0] == 72


@pytest.mark.parametrize("where", UNDER)
def test_no_elements_are_no_access(where: Where, chip: Queue) -> None:
    guest = run("mov $DATA, %edi; xor %ecx, %ecx; rep insb; rep outsb", where, chip)
    assert chip.given == 0
    assert guest.read(DATA, 8) == bytes(8)

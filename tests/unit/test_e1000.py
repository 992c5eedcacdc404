"""The 82540EM against its manual (8254x Software Developer's Manual): registers, EEPROM, PHY, interrupts, filters."""

from __future__ import annotations

import copy

import pytest

from hv.devices.e1000 import registers as reg
from hv.devices.e1000.eeprom import CHECKSUM, CS, DI, DO, GRANT, REQUEST, SK
from hv.devices.e1000.nic import IO_BAR, MEMORY_BAR
from tests.nic_bench import (
    EOP,
    IDE,
    IFCS,
    MAC,
    OTHER,
    RING,
    RS,
    NicBench,
    frame_to,
)

BROADCAST = b"\xff" * 6


@pytest.fixture
def bench() -> NicBench:
    return NicBench()


# --- registers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0x0038, 0x8100), (0x0008, 0x81 | 0x200), (0x1000, 0x0010_0030), (0x0020, 1 << 28), (0x5400, 0x0076_6802),
     (0x5404, 0x8000_0100), (0x0100, 0), (0x0400, 0), (0x00D0, 0), (0x1234, 0)],
)  # fmt: skip
def test_registers_after_a_reset(bench: NicBench, offset: int, value: int) -> None:
    assert bench[offset] == value


@pytest.mark.parametrize(
    ("offset", "kept"),
    [(0x2800, 0xFFFF_FFF0), (0x2808, 0x000F_FF80), (0x3818, 0xFFFF), (0x0100, 0x06DF_B3FE), (0x0030, 0xFFFF),
     (0x0008, 0), (0x4074, 0), (0x5200, 0xFFFF_FFFF)],
)  # fmt: skip
def test_only_bits_that_exist_are_kept(bench: NicBench, offset: int, kept: int) -> None:
    before = bench[offset] & ~kept
    bench[offset] = 0xFFFF_FFFF
    assert bench[offset] & kept == kept
    assert bench[offset] & ~kept == before


@pytest.mark.parametrize(("alias", "offset"), [(0x0110, 0x2800), (0x0438, 0x3818), (0x0040, 0x5400), (0x0600, 0x5600)])
def test_the_first_chips_offsets_still_work(bench: NicBench, alias: int, offset: int) -> None:
    bench[alias] = 0x60
    assert bench[offset] == bench[alias] == 0x60


def test_parts_of_a_register_can_be_read_but_not_written(bench: NicBench) -> None:
    bench[reg.RDBAL] = 0x1234_5670
    bench[reg.RDBAH] = 0xAABB_CCDD
    read, write = bench.nic.read, bench.nic.write
    assert read(MEMORY_BAR, reg.RDBAL + 1, 2) == 0x3456
    assert read(MEMORY_BAR, reg.RDBAL + 2, 4) == 0xCCDD_1234
    assert read(MEMORY_BAR, reg.RDBAL, 8) == 0xAABB_CCDD_1234_5670
    write(MEMORY_BAR, reg.RDBAL, 1, 0xFF)
    write(MEMORY_BAR, reg.RDBAL + 2, 4, 0xFFFF_FFFF)
    assert bench[reg.RDBAL] == 0x1234_5670
    write(MEMORY_BAR, reg.RDBAL, 8, 0x11_0000_0020)
    assert (bench[reg.RDBAL], bench[reg.RDBAH]) == (0x20, 0x11)


def test_the_io_window_reaches_every_register(bench: NicBench) -> None:
    bench.nic.write(IO_BAR, 0, 4, reg.FCTTV)
    bench.nic.write(IO_BAR, 4, 4, 0x4321)
    assert bench[reg.FCTTV] == bench.nic.read(IO_BAR, 4, 4) == 0x4321
    assert bench.nic.read(IO_BAR, 0, 4) == reg.FCTTV
    bench.nic.write(IO_BAR, 0, 4, 0xFFFF_FFFF)  # nothing there
    assert bench.nic.read(IO_BAR, 4, 4) == 0


def test_a_software_reset_forgets_all_but_the_multicast_table_and_pba(bench: NicBench) -> None:
    bench[reg.MTA] = bench[reg.RDBAL] = bench[reg.RAL0] = 0x10
    bench[reg.PBA] = 0x20
    bench[reg.IMS] = bench[reg.ICS] = reg.LSC
    assert bench.line()
    bench[reg.CTRL] = reg.CTRL_RST
    assert not bench.line()
    assert (bench[reg.MTA], bench[reg.PBA]) == (0x10, 0x0020_0020)
    assert (bench[reg.RDBAL], bench[reg.IMS], bench[reg.ICR]) == (0, 0, 0)
    assert bench[reg.RAL0] == 0x0076_6802, "the address comes from the EEPROM again"
    assert not bench[reg.CTRL] & reg.CTRL_RST, "it clears itself"


# --- EEPROM ---------------------------------------------------------------------------------------------------------


def test_eerd_reads_words_whose_sum_is_baba(bench: NicBench) -> None:
    words = []
    for word in range(64):
        bench[reg.EERD] = 1 | word << 8
        assert bench[reg.EERD] & 0x10
        words.append(bench[reg.EERD] >> 16)
    assert sum(words) & 0xFFFF == CHECKSUM
    assert b"".join(word.to_bytes(2, "little") for word in words[:3]) == MAC


class Microwire:
    """A driver that moves the EEPROM's three wires itself."""

    def __init__(self, bench: NicBench) -> None:
        self.bench = bench
        bench[reg.EECD] = REQUEST
        assert bench[reg.EECD] & GRANT

    def clock(self, bit: int = 0) -> int:
        data = DI if bit else 0
        for wires in (REQUEST | CS | data, REQUEST | CS | SK | data):
            self.bench[reg.EECD] = wires
        return int(bool(self.bench[reg.EECD] & DO))

    def command(self, code: int, address: int) -> None:
        self.bench[reg.EECD] = REQUEST  # chip select low: the last command is over
        for i in reversed(range(9)):
            self.clock((4 | code) << 6 >> i & 1 | address >> i & 1)

    def word(self, value: int = 0) -> int:
        read = 0
        for i in reversed(range(16)):
            read = read << 1 | self.clock(value >> i & 1)
        return read


def test_the_eeprom_can_be_read_bit_by_bit_and_goes_on_with_the_next_word(bench: NicBench) -> None:
    wires = Microwire(bench)
    wires.command(2, 0)
    assert not bench[reg.EECD] & DO, "a zero comes before the data"
    assert [wires.word() for _ in range(3)] == [0x6802, 0x0076, 0x0100]


def test_the_eeprom_is_written_only_after_it_was_enabled(bench: NicBench) -> None:
    wires = Microwire(bench)
    for enable, expected in ((False, 0xFFFF), (True, 0x1234)):
        if enable:
            wires.command(0, 0x30)
        wires.command(1, 0x20)
        wires.word(0x1234)
        wires.command(2, 0x20)
        assert wires.word() == expected
    wires.command(3, 0x20)  # erase
    wires.command(2, 0x20)
    assert wires.word() == 0xFFFF


# --- PHY ------------------------------------------------------------------------------------------------------------


def mdic(bench: NicBench, operation: int, register: int, data: int = 0, address: int = 1, flags: int = 0) -> int:
    bench[reg.MDIC] = data | register << 16 | address << 21 | operation << 26 | flags
    return bench[reg.MDIC]


def phy_read(bench: NicBench, register: int) -> int:
    return mdic(bench, 2, register) & 0xFFFF


def test_the_phy_says_who_it_is_and_that_the_link_is_up(bench: NicBench) -> None:
    assert phy_read(bench, 2) << 16 | phy_read(bench, 3) == 0x0141_0C20
    assert phy_read(bench, 1) & 0x24 == 0x24
    assert phy_read(bench, 17) >> 14 == 2, "1000 Mb/s"


def test_a_phy_that_is_not_there_is_an_error(bench: NicBench) -> None:
    assert mdic(bench, 2, 1, address=2) >> 28 & 7 == 5  # error and ready
    assert mdic(bench, 2, 1) >> 28 & 7 == 1


def test_a_management_frame_may_end_with_an_interrupt(bench: NicBench) -> None:
    bench[reg.IMS] = reg.MDAC
    mdic(bench, 2, 1)
    assert not bench.line()
    mdic(bench, 2, 1, flags=1 << 29)
    assert bench.line()


def test_renegotiation_takes_the_link_down_and_up_again(bench: NicBench) -> None:
    bench[reg.CTRL] |= reg.CTRL_SLU
    bench[reg.ICR]
    bench[reg.IMS] = reg.LSC
    assert bench[reg.STATUS] & reg.STATUS_LU
    mdic(bench, 1, 0, 0x1340)
    assert not bench[reg.STATUS] & reg.STATUS_LU
    assert bench[reg.ICR] == reg.LSC
    assert not phy_read(bench, 1) & 4
    bench.pass_time(999_999)
    assert not bench.line()
    bench.pass_time(1)
    assert bench.line()
    assert bench[reg.STATUS] & reg.STATUS_LU
    assert phy_read(bench, 1) & 4


def test_a_lost_link_is_shown_once_even_if_it_is_back(bench: NicBench) -> None:
    mdic(bench, 1, 0, 0x9140)
    bench.pass_time(2_000_000)
    assert not phy_read(bench, 1) & 4
    assert phy_read(bench, 1) & 4


def test_without_a_gigabit_in_the_offer_the_link_is_slower(bench: NicBench) -> None:
    mdic(bench, 1, 9, 0)
    assert bench[reg.STATUS] >> 6 & 3 == 1
    mdic(bench, 1, 4, 0x0061)
    assert bench[reg.STATUS] >> 6 & 3 == 0


# --- interrupts -----------------------------------------------------------------------------------------------------


def test_a_cause_interrupts_when_it_is_not_masked_and_reading_clears_it(bench: NicBench) -> None:
    bench[reg.ICS] = reg.RXT0
    assert not bench.line()
    bench[reg.IMS] = reg.RXT0
    assert bench.line()
    assert bench[reg.ICR] == reg.RXT0
    assert not bench.line()
    assert bench[reg.ICR] == 0


def test_masks_are_set_and_cleared_bit_by_bit(bench: NicBench) -> None:
    bench[reg.IMS] = reg.RXT0 | reg.TXDW
    bench[reg.IMC] = reg.TXDW
    assert bench[reg.IMS] == reg.RXT0
    assert bench[reg.IMC] == 0


def test_writing_ones_clears_causes(bench: NicBench) -> None:
    bench[reg.ICS] = reg.RXT0 | reg.LSC
    bench[reg.ICR] = reg.LSC
    assert bench[reg.ICR] == reg.RXT0


def test_throttling_keeps_interrupts_apart(bench: NicBench) -> None:
    bench[reg.IMS] = reg.RXT0
    bench[reg.ITR] = 100  # 25.6 us
    bench[reg.ICS] = reg.RXT0
    assert bench.line(), "the first comes at once"
    bench[reg.ICR]
    bench[reg.ICS] = reg.RXT0
    assert not bench.line()
    bench.pass_time(25_599)
    assert not bench.line()
    bench.pass_time(1)
    assert bench.line()


def test_a_received_frame_interrupts_at_once_without_delays(bench: NicBench) -> None:
    bench.start_receiver()
    bench[reg.IMS] = reg.RXT0
    bench.receive(frame_to(BROADCAST))
    assert bench.line()


def test_the_packet_delay_starts_anew_with_each_frame_up_to_the_absolute_one(bench: NicBench) -> None:
    bench.start_receiver()
    bench[reg.IMS] = reg.RXT0
    bench[reg.RDTR], bench[reg.RADV] = 10, 15  # 10.24 us and 15.36 us
    bench.receive(frame_to(BROADCAST))
    bench.pass_time(10_000)
    bench.receive(frame_to(BROADCAST))
    bench.pass_time(5_359)
    assert not bench.line()
    bench.pass_time(1)
    assert bench.line()


def test_a_delay_can_be_cut_short(bench: NicBench) -> None:
    bench.start_receiver()
    bench[reg.IMS] = reg.RXT0
    bench[reg.RDTR] = 1000
    bench.receive(frame_to(BROADCAST))
    bench[reg.RDTR] = 1000 | 1 << 31
    assert bench.line()


def test_a_delayed_transmit_interrupt(bench: NicBench) -> None:
    bench.start_transmitter()
    bench[reg.IMS] = reg.TXDW
    bench[reg.TIDV] = 10
    bench.transmit(frame_to(OTHER), EOP | IFCS | RS | IDE)
    assert bench.tx_status(0) & 1, "the descriptor itself is done"
    assert not bench.line()
    bench.pass_time(10_240)
    assert bench.line()


# --- filters --------------------------------------------------------------------------------------------------------


def accepted(bench: NicBench, frame: bytes) -> bool:
    before = bench[reg.RDH]
    bench.receive(frame)
    return bench[reg.RDH] != before


def test_only_frames_for_this_address_come_in(bench: NicBench) -> None:
    bench.start_receiver(control=0)
    assert accepted(bench, frame_to(MAC))
    assert not accepted(bench, frame_to(OTHER))
    assert not accepted(bench, frame_to(BROADCAST))


@pytest.mark.parametrize(
    ("control", "destination"), [(reg.RCTL_BAM, BROADCAST), (reg.RCTL_UPE, OTHER), (reg.RCTL_MPE, b"\1" + OTHER[1:])]
)
def test_what_else_may_come_in(bench: NicBench, control: int, destination: bytes) -> None:
    bench.start_receiver(control=control)
    assert accepted(bench, frame_to(destination))
    assert bool(bench.received(0)[2] & 0x80) == (destination != BROADCAST), "passed by an inexact filter"


@pytest.mark.parametrize(("offset", "shift"), [(0, 4), (1, 3), (2, 2), (3, 0)])
def test_the_multicast_table_is_looked_up_by_twelve_bits_of_the_address(
    bench: NicBench, offset: int, shift: int
) -> None:
    group = bytes.fromhex("01005e0a1b2c")
    bench.start_receiver(control=offset << 12)
    assert not accepted(bench, frame_to(group))
    hashed = int.from_bytes(group[4:], "little") >> shift & 0xFFF
    bench[reg.MTA + 4 * (hashed >> 5)] = 1 << (hashed & 31)
    assert accepted(bench, frame_to(group))


def test_any_of_sixteen_addresses_that_are_valid(bench: NicBench) -> None:
    bench.start_receiver(control=0)
    bench[reg.RAL0 + 8 * 15] = int.from_bytes(OTHER[:4], "little")
    bench[reg.RAH0 + 8 * 15] = int.from_bytes(OTHER[4:], "little")
    assert not accepted(bench, frame_to(OTHER))
    bench[reg.RAH0 + 8 * 15] = int.from_bytes(OTHER[4:], "little") | reg.RAH_VALID
    assert accepted(bench, frame_to(OTHER))


def test_the_vlan_table_admits_and_the_tag_is_taken_out(bench: NicBench) -> None:
    bench.start_receiver(control=reg.RCTL_VFE | reg.RCTL_SECRC)
    bench[reg.CTRL] |= reg.CTRL_VME
    tagged = MAC + OTHER + bytes.fromhex("81002064") + frame_to(MAC)[12:]
    assert not accepted(bench, tagged)
    bench[reg.VFTA + 4 * (0x64 >> 5)] = 1 << (0x64 & 31)
    assert accepted(bench, tagged)
    data, _, status, _, special = bench.received(0)
    assert (data, status & 8, special) == (frame_to(MAC), 8, 0x2064)
    bench[reg.RCTL] |= reg.RCTL_CFIEN | reg.RCTL_CFI
    assert not accepted(bench, tagged)


@pytest.mark.parametrize(
    ("length", "control", "counter"), [(59, 0, reg.RUC), (1515, 0, reg.ROC), (16381, reg.RCTL_LPE, reg.ROC)]
)
def test_frames_of_a_wrong_length_are_only_counted(bench: NicBench, length: int, control: int, counter: int) -> None:
    bench.start_receiver(control)
    assert not accepted(bench, frame_to(MAC, bytes(length - 14)))
    assert bench[reg.STATISTICS + 4 * counter] == 1


# --- receive ring ---------------------------------------------------------------------------------------------------


def test_a_frame_is_stored_with_its_fcs_unless_that_is_stripped(bench: NicBench) -> None:
    bench.start_receiver(control=0)
    frame = frame_to(MAC)
    bench.receive(frame)
    data = bench.received(0)[0]
    assert data[:-4] == frame
    # IEEE 802.3: the residue of the CRC over a frame with its FCS
    import zlib

    assert zlib.crc32(data) == 0x2144DF1C
    bench[reg.RCTL] |= reg.RCTL_SECRC
    bench.receive(frame)
    assert bench.received(1)[0] == frame


def test_a_long_frame_fills_several_buffers_and_only_the_last_ends_it(bench: NicBench) -> None:
    bench.start_receiver(control=reg.RCTL_SECRC | 3 << 16)  # 256 bytes
    frame = frame_to(MAC, bytes(i & 0xFF for i in range(600)))
    bench.receive(frame)
    parts = [bench.received(i) for i in range(3)]
    assert b"".join(part[0] for part in parts) == frame
    assert [part[2] & 3 for part in parts] == [1, 1, 3]


@pytest.mark.parametrize(("bits", "size"), [(1 << 16, 1024), (reg.RCTL_BSEX | 3 << 16, 4096)])
def test_buffer_sizes(bench: NicBench, bits: int, size: int) -> None:
    bench.start_receiver(control=reg.RCTL_SECRC | reg.RCTL_LPE | bits)
    bench.receive(frame_to(MAC, bytes(5000)))
    assert len(bench.received(0)[0]) == size


def test_without_descriptors_frames_wait_until_the_fifo_is_full(bench: NicBench) -> None:
    bench.start_receiver(descriptors=0)
    bench[reg.IMS] = reg.RXO
    frame = frame_to(MAC, bytes(1486))
    for _ in range(48 * 1024 // 1504):
        bench.receive(frame)
    assert not bench.line()
    bench.receive(frame)
    assert bench.line()
    assert bench[reg.STATISTICS + 4 * reg.MPC] == 1
    assert bench[reg.STATISTICS + 4 * reg.RNBC] == 32
    bench[reg.RDT] = 3
    assert bench[reg.RDH] == 3
    assert bench.received(2)[0] == frame


def test_few_descriptors_left_is_a_cause(bench: NicBench) -> None:
    bench.start_receiver(control=reg.RCTL_SECRC | 1 << 8)  # a quarter of 16
    bench[reg.IMS] = reg.RXDMT0
    for _ in range(10):
        bench.receive(frame_to(MAC))
    assert not bench.line()
    bench.receive(frame_to(MAC))
    assert bench.line()


def test_statistics_count_and_a_read_clears_them(bench: NicBench) -> None:
    bench.start_receiver()
    for _ in range(2):
        bench.receive(frame_to(BROADCAST, bytes(100)))
    names = {reg.GPRC: 2, reg.BPRC: 2, reg.TPR: 2, reg.PRC64 + 1: 2, reg.GORCL: 236, reg.GORCL + 1: 0}
    for counter, value in names.items():
        assert bench[reg.STATISTICS + 4 * counter] == value
    assert all(bench[reg.STATISTICS + 4 * counter] == 0 for counter in names)


def test_loopback_brings_a_frame_back(bench: NicBench) -> None:
    bench.start_receiver(control=reg.RCTL_SECRC | 1 << 6)
    bench.start_transmitter()
    bench.transmit(frame_to(MAC))
    assert not bench.sent
    assert bench.received(0)[0] == frame_to(MAC)


# --- flow control ---------------------------------------------------------------------------------------------------

FLOW_ADDRESS = bytes.fromhex("0180c2000001")


def set_up_flow_control(bench: NicBench) -> None:
    bench[reg.FCAL], bench[reg.FCAH], bench[reg.FCT] = 0x00C2_8001, 0x0100, 0x8808
    bench[reg.CTRL] |= reg.CTRL_RFCE | reg.CTRL_TFCE


def pause(quanta: int) -> bytes:
    return frame_to(FLOW_ADDRESS, (b"\x00\x01" + quanta.to_bytes(2, "big")).ljust(46, b"\0"), 0x8808)


def test_a_pause_frame_stops_the_transmitter_for_its_time(bench: NicBench) -> None:
    bench.start_receiver()
    bench.start_transmitter()
    set_up_flow_control(bench)
    bench.receive(pause(10))  # 5.12 us at a gigabit
    assert bench[reg.STATUS] & reg.STATUS_TXOFF
    bench.transmit(frame_to(OTHER))
    assert not bench.sent
    bench.pass_time(5120)
    assert len(bench.sent) == 1
    assert bench[reg.STATISTICS + 4 * reg.XOFFRXC] == 1
    assert bench[reg.RDH] == 0, "the frame itself is not for software"


def test_a_card_in_loopback_that_tells_itself_to_go_on_does_so_once(bench: NicBench) -> None:
    bench.start_receiver(control=1 << 6)
    bench.start_transmitter()
    set_up_flow_control(bench)
    bench.transmit(pause(0))
    bench.transmit(frame_to(MAC))
    bench.pass_time(1)
    assert bench[reg.STATISTICS + 4 * reg.XONRXC] == 1
    assert (bench[reg.TDH], bench[reg.RDH]) == (2, 1)
    assert bench.nic.deadline is None


def test_a_full_fifo_asks_the_partner_to_pause_and_to_go_on(bench: NicBench) -> None:
    bench.start_receiver(descriptors=0)
    set_up_flow_control(bench)
    bench[reg.FCRTH], bench[reg.FCRTL], bench[reg.FCTTV] = 3000, 1000 | reg.FCRTL_XONE, 0x1234
    for _ in range(2):
        bench.receive(frame_to(MAC, bytes(1486)))
    assert bench.frames == [pause(0x1234).replace(OTHER, MAC)]
    bench[reg.RDT] = RING - 1
    assert bench.frames[1] == pause(0).replace(OTHER, MAC)


# --- the whole ------------------------------------------------------------------------------------------------------


def test_a_snapshot_goes_on_as_if_nothing_had_been(bench: NicBench) -> None:
    bench.start_receiver()
    bench.start_transmitter()
    bench[reg.IMS] = reg.RXT0
    bench[reg.RDTR] = 10
    bench.receive(frame_to(MAC))
    saved = copy.deepcopy(bench.nic.state)
    bench[reg.CTRL] = reg.CTRL_RST
    bench.pass_time(10_239)
    assert not bench.line()
    bench.nic.state = saved
    bench.slot.now = 0
    bench.pass_time(10_240)
    assert bench.line()

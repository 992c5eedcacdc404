"""A network card's virtual function under attack: a guest that turns its own against everybody else.

The guests' CPUs spin and count; the test plays their drivers, through the same registers that they find.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator

import pytest

from hv.neighbours import ethernet_address
from hv.silicon.iommu import Fault
from hv.silicon.pci import BAR0
from hv.silicon.x86_64.engine import BUS_BASE, PRIVATE_BASE
from hv.x86_64.pool import CARDS_POOL_BASE, POOL_BASE
from modes.sriov.mode import Sriov
from tests.spinning_guest import CODE, RAM_BASE, SHOWN
from tests.vf_host import (
    CTRL,
    CTS,
    DATA,
    EVERYBODY,
    MAILBOX,
    MEMORY,
    MSIX_WINDOW,
    NACK,
    NEGOTIATE,
    NET,
    RX,
    SET_ADDRESS,
    TAIL,
    TX,
    WINDOW,
    WRITE_BACK,
    VfDriver,
    World,
    frame,
)

FIRST_VF = NET + 128  # in the root complex; the others are two apart
PF_WINDOW, SPOOFED = 0xF030_0000, 0x8780  # on the root complex's bus; the counter of frames that anti-spoofing stopped
HERS, HIS, STRANGER = ethernet_address(0), ethernet_address(1), bytes.fromhex("020000000099")
TARGETS = {
    "the hypervisor's memory": POOL_BASE, "its IOMMU tables": CARDS_POOL_BASE, "the microcode": PRIVATE_BASE,
    "host-physical addresses, where the other guest's memory is too": RAM_BASE + 0x4_0000,
    "the local APIC": 0xFEE0_0000, "the I/O APIC": 0xFEC0_0000, "its own window": WINDOW,
    "the physical function's registers": PF_WINDOW, "the same, as a CPU sees them": BUS_BASE + 0x3030_0000,
    "behind its memory": 16 << 20, "nowhere": 1 << 52, "the end of everything": (1 << 64) - 0x1000,
}  # fmt: skip


@pytest.fixture
def world() -> Iterator[World]:
    """Her, who is attacked, and him, who attacks. Both have a card that works."""
    world = World()
    for driver in world.drivers:
        driver.start()
    yield world
    world.close()


class Watch:
    """What an attack must leave as it is."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.her, self.him = world.drivers
        self.memory = self.everything()

    def everything(self) -> list[object]:
        """Her memory, but what her CPU counts and what her card is told to write; the hypervisor's, of both."""
        ram = self.world.guests[0].ram
        return [ram[0:0x1_1000], ram[0x1_2000:0x4_0000], ram[0x8_0000 : 16 << 20],
                *(guest.elsewhere() for guest in self.world.guests)]  # fmt: skip

    def check(self) -> None:
        """Nothing has changed, and her traffic goes on."""
        assert self.everything() == self.memory
        assert self.world.guests[0].faults == []
        self.world.heard.clear()
        assert self.her.received() == []
        self.her.send(frame(STRANGER, HERS, b"still here"))
        self.world.say(frame(HERS, STRANGER, b"so am I"), self.world.guests[0].vm.now)
        self.world.pass_time()
        assert self.world.heard == [frame(STRANGER, HERS, b"still here")]
        assert self.her.received() == [frame(HERS, STRANGER, b"so am I")]


@pytest.fixture
def watch(world: World) -> Watch:
    return Watch(world)


def faults(world: World) -> list[Fault]:
    """His, since this was last asked."""
    recorded = world.guests[1].faults
    taken = list(recorded)
    recorded.clear()
    return taken


def dma(address: int, *, write: bool, vf: int = 1) -> Fault:
    return Fault(FIRST_VF + 2 * vf, address, write, "dma")


# --- as it should be ------------------------------------------------------------------------------------------------


def test_each_gets_what_is_for_it_and_nothing_else() -> None:
    world = World(3)
    her, him, third = (driver.start() for driver in world.drivers)
    assert [driver.address for driver in world.drivers] == [ethernet_address(number) for number in range(3)]
    told = frame(HERS, HIS, b"a word between two")
    him.send(told)
    assert (her.received(), him.received(), third.received(), world.heard) == ([told], [], [], [])
    called = frame(EVERYBODY, HERS, b"to all")
    her.send(called)
    assert (her.received(), him.received(), third.received(), world.heard) == ([], [called], [called], [called])
    world.heard.clear()
    world.say(frame(HIS, STRANGER), world.guests[0].vm.now)
    world.say(frame(STRANGER[:5] + b"\x98", STRANGER), world.guests[0].vm.now)
    world.pass_time()
    assert (her.received(), him.received(), third.received()) == ([], [frame(HIS, STRANGER)], [])
    third.send(frame(STRANGER, third.address))
    assert (her.received(), him.received(), world.heard) == ([], [], [frame(STRANGER, third.address)])
    assert [guest.faults for guest in world.guests] == [[], [], []]
    world.close()


# --- addresses that are not the guest's -----------------------------------------------------------------------------


def test_frames_are_not_taken_from_memory_that_is_not_the_guests(world: World, watch: Watch) -> None:
    for address in TARGETS.values():
        world.drivers[1].send(frame(STRANGER, HIS), address)
        assert faults(world) == [dma(address, write=False)]
        assert world.heard == []
    world.drivers[1].send(frame(STRANGER, HIS))
    assert world.heard == [frame(STRANGER, HIS)]
    watch.check()


def test_frames_are_not_put_into_memory_that_is_not_the_guests(world: World, watch: Watch) -> None:
    her, him = world.drivers
    for index, address in enumerate(TARGETS.values()):
        him.offer(index, address)
    for address in TARGETS.values():
        her.send(frame(HIS, HERS, b"x" * 100))
        assert faults(world) == [dma(address, write=True)]
    watch.check()
    her.send(frame(HIS, HERS))
    assert faults(world) == []


@pytest.mark.parametrize("queue", [TX, RX])
def test_rings_that_are_not_in_the_guests_memory(world: World, watch: Watch, queue: int) -> None:
    her, him = world.drivers
    for address in TARGETS.values():
        him.place(queue, address)
        him.set(queue + TAIL, 1)
        her.send(frame(HIS, HERS))
        recorded = faults(world)
        assert dma(address, write=False) in recorded
        assert {fault.function for fault in recorded} == {FIRST_VF + 2}
    watch.check()
    him.start()
    him.send(frame(STRANGER, HIS))
    assert world.heard[-1] == frame(STRANGER, HIS)
    assert faults(world) == []


def test_heads_are_not_written_to_memory_that_is_not_the_guests(world: World, watch: Watch) -> None:
    """Four bytes to where interrupts go are an interrupt message, which only the hypervisor can allow."""
    him = world.drivers[1]
    for address in TARGETS.values():
        him.set(TX + WRITE_BACK, address | 1)
        him.set(TX + WRITE_BACK + 4, address >> 32)
        him.send(frame(STRANGER, HIS))
        kind = "interrupt" if address == 0xFEE0_0000 else "dma"
        assert faults(world) == [Fault(FIRST_VF + 2, address, True, kind)]
    world.heard.clear()
    watch.check()


def test_interrupts_are_sent_in_the_guests_own_world(world: World, watch: Watch) -> None:
    """His table may name any address and vector: what comes of it, comes in his machine."""
    her, him = world.drivers
    function = him.guest.function(NET)
    him.guest.configure(NET, 0x72, 0x8000, 2)
    him.set(0x120, 0x8080)
    him.set(0x108, 1)
    before = world.vms[1].ledger.totals().get("external_interrupt", 0)
    for address in (0xFEE0_0000, POOL_BASE, RAM_BASE, 0xFEC0_0000, 0x9_0000):
        for at, word in enumerate((address & 0xFFFF_FFFF, address >> 32, 0x41, 0)):
            function.write(3, 4 * at, 4, word)
        him.get(0x100)
        her.send(frame(HIS, HERS))
        assert len(him.received()) == 1
    assert world.vms[1].ledger.totals()["external_interrupt"] == before + 5
    assert him.guest.ram[0x9_0000:0x9_0004] == struct.pack("<I", 0x41)
    assert faults(world) == []
    watch.check()


def test_dma_into_code_that_runs(world: World) -> None:
    """A frame whose payload falls on the instructions that the CPU executes, one of them changed."""
    her, him = world.drivers
    code = bytearray(him.guest.ram[CODE : CODE + 40])
    at = bytes(code).index(struct.pack("<II", SHOWN, 1)) + 4
    code[at] = 2
    assert him.guest.ram[SHOWN : SHOWN + 4] == struct.pack("<I", 1)
    him.offer(0, CODE - 14)
    her.send(frame(HIS, HERS, bytes(code)))
    world.pass_time()
    assert him.guest.ram[SHOWN : SHOWN + 4] == struct.pack("<I", 2)
    assert her.guest.ram[SHOWN : SHOWN + 4] == struct.pack("<I", 1)


# --- whom it says it is ---------------------------------------------------------------------------------------------


def test_a_frame_with_another_source_address_reaches_nobody_and_is_counted(world: World, watch: Watch) -> None:
    him = world.drivers[1]
    card = world.neighbours.owners["net"].card
    sources = (HERS, STRANGER, EVERYBODY, bytes(6))
    for source in sources:
        for to in (HERS, STRANGER, EVERYBODY):
            him.send(frame(to, source))
            assert world.heard == []
    assert card.read(0, SPOOFED, 4) == len(sources) * 3
    assert him.reported() == len(sources) * 3
    watch.check()


def test_he_cannot_take_her_address(world: World, watch: Watch) -> None:
    him = world.drivers[1]
    low, high = struct.unpack("<II", HERS + b"\0\0")
    assert him.ask(SET_ADDRESS, low, high)[0] & ~CTS == SET_ADDRESS | NACK
    world.say(frame(HERS, STRANGER), world.guests[0].vm.now)
    world.pass_time()
    assert him.received() == []
    assert world.drivers[0].received() == [frame(HERS, STRANGER)]
    watch.check()


# --- the mailbox ----------------------------------------------------------------------------------------------------


def test_a_flood_of_messages_interrupts_the_hypervisor_only_so_often(world: World, watch: Watch) -> None:
    """Messages of any kind, faster than they can be answered; the interrupts of the card's owner are throttled."""
    him = world.drivers[1]
    exits, started = world.vms[0].ledger.totals()["external_interrupt"], world.guests[0].vm.now
    for number in range(400):
        him.post(*((number * word * 0x9E37_79B9 + number) & 0xFFFF_FFFF for word in range(16)))
        if number % 4 == 0:
            world.pass_time(20)
    microseconds = (world.guests[0].vm.now - started) // 2_500_000
    taken = world.vms[0].ledger.totals()["external_interrupt"] - exits
    assert 10 < taken <= microseconds // 100 + 2
    assert world.drivers[0].ask(NEGOTIATE, 2)[0] & ~CTS == NEGOTIATE | 1 << 31
    watch.check()


def test_who_never_lets_go_of_the_mailbox_only_loses_it(world: World, watch: Watch) -> None:
    her, him = world.drivers
    him.post(NEGOTIATE, 2)
    him.set(MAILBOX, 4)
    world.pass_time(500)
    assert her.ask(NEGOTIATE, 2)[0] & ~CTS == NEGOTIATE | 1 << 31
    him.set(MAILBOX, 0)
    assert him.ask(NEGOTIATE, 2)[0] & ~CTS == NEGOTIATE | 1 << 31
    watch.check()


def test_a_mailbox_is_seen_by_its_own_guest_only(world: World) -> None:
    her, him = world.drivers
    her.set(MEMORY, 0x5EC2E7)
    assert him.get(MEMORY) != 0x5EC2E7
    him.set(MEMORY, 7)
    assert her.get(MEMORY) == 0x5EC2E7


# --- in flight ------------------------------------------------------------------------------------------------------


def reset_softly(driver: VfDriver) -> None:
    driver.set(CTRL, 1 << 26)


def reset_function(driver: VfDriver) -> None:
    guest = driver.guest
    guest.configure(NET, 0xA8, 0x8000, 2)
    guest.configure(NET, BAR0, WINDOW)
    guest.configure(NET, BAR0 + 12, MSIX_WINDOW)
    guest.configure(NET, 4, 6, 2)


def busy(world: World) -> list[VfDriver]:
    """Both drivers, while many frames are on their way from him to the wire and from her to him."""
    her, him = world.drivers
    for _ in range(20):
        him.put(frame(STRANGER, HIS, b"x" * 1400))
        her.put(frame(HIS, HERS, b"y" * 1400))
    him.ring()
    her.ring()
    world.pass_time(3)
    return [her, him]


@pytest.mark.parametrize("reset", [reset_softly, reset_function])
def test_a_function_that_is_reset_in_flight_writes_nothing_more(
    world: World, watch: Watch, reset: Callable[[VfDriver], None]
) -> None:
    her, him = busy(world)
    assert len(him.received()) < 20
    reset(him)
    ram = him.guest.ram[him.base : him.base + 0x3_0000]
    world.pass_time(300)
    assert him.guest.ram[him.base : him.base + 0x3_0000] == ram
    assert him.get(TX + TAIL) == 0
    world.heard.clear()
    watch.check()
    him.start()
    him.send(frame(HERS, HIS))
    assert her.received() == [frame(HERS, HIS)]


def test_a_function_that_is_taken_away_is_gone_at_once(world: World, watch: Watch) -> None:
    her, him = busy(world)
    sriov = next(mode for mode in world.vms[1]._objects.values() if isinstance(mode, Sriov))
    sriov.take_away("net")
    watch.memory = watch.everything()  # the hypervisor has changed his tables itself
    ram = him.guest.ram[him.base : him.base + 0x3_0000]
    world.pass_time(300)
    assert him.guest.ram[him.base : him.base + 0x3_0000] == ram
    assert world.vms[1].board.pci.find(NET) is None
    assert world.vms[1].board.mmio_read(0, WINDOW + CTRL, 4) == 0xFFFF_FFFF
    world.heard.clear()
    watch.check()
    world.say(frame(HIS, STRANGER), world.guests[0].vm.now)
    her.send(frame(HIS, HERS))
    world.pass_time()
    assert her.received() == []


def test_a_function_without_bus_mastering_reaches_nothing(world: World, watch: Watch) -> None:
    her, him = world.drivers
    him.guest.configure(NET, 4, 2, 2)
    him.send(frame(STRANGER, HIS))
    her.send(frame(HIS, HERS))
    assert world.heard == []
    assert him.received() == []
    watch.check()


# --- anything at all ------------------------------------------------------------------------------------------------

OFFSETS = (
    CTRL, 0x100, 0x104, 0x108, 0x10C, 0x110, 0x114, 0x120, 0x140, MEMORY, MEMORY + 4, MAILBOX, 0x300, 0x820,
    *(queue + 64 * number + at for queue in (RX, TX) for number in (0, 1) for at in (0, 4, 8, 16, 20, 24, 40, 56, 60)),
)  # fmt: skip


def storm(world: World, seed: int, steps: int) -> None:
    """He writes at random, mostly what means something: registers, descriptors, messages, his configuration space."""
    chance, him = random.Random(seed), world.drivers[1]
    for _ in range(steps):
        way = chance.randrange(10)
        value = chance.choice(
            (0, 1, 3, 1 << 25, 1 << 26, 0x200, 0x8080, chance.getrandbits(32), chance.choice([*TARGETS.values()]))
        )
        if way < 5:
            him.set(chance.choice(OFFSETS), value)
        elif way < 7:
            him.post(chance.randrange(16) | chance.choice((0, 1 << 16)), value & 0xFFFF_FFFF, chance.getrandbits(32))
        elif way < 8:
            at = him.base + 16 * chance.randrange(0x200)
            him.guest.ram[at : at + 16] = chance.randbytes(8) + struct.pack(
                "<II", DATA | chance.getrandbits(11), value & 7
            )
        elif way < 9:
            him.guest.configure(NET, chance.choice((4, BAR0, BAR0 + 12, 0x70, 0x72, 0xA8)), value & 0xFFFF_FFFF)
        else:
            world.pass_time(chance.choice((20, 200)))
    world.pass_time(2000)


@pytest.mark.parametrize("seed", range(2))
def test_whatever_he_writes_she_does_not_notice(world: World, watch: Watch, seed: int) -> None:
    storm(world, seed, 150)
    assert world.heard == [frame for frame in world.heard if frame[6:12] == HIS]
    world.drivers[0].received()  # broadcasts of his, which anybody may send
    reset_function(world.drivers[1])
    watch.check()
    him = world.drivers[1].start()
    him.send(frame(HERS, HIS))
    assert world.drivers[0].received() == [frame(HERS, HIS)]

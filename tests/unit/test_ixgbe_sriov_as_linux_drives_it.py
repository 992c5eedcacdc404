"""Linux on both sides of an 82599's mailboxes: ixgbe owns the card (ixgbe_main.c, ixgbe_sriov.c), ixgbevf a function.

The owner keeps the pool behind those of the virtual functions for itself.
"""

from __future__ import annotations

import pytest

from tests.ixgbe_host import BROADCAST, MAC, OUTSIDE, PF, RING, US, Driver, Host, frame_to, mac, place
from tests.linux_ixgbe import CTRL_EXT, EIAC, EIMS, EIMS_EX, FCTRL, GPIE, IVAR, Ixgbe
from tests.linux_ixgbevf import ACK, CTS, GET_QUEUES, NACK, NEGOTIATE, RESET, SET_LPE, Ixgbevf

SRIOV = 0x160
VFS = 2
RAL, RAH, MPSAR, VMOLR, VFRE, VFTE, PFVFSPOOF = 0xA200, 0xA204, 0xA600, 0xF000, 0x51E0, 0x8110, 0x8200
MBVFICR, PFMAILBOX, PFMBMEM, VFLRE, VFLREC = 0x710, 0x4B00, 0x13000, 0x600, 0x700
MAILBOX_CAUSE, LINK_CAUSE = 1 << 19, 1 << 20
OWN_QUEUE = 2 * VFS
ACCEPT_UNTAGGED, ACCEPT_BROADCAST, ACCEPT_HASHED = 1 << 24, 1 << 27, 1 << 25


class Owner(Ixgbe):
    """The owner's steps. `clear_to_send`: functions whose drivers have reset them since the card was."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.clear_to_send = [False] * VFS
        self.rings = Driver(host)
        self.rings.rx, self.rings.tx = 0x1000 + 0x40 * OWN_QUEUE, 0x6000 + 0x40 * OWN_QUEUE

    def word(self, at: int, size: int = 2) -> int:
        """A register of the card's SR-IOV capability."""
        return self.host.card.config_read(SRIOV + at, size)

    def enable_functions(self) -> None:
        """As Linux's PCI core: one supported page size, so many functions, so far apart, each with its windows."""
        assert self.word(0) == 0x10
        assert self.word(0xC) == self.word(0xE) >= VFS
        pages = self.word(0x1C, 4)
        self.host.configure(PF, SRIOV + 0x20, pages & -pages)
        self.host.configure(PF, SRIOV + 0x10, VFS, 2)
        assert (self.word(0x14), self.word(0x16)) == (128, 2)
        self.host.configure(PF, SRIOV + 8, 9, 2)
        for vf in range(VFS):
            function = self.host.bus.find(place(vf))
            assert function is not None
            assert function.config_read(0, 4) == 0xFFFF_FFFF  # its name is in the capability:
            self.host.configure(place(vf), 4, 4, 2)
        assert self.word(0x1A) == 0x10ED

    def up(self) -> None:
        """Reset, 64 pools of two queues, the last of those in use for itself."""
        self.reset()
        self.set(0x8120, 2 | 4)  # MTQC
        self.set(0x4A80, self.get(0x4A80) | 1)
        self.set(0x5818, 0xB)  # MRQC: pools with their own receive-side scaling
        self.set(0x51B0, 1 | VFS << 7 | 1 << 30)  # VT_CTL
        for array in (VFRE, VFTE):
            self.set(array, ~0 << VFS & 0xFFFF_FFFF)
            self.set(array + 4, 0xFFFF_FFFF)
        self.set(0x11050, 3)
        self.set(0x8220, 1)
        self.set(PFVFSPOOF, (1 << VFS) - 1)
        self.set(VMOLR + 4 * VFS, ACCEPT_UNTAGGED | ACCEPT_BROADCAST | ACCEPT_HASHED)
        self.set_address(0, MAC, VFS)
        self.set(FCTRL, self.get(FCTRL) | 1 << 10)
        self.set_up_queue(OWN_QUEUE, 0)
        for index in range(RING):
            self.rings.give(index)
        self.set(self.rings.rx + 0x18, RING - 1)
        self.rings.rx_next = self.rings.tx_next = 0
        self.halt_security()
        self.use_msix(2)
        self.set(GPIE, self.get(GPIE) | 3 << 14)
        self.set(IVAR, 0)
        self.set(IVAR + 4 * (OWN_QUEUE >> 1), 0x8080)
        self.set(EIAC, 0xFFFF)
        self.set(EIMS, MAILBOX_CAUSE | LINK_CAUSE)
        for i in range(2):
            self.set(EIMS_EX + 4 * i, 0xFFFF_FFFF)
        self.set(CTRL_EXT, self.get(CTRL_EXT) | 1 << 28 | 1 << 14)
        self.clear_to_send = [False] * VFS
        self.ping()

    def set_address(self, entry: int, address: bytes, pool: int) -> None:
        self.set(MPSAR + 8 * entry, 1 << pool)
        self.set(MPSAR + 8 * entry + 4, 0)
        self.set(RAL + 8 * entry, int.from_bytes(address[:4], "little"))
        self.set(RAH + 8 * entry, int.from_bytes(address[4:], "little") | 1 << 31)

    # --- the mailboxes ----------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Its interrupt for everything that is no queue's: functions that were reset, messages, acknowledgements."""
        self.host.pass_time()
        while any((function, message) == (PF, 0x41) for function, message, _ in self.host.interrupts):
            self.host.interrupts = [told for told in self.host.interrupts if told[:2] != (PF, 0x41)]
            causes = self.get(0x808) & 0xFFFF_0000
            self.set(0x800, causes)
            for vf in range(VFS):
                if self.get(VFLRE) >> vf & 1:
                    self.set(VFLREC, 1 << vf)
                    self.clear_to_send[vf] = False
                if self.take_cause(1 << vf):
                    self.answer(vf)
                self.take_cause(1 << 16 + vf)
            self.set(EIMS, MAILBOX_CAUSE | LINK_CAUSE)
            self.host.pass_time()

    def take_cause(self, bit: int) -> bool:
        if not self.get(MBVFICR) & bit:
            return False
        self.set(MBVFICR, bit)
        return True

    def lock(self, vf: int) -> None:
        self.set(PFMAILBOX + 4 * vf, 1 << 3)
        assert self.get(PFMAILBOX + 4 * vf) & 1 << 3

    def send(self, vf: int, words: list[int]) -> None:
        self.lock(vf)
        for at, word in enumerate(words):
            self.set(PFMBMEM + 64 * vf + 4 * at, word)
        self.set(PFMAILBOX + 4 * vf, 1)

    def ping(self) -> None:
        """Every function hears that it may go on, or that it may not."""
        for vf in range(VFS):
            self.send(vf, [0x100 | CTS * self.clear_to_send[vf]])

    def answer(self, vf: int) -> None:
        self.lock(vf)
        words = [self.get(PFMBMEM + 64 * vf + 4 * at) for at in range(16)]
        self.set(PFMAILBOX + 4 * vf, 2)
        if words[0] & (ACK | NACK):
            return
        if words[0] == RESET:
            self.set(VMOLR + 4 * vf, ACCEPT_UNTAGGED | ACCEPT_BROADCAST)
            self.set_address(127 - vf, mac(vf), vf)
            for queue in (2 * vf, 2 * vf + 1):
                self.set(0x2F04, 1 | 1 << 16 | queue << 8)  # QDE
                self.set(0x603C + 0x40 * queue, 0)
                self.set(0x6038 + 0x40 * queue, 0)
            for array in (VFTE, VFRE):
                self.set(array, self.get(array) | 1 << vf)
            self.clear_to_send[vf] = True
            low, high = int.from_bytes(mac(vf)[:4], "little"), int.from_bytes(mac(vf)[4:], "little")
            self.send(vf, [RESET | ACK, low, high, 0])
        elif not self.clear_to_send[vf]:
            self.send(vf, [words[0] | NACK])
        else:
            granted = words[0] & 0xFFFF in (SET_LPE, GET_QUEUES) or words[:2] == [NEGOTIATE, 2]
            self.send(vf, [words[0] | CTS | (ACK if granted else NACK), *words[1:]])


@pytest.fixture
def owner() -> Owner:
    owner = Owner(Host())
    owner.enable_functions()
    owner.up()
    return owner


@pytest.fixture
def functions(owner: Owner) -> list[Ixgbevf]:
    """Both functions, up."""
    functions = [Ixgbevf(owner.host, Driver(owner.host, vf), owner.serve) for vf in range(VFS)]
    for function in functions:
        function.up()
    owner.host.interrupts.clear()
    return functions


def test_a_function_comes_up_under_it(owner: Owner) -> None:
    vf = Ixgbevf(owner.host, Driver(owner.host, 1), owner.serve)
    assert vf.reset() == mac(1)
    assert vf.negotiate() == "1.1"
    assert vf.link()


def test_everybody_reaches_everybody(owner: Owner, functions: list[Ixgbevf]) -> None:
    """The owner and two functions among each other, and the wire."""
    ends = {MAC: owner.rings, mac(0): functions[0].rings, mac(1): functions[1].rings}
    for source, sender in ends.items():
        for target in (*ends, OUTSIDE):
            if target != source:
                sender.send(frame_to(target, source))
        owner.host.pass_time()
    for target, receiver in ends.items():
        assert receiver.taken() == [frame_to(target, source) for source in ends if source != target]
        owner.host.receive(frame_to(target))
        owner.host.pass_time()
        assert receiver.taken() == [frame_to(target)]
    assert owner.host.frames == [frame_to(OUTSIDE, source) for source in ends]


def test_a_broadcast_reaches_all_pools(owner: Owner, functions: list[Ixgbevf]) -> None:
    frame = frame_to(BROADCAST, mac(0))
    functions[0].rings.send(frame)
    owner.host.pass_time()
    assert owner.rings.taken() == functions[1].rings.taken() == owner.host.frames == [frame]
    assert functions[0].rings.taken() == []


def test_what_nobody_has_goes_to_the_owners_pool(owner: Owner, functions: list[Ixgbevf]) -> None:
    owner.set(FCTRL, owner.get(FCTRL) | 1 << 9)  # promiscuous
    stranger = frame_to(bytes.fromhex("020000000077"))
    owner.host.receive(stranger)
    owner.host.pass_time()
    assert owner.rings.taken() == [stranger]
    assert all(function.rings.taken() == [] for function in functions)


def test_each_side_interrupts_its_own(owner: Owner, functions: list[Ixgbevf]) -> None:
    owner.host.receive(frame_to(MAC))
    owner.host.receive(frame_to(mac(1)))
    owner.host.pass_time()
    assert {told[:2] for told in owner.host.interrupts} == {(PF, 0x40), (place(1), 0x40)}


def test_a_function_level_reset_is_heard_of(owner: Owner, functions: list[Ixgbevf]) -> None:
    owner.host.configure(place(0), 0xA8, 0x8000, 2)
    owner.serve()
    assert owner.clear_to_send == [False, True]
    owner.host.configure(place(0), 4, 4, 2)
    assert functions[0].ask(SET_LPE, 1518)[0] == SET_LPE | NACK
    rings = functions[0].up()
    owner.host.receive(frame_to(mac(0)))
    owner.host.pass_time()
    assert rings.taken() == [frame_to(mac(0))]


def test_functions_hear_that_the_owner_has_reset_the_card(owner: Owner, functions: list[Ixgbevf]) -> None:
    for function in functions:
        assert function.link()
    owner.up()
    for vf, function in enumerate(functions):
        assert not function.link()
        rings = function.up()
        owner.host.receive(frame_to(mac(vf)))
        owner.host.pass_time(owner.host.now + 100 * US)
        assert rings.taken() == [frame_to(mac(vf))]

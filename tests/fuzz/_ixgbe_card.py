"""An 82599 whose owner, neighbour and wire watch what a hostile driver makes of it."""

from __future__ import annotations

import random
from collections import Counter

from hv.silicon.ixgbe.transmit import LONGEST, LONGEST_TO_CUT
from modes.sriov.nic_owner import INTERVAL_US, NicOwner
from tests.fuzz._ixgbe_reach import MESSAGES
from tests.ixgbe_host import PF, RING, RX, RX_BUFFERS, SHARE, TX, TX_BUFFERS, US, Driver, Host, mac, place

SECRET = b"what is between others"


class WatchedCard:
    """One card. `mine` are the functions of whoever is hostile; the others belong to well-meaning ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.reached: Counter[str] = Counter()
        self.wire: list[bytes] = []
        self.host = host = Host()
        self.card = host.card
        host.card.connect(self.sent)
        self.owned = bool(seed % 2)
        self.owner: NicOwner | None = None
        self.drivers = [Driver(host, 0), Driver(host, 1)]
        if self.owned:
            host.virtualize(2)
            self.drivers.append(Driver(host))
            self.mine = list(self.drivers)
        else:
            self.owner = NicOwner(host.card, 0xF000_0000, host.bus)
            self.mine = self.drivers[:1]
        self.last_served = -(10**12)
        self.vlans: set[int] = set()  # that the guest has asked for
        for vf in range(2):
            self.give(vf)

    def give(self, vf: int) -> None:
        """A function with its driver up, as its owner gives it."""
        driver = self.drivers[vf]
        if self.owner is not None:
            self.owner.give(vf, mac(vf))
        self.restart(driver)

    def restart(self, driver: Driver) -> None:
        """Everything as a driver leaves it before its first frame."""
        host = self.host
        if driver.vf is None:
            return
        host.configure(driver.place, 4, 4, 2)
        if self.owner is not None:
            driver.set(0, 1 << 26)
            driver.set(0x2FC, 0)
            driver.set(0x200, 1)
            driver.set(0x2FC, 1)
            host.pass_time(host.now + 2 * INTERVAL_US * US)
            self.serve()
        driver.rx_next = driver.tx_next = 0
        driver.start()

    def sent(self, frame: bytes, at: int) -> None:
        """On the wire."""
        self.wire.append(frame)
        assert 60 <= len(frame) <= LONGEST + 4, "no frame"
        if self.owner is not None:
            assert frame[6:12] in (mac(0), mac(1)), "a forged source address"
            if frame[12:14] == b"\x81\x00" and frame[6:12] == mac(0):
                assert int.from_bytes(frame[14:16], "big") & 0xFFF in self.vlans, "a VLAN of somebody else's"

    def serve(self) -> None:
        """The owner's interrupts. They keep their distance."""
        host, owner = self.host, self.owner
        told = [when for function, _, when in host.interrupts if function == PF]
        host.interrupts.clear()
        if owner is None or not told:
            return
        for when in told:
            assert when - self.last_served >= INTERVAL_US * US, "a flood of interrupts"
            self.last_served = when
        before = [(guest.messages, guest.refused) for guest in owner.state]
        words = [self.host.get(0x13000 + 64 * vf) for vf in range(2)]
        owner.service()
        for vf, (messages, refused) in enumerate(before):
            guest = owner.state[vf]
            if guest.messages == messages + 1:
                how = "refused" if guest.refused > refused else "granted"
                kinds = {number: name for name, number in MESSAGES.items()}
                self.reached[f"{kinds.get(words[vf] & 0xFFFF, 'other message')} {how}"] += 1
                if vf == 0 and how == "granted" and words[0] & 0xFFFF == MESSAGES["SET_VLAN"] and words[0] >> 16 & 0xFF:
                    self.vlans.add(self.host.get(0x13004) & 0xFFF)

    def check(self) -> None:
        """What is true at every moment."""
        chip, host = self.card.chip, self.host
        s = chip.state
        waiting = [arrival for function in chip.functions for arrival in function.state.receive.waiting]
        assert s.buffered == sum(len(arrival.frame) for arrival in waiting), "the receive buffer does not add up"
        assert s.buffered <= 512 << 10, "the receive buffer holds more than there is"
        assert all(0 <= value < 1 << 32 for value in s.registers.values())
        assert all(0 <= value < 1 << 32 for value in s.counters.values())
        for ring in s.tx.values():
            assert len(ring.packet) <= LONGEST_TO_CUT + 1, "a packet that never ends"
            self.reached["segmented"] += ring.cutting is not None
        for vf, box in s.mailboxes.items():
            assert box.owner in (0, 4, 8), "a mailbox of two"
            self.reached["mailbox locked"] += box.owner == 4 and vf == 0
        for function in chip.functions:
            i = function.state.interrupts
            if function.msix.enabled:
                late = [v for v in range(function.vectors) if i.armed & i.causes & i.mask & 1 << v]
                assert all(i.quiet.get(v, 0) > host.now for v in late), "a cause without a message"
                self.reached["throttled"] += bool(late)
                self.reached["pending in MSI-X"] += bool(function.state.msix.pending)
            self.reached["masked"] += bool(i.causes & i.armed & ~i.mask)
            stuck = function.state.receive
            self.reached["frame waits for descriptors"] += bool(stuck.waiting) and stuck.look is None
        if self.owner is not None:
            self.check_others()

    def check_others(self) -> None:
        """The neighbour and the card's owner, from whom nothing may be taken."""
        host, base = self.host, self.drivers[1].base
        assert all(function == place(0) for function, _ in host.blocked), "DMA in another's name"
        for function, address, size in host.written:
            assert function != PF, "DMA in the owner's name"
            if function == place(1):
                in_rings = base + RX <= address and address + size <= base + TX + 16 * RING
                in_buffers = base + RX_BUFFERS <= address and address + size <= base + TX_BUFFERS
                assert in_rings or in_buffers, "DMA in the neighbour's name"
        if self.random.random() < 0.05:
            assert SECRET not in host.ram[SHARE : 2 * SHARE], "what is for the neighbour came in"
        for frame in self.drivers[1].taken():
            assert frame[:6] == mac(1) or frame[0] & 1, "the neighbour got what is not for him"
            self.reached["looped inside"] += frame[6:12] == mac(0)

    def settle(self) -> None:
        """Until what the line has to carry is gone."""
        self.host.pass_time(max(self.host.now, self.card.chip.state.line_free) + 10 * US)

    def seen(self, frame: bytes) -> list[bytes]:
        return [sent for sent in self.wire if sent == frame]

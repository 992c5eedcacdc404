"""An 82599 without a CPU, its owner (the hypervisor's, modes/sriov/nic_owner.py), and drivers for its functions."""

from __future__ import annotations

from modes.sriov.nic_owner import NicOwner
from tests.ixgbe_host import PF, Driver, Host, mac

RESET, ACK = 1, 1 << 31


class Owned:
    """A card with an owner that gets its interrupts, and two guests' drivers."""

    def __init__(self) -> None:
        self.host = Host()
        self.owner = NicOwner(self.host.card, 0xF000_0000, self.host.bus)
        self.drivers = [Driver(self.host, 0), Driver(self.host, 1)]
        for vf, driver in enumerate(self.drivers):
            self.owner.give(vf, mac(vf))
            self.host.configure(driver.place, 4, 4, 2)

    def serve(self) -> int:
        """Let the owner answer what waits. Returns how often it was interrupted."""
        served = 0
        self.host.pass_time()
        while any(function == PF for function, _, _ in self.host.interrupts):
            self.host.interrupts = [told for told in self.host.interrupts if told[0] != PF]
            self.owner.service()
            self.host.pass_time()
            served += 1
        return served

    def post(self, vf: int, *words: int) -> None:
        driver = self.drivers[vf]
        driver.set(0x2FC, 4)
        assert driver.get(0x2FC) & 4
        for index, word in enumerate(words):
            driver.set(0x200 + 4 * index, word)
        driver.set(0x2FC, 1)

    def ask(self, vf: int, *words: int) -> list[int]:
        """A message, and the answer's words."""
        self.post(vf, *words)
        assert self.serve() == 1
        driver = self.drivers[vf]
        assert driver.get(0x2FC) & 0x38 == 0x30  # read and answered, and free
        answer = [driver.get(0x200 + 4 * index) for index in range(16)]
        driver.set(0x2FC, 2)
        self.serve()
        return answer

    def start(self, vf: int) -> Driver:
        driver = self.drivers[vf]
        driver.set(0, 1 << 26)
        assert driver.get(0x2FC) & 0xC0 == 0x80  # reset done
        self.ask(vf, RESET)
        driver.start()
        return driver

"""Linux's ixgbe, the driver of a whole 82599, played by a test: what it reads, waits for and checks, in its order.

The steps are those of ixgbe_main.c, ixgbe_82599.c, ixgbe_common.c, ixgbe_phy.c and ixgbe_ethtool.c, which are much the
same in Intel's drivers for other systems. The numbers are written out here once more.
"""

from __future__ import annotations

from tests.ixgbe_host import ENABLE, PF, RX, TX, US, Driver, Host

CTRL, STATUS, CTRL_EXT, ESDP, I2CCTL = 0x0, 0x8, 0x18, 0x20, 0x28
EICR, EICS, EIAC, EIMS, EIMC, GPIE, IVAR, IVAR_MISC = 0x800, 0x808, 0x810, 0x880, 0x888, 0x898, 0x900, 0xA00
EICS_EX, EIMS_EX, EIMC_EX, EIAM_EX = 0xA90, 0xAA0, 0xAB0, 0xAD0
AUTOC, LINKS, ANLP1, HLREG0, FCTRL, RXCTRL, RDRXCTL = 0x42A0, 0x42A4, 0x42B0, 0x4240, 0x5080, 0x3000, 0x2F00
EEC, EERD, SWSM, SW_FW_SYNC, SECRXCTRL, SECRXSTAT = 0x10010, 0x10014, 0x10140, 0x10160, 0x8D00, 0x8D04
SDA_IN, SDA, SCL, SCL_IN = 4, 8, 2, 1
RESETS = 1 << 26 | 1 << 3
LINK_UP, TEN_GIGABIT = 1 << 30, 3 << 28


class Ixgbe:
    """The driver's small steps. Each fails as the driver's does: by an assertion."""

    def __init__(self, host: Host) -> None:
        self.host, self.get, self.set = host, host.get, host.set

    def wait(self, offset: int, mask: int, wanted: int, looks: int = 10) -> None:
        """Until the bits of `mask` are `wanted`, a millisecond between two looks."""
        for _ in range(looks):
            if self.get(offset) & mask == wanted:
                return
            self.host.pass_time(self.host.now + 1000 * US)
        raise AssertionError(f"{offset:#x} is {self.get(offset):#x}")

    # --- EEPROM and semaphores --------------------------------------------------------------------------------

    def word(self, at: int) -> int:
        assert at < 1 << (self.get(EEC) >> 11 & 15) + 6
        self.set(EERD, at << 2 | 1)
        self.wait(EERD, 2, 2)
        return self.get(EERD) >> 16

    def take(self, resource: int) -> None:
        """A resource that drivers and firmware share."""
        assert not self.get(SWSM) & 1
        self.set(SWSM, self.get(SWSM) | 2)
        assert self.get(SWSM) & 2
        held = self.get(SW_FW_SYNC)
        assert not held & (resource | resource << 5)
        self.set(SW_FW_SYNC, held | resource)
        self.set(SWSM, self.get(SWSM) & ~3)

    def give_back(self, resource: int) -> None:
        assert not self.get(SWSM) & 1
        self.set(SW_FW_SYNC, self.get(SW_FW_SYNC) & ~resource)
        self.set(SWSM, self.get(SWSM) & ~3)

    # --- the module, over two wires ---------------------------------------------------------------------------

    def wire(self, *, clock: bool, data: bool) -> None:
        self.set(I2CCTL, SCL * clock | SDA * data)
        if clock:
            assert self.get(I2CCTL) & SCL_IN  # nobody stretches it

    def start(self) -> None:
        for clock, data in ((False, True), (True, True), (True, False), (False, False)):
            self.wire(clock=clock, data=data)

    def stop(self) -> None:
        for clock, data in ((False, False), (True, False), (True, True)):
            self.wire(clock=clock, data=data)

    def clock(self, bit: int = 1) -> int:
        """One bit in either direction; who does not drive the wire leaves it high."""
        self.wire(clock=False, data=bool(bit))
        self.wire(clock=True, data=bool(bit))
        seen = bool(self.get(I2CCTL) & SDA_IN)
        self.wire(clock=False, data=bool(bit))
        return int(seen)

    def tell(self, byte: int) -> bool:
        """True: it is acknowledged."""
        for shift in range(7, -1, -1):
            assert self.clock(byte >> shift & 1) == byte >> shift & 1
        return not self.clock()

    def hear(self, *, more: bool = False) -> int:
        byte = 0
        for _ in range(8):
            byte = byte << 1 | self.clock()
        self.clock(0 if more else 1)
        return byte

    def module(self, at: int, length: int = 1, device: int = 0xA0) -> bytes | None:
        """Bytes of the module's memory. None: nobody answers."""
        self.start()
        if not self.tell(device):
            self.stop()
            return None
        assert self.tell(at)
        self.start()
        assert self.tell(device | 1)
        data = bytes(self.hear(more=i < length - 1) for i in range(length))
        self.stop()
        return data

    # --- reset and link ---------------------------------------------------------------------------------------

    def stop_adapter(self) -> None:
        """No receiving, no interrupts, no queues, no access to memory."""
        self.set(RXCTRL, self.get(RXCTRL) & ~1)
        self.mask_interrupts()
        for queue in range(128):
            self.set(0x6028 + 0x40 * queue, 1 << 26)
            at = 0x1028 + 0x40 * queue if queue < 64 else 0xD028 + 0x40 * (queue - 64)
            self.set(at, self.get(at) & ~ENABLE | 1 << 26)
        self.set(CTRL, self.get(CTRL) | 1 << 2)
        self.wait(STATUS, 1 << 19, 0)

    def mask_interrupts(self) -> None:
        self.set(EIMC, 0xFFFF_0000)
        for i in range(2):
            self.set(EIMC_EX + 4 * i, 0xFFFF_FFFF)
        self.get(EICR)

    def reset(self) -> None:
        self.stop_adapter()
        self.set(CTRL, self.get(CTRL) | 1 << 26)
        self.wait(CTRL, RESETS, 0)
        self.wait(EEC, 1 << 9, 1 << 9)
        self.wait(RDRXCTL, 1 << 3, 1 << 3)

    def link(self) -> int:
        """What LINKS says; a module must be in the cage."""
        assert self.get(ESDP) & 4
        self.get(LINKS)  # the old state
        return self.get(LINKS)

    def restart_link(self) -> None:
        """With the upper bit of LMS the other way round, until negotiation moves; then as it was."""
        autoc = self.get(AUTOC) | 1 << 12
        self.set(AUTOC, autoc ^ 1 << 15)
        for _ in range(10):
            if self.get(ANLP1) & 0xF_0000:
                break
            self.host.pass_time(self.host.now + 4000 * US)
        else:
            raise AssertionError("negotiation stays where it is")
        self.set(AUTOC, autoc)

    # --- up ---------------------------------------------------------------------------------------------------

    def halt_security(self) -> None:
        self.set(SECRXCTRL, self.get(SECRXCTRL) | 2)
        self.wait(SECRXSTAT, 1, 1)
        self.set(RXCTRL, self.get(RXCTRL) | 1)
        self.set(SECRXCTRL, self.get(SECRXCTRL) & ~2)

    def set_up_queue(self, queue: int, base: int) -> None:
        """A pair of queues with buffers of 2 KiB, behind `base` in memory."""
        rx, tx = 0x1000 + 0x40 * queue, 0x6000 + 0x40 * queue
        self.set(tx + 0x28, 1 << 26)
        for register, value in ((0, base + TX), (4, 0), (8, 256), (0x3C, 0), (0x38, 0), (0x10, 0), (0x18, 0)):
            self.set(tx + register, value)
        self.set(tx + 0x28, ENABLE | 8 << 16 | 1 << 8 | 32)
        self.wait(tx + 0x28, ENABLE, ENABLE)
        control = self.get(rx + 0x28) & ~ENABLE
        self.set(rx + 0x28, control)
        for register, value in ((0, base + RX), (4, 0), (8, 256), (0x10, 0), (0x18, 0), (0x14, 1 << 25 | 4 << 8 | 2)):
            self.set(rx + register, value)
        self.set(rx + 0x28, control | ENABLE)
        self.wait(rx + 0x28, ENABLE, ENABLE)

    def open(self, vectors: int = 2) -> Driver:
        """As ixgbe_open: one pair of queues with vector 0, everything else with the last vector."""
        driver = Driver(self.host)
        self.set(0x4A80, self.get(0x4A80) | 1)  # DMATXCTL
        self.set(0xEA00, 2 << 29 | 0x1330)  # PSRTYPE
        self.set(RDRXCTL, self.get(RDRXCTL) & ~(0x1F << 17) | 1 << 25 | 1 << 26 | 1 << 1)
        self.set(0x4268, 1518 << 16)  # MHADD, with jumbo frames on: the longest frame
        self.set(HLREG0, self.get(HLREG0) | 4)
        self.set_up_queue(0, 0)
        for index in range(16):
            driver.give(index)
        self.set(driver.rx + 0x18, 15)
        self.halt_security()
        self.set(FCTRL, self.get(FCTRL) | 1 << 10)
        self.set(CTRL_EXT, self.get(CTRL_EXT) | 1 << 28)
        self.use_msix(vectors)
        self.get(EICR)
        self.set(EIMS, 1 << 20 | 1 << 19)
        for i in range(2):
            self.set(EIMS_EX + 4 * i, 0xFFFF_FFFF)
        return driver

    def use_msix(self, vectors: int) -> None:
        assert self.host.bus.functions[PF].config_read(0x72, 2) & 0x7FF == 63
        for vector in range(vectors):
            for word, entry in enumerate((0xFEE0_0000, 0, 0x40 + vector, 0)):
                self.host.card.write(4, 16 * vector + 4 * word, 4, entry)
        self.host.configure(PF, 0x72, 0x8000, 2)
        self.set(GPIE, 1 << 4 | 1 << 31 | 1 << 5 | 1 << 30)
        for i in range(2):
            self.set(EIAM_EX + 4 * i, 0xFFFF_FFFF)
        self.set(IVAR, 0x8080)
        self.set(IVAR_MISC, (0x80 | vectors - 1) << 8)
        self.set(EIAC, 0xFFFF)

    def messages(self) -> list[int]:
        """The vectors that have interrupted since this was last asked."""
        self.host.pass_time()
        told = [message - 0x40 for _, message, _ in self.host.interrupts]
        self.host.interrupts.clear()
        return told

"""The registers of the 82599's physical function (data sheet, 8.2.3): one table, and the bits by name.

Those of the queues are in rings.py, those of a virtual function in virtual.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from hv.silicon.ethernet.register import Register, by_offset
from hv.silicon.ixgbe import eeprom

POOLS, QUEUES, VECTORS = 64, 128, 64
ADDRESSES, VLANS = 128, 64  # entries of the tables of receive addresses and of VLANs

# --- what they are --------------------------------------------------------------------------------------------------

CTRL, STATUS, CTRL_EXT, ESDP, I2CCTL, FRTIMER = 0x00000, 0x00008, 0x00018, 0x00020, 0x00028, 0x00048
EICR, EICS, EIMS, EIMC, EIAC, EIAM = 0x00800, 0x00808, 0x00880, 0x00888, 0x00810, 0x00890
EITR, EITR_HIGH, EITRSEL, GPIE = 0x00820, 0x12300, 0x00894, 0x00898
IVAR, IVAR_MISC = 0x00900, 0x00A00
EICS_EX, EIMS_EX, EIMC_EX, EIAM_EX = 0x00A90, 0x00AA0, 0x00AB0, 0x00AD0
VFLRE, VFLRE_HIGH, VFLREC = 0x00600, 0x001C0, 0x00700
MBVFICR, MBVFIMR = 0x00710, 0x00720
RXCTRL, QDE, RXPBSIZE, RDRXCTL = 0x03000, 0x02F04, 0x03C00, 0x02F00
SRRCTL_LOW, DCA_RXCTRL_LOW = 0x02100, 0x02200  # a second place for those of the first 16 queues
RQSMR, TQSM = 0x02300, 0x08600
RX_RINGS, RX_RINGS_HIGH, TX_RINGS = 0x01000, 0x0D000, 0x06000
DMATXCTL, DTXTCPFLGL, DTXTCPFLGH = 0x04A80, 0x04A88, 0x04A8C
PFMAILBOX, PFMBMEM = 0x04B00, 0x13000
HLREG0, MAXFRS, AUTOC, LINKS, ANLP1, MSCA, MSRWD = 0x04240, 0x04268, 0x042A0, 0x042A4, 0x042B0, 0x0425C, 0x04260
FCTRL, VLNCTRL, MCSTCTRL, RXCSUM = 0x05080, 0x05088, 0x05090, 0x05000
VT_CTL, VMTXSW, VFRE, VFTE = 0x051B0, 0x05180, 0x051E0, 0x08110
MTA, RAL, RAL_ALIAS, VFTA, MPSAR, UTA = 0x05200, 0x0A200, 0x05400, 0x0A000, 0x0A600, 0x0F400
VMOLR, VLVF, VLVFB, VMVIR, MRQC, MTQC = 0x0F000, 0x0F100, 0x0F200, 0x08000, 0x05818, 0x08120
PFVFSPOOF, PFDTXGSWC, RETA, RSSRK = 0x08200, 0x08220, 0x05C00, 0x05C80
EEC, EERD, SWSM, FWSM, SW_FW_SYNC = 0x10010, 0x10014, 0x10140, 0x10148, 0x10160
GCR_EXT = 0x11050

REGISTERS: tuple[Register, ...] = (
    Register("CTRL", CTRL, 0x0000_0004),
    Register("STATUS", STATUS, 0),
    Register("CTRL_EXT", CTRL_EXT, 0x1403_4000),
    Register("ESDP", ESDP, 0xFFFF_FF00 | 0xFB, 0x4),  # its pin SDP2: a module is in the cage
    Register("I2CCTL", I2CCTL, 0),
    Register("FRTIMER", FRTIMER, 0),
    Register("TCPTIMER", 0x0004C),
    Register("LEDCTL", 0x00200, reset=0x0504_8100),
    Register("EICR", EICR),
    Register("EICS", EICS),
    Register("EIMS", EIMS),
    Register("EIMC", EIMC),
    Register("EIAC", EIAC, 0x4000_FFFF),
    Register("EIAM", EIAM),
    Register("EITR", EITR, count=24),
    Register("EITR_HIGH", EITR_HIGH, count=VECTORS - 24),
    Register("EITRSEL", EITRSEL),
    Register("GPIE", GPIE, 0xC000_FFFF),
    Register("IVAR", IVAR, count=64),
    Register("IVAR_MISC", IVAR_MISC, 0xFFFF),
    Register("EICS_EX", EICS_EX, count=2),
    Register("EIMS_EX", EIMS_EX, count=2),
    Register("EIMC_EX", EIMC_EX, count=2),
    Register("EIAM_EX", EIAM_EX, count=2),
    Register("VFLRE", VFLRE, 0),
    Register("VFLRE_HIGH", VFLRE_HIGH, 0),
    Register("VFLREC", VFLREC, count=2),
    Register("MBVFICR", MBVFICR, count=4),
    Register("MBVFIMR", MBVFIMR, reset=0xFFFF_FFFF, count=4),
    Register("RQSMR", RQSMR, 0x0F0F_0F0F, count=32),
    Register("RDRXCTL", RDRXCTL, 0x1EFF_0006, 0x0010_8808),  # initialized: there is nothing to wait for
    Register("QDE", QDE, 0x0001_7F01),
    Register("RXCTRL", RXCTRL, 0x1),
    Register("PFCTOP", 0x03008),
    Register("RTRUP2TC", 0x03020),
    Register("RSCDBU", 0x03028),
    Register("FCTTV", 0x03200, count=4),
    Register("FCRTL", 0x03220, count=8),
    Register("FCRTH", 0x03260, count=8),
    Register("FCRTV", 0x032A0),
    Register("RXPBSIZE", RXPBSIZE, 0x000F_FC00, 0x0008_0000, count=8),  # 512 KiB; only that of the first class counts
    Register("FCCFG", 0x03D00, 0x18),
    # The PCS for 1 Gb/s and its negotiation: kept, and without effect.
    Register("PCS1GCFIG", 0x04200, 0xC000_0000),
    Register("PCS1GLCTL", 0x04208, 0x0007_007F),
    Register("PCS1GLSTA", 0x0420C, 0),
    Register("PCS1GANA", 0x04218, 0xB1E0),
    Register("PCS1GANLP", 0x0421C, 0),
    Register("HLREG0", HLREG0, reset=0x0801_2C0B),
    Register("MAXFRS", MAXFRS, 0xFFFF_0000, 1518 << 16),
    Register("MSCA", MSCA),
    Register("MSRWD", MSRWD, 0xFFFF),
    Register("MFLCN", 0x04294, 0xF),
    Register("AUTOC", AUTOC, reset=0xC09C_6004 & ~0x1000),
    Register("LINKS", LINKS, 0),
    Register("ANLP1", ANLP1, 0),
    Register("AUTOC2", 0x042A8, reset=0x000A_0000),
    Register("LINKS2", 0x04324, 0),
    Register("MACC", 0x04330),
    Register("RTTDCS", 0x04900, reset=0x00C0_0000),
    Register("RTTDQSEL", 0x04904, 0x7F),
    Register("RTTDT1C", 0x04908),
    Register("TXPBTHRESH", 0x04950, reset=0x96),
    Register("TXPBTHRESH", 0x04954, count=7),
    Register("RTTBCNRC", 0x04984),
    Register("DMATXCTL", DMATXCTL, 0xFFFF_006B, 0x8100_0000),
    Register("DTXTCPFLGL", DTXTCPFLGL, 0x0FFF_0FFF, 0x0FF6_0FF6),  # the flags of the first segment, and of the middle
    Register("DTXTCPFLGH", DTXTCPFLGH, 0x0FFF, 0x0F7F),  # and of the last
    Register("RXCSUM", RXCSUM, 0x0000_3000),
    Register("RFCTL", 0x05008),
    Register("EXVET", 0x05078, 0xFFFF_0000, 0x8100_0000),
    Register("FCTRL", FCTRL, 0x0000_0702),
    Register("VLNCTRL", VLNCTRL, 0x7000_FFFF, 0x0000_8100),
    Register("MCSTCTRL", MCSTCTRL, 0x7),
    Register("ETQF", 0x05128, count=8),
    Register("VMTXSW", VMTXSW, count=2),
    Register("VT_CTL", VT_CTL, 0x6000_1F81),
    Register("VFRE", VFRE, count=2),
    Register("MTA", MTA, count=128, kept=True),
    Register("PSRTYPE", 0x0EA00, count=64, kept=True),
    Register("MRQC", MRQC),
    Register("RETA", RETA, count=32),
    Register("RSSRK", RSSRK, count=10),
    Register("TXDGPC", 0x087A0, 0, count=3),
    Register("TQSM", TQSM, 0x0F0F_0F0F, count=32),
    Register("VMVIR", VMVIR, 0xC000_FFFF, count=POOLS, kept=True),
    Register("DTXMXSZRQ", 0x08100, 0x0FFF, 0x10),
    Register("VFTE", VFTE, count=2),
    Register("MTQC", MTQC, 0xF),
    Register("PFVFSPOOF", PFVFSPOOF, 0xFFFF, count=8),
    Register("PFDTXGSWC", PFDTXGSWC, 1),
    Register("SECTXCTRL", 0x08800, 0x7),
    Register("SECTXSTAT", 0x08804, 0, 1),
    Register("SECTXMINIFG", 0x08810, 0xFFFF, 0x1),
    Register("SECRXCTRL", 0x08D00, 0x7),
    Register("SECRXSTAT", 0x08D04, 0, 1),
    Register("VFTA", VFTA, count=128, kept=True),
    Register("RAL", RAL, count=ADDRESSES, step=8),
    Register("RAH", RAL + 4, 0x8000_FFFF, count=ADDRESSES, step=8),
    Register("MPSAR", MPSAR, count=2 * ADDRESSES, kept=True),
    Register("RTTUP2TC", 0x0C800),
    Register("TXPBSIZE", 0x0CC00, 0x000F_FC00, 0x0002_8000, count=8),  # 160 KiB, as with RXPBSIZE
    Register("RTTPCS", 0x0CD00, reset=0x8900_0000),
    Register("SYNQF", 0x0EC30),
    Register("RQTC", 0x0EC70),
    Register("FDIRCTRL", 0x0EE00, 0xFFFF_FFF7, 0x0000_0008),  # initialized
    Register("VMOLR", VMOLR, 0x1F00_0000, count=POOLS),
    Register("VLVF", VLVF, 0x8000_0FFF, count=VLANS, kept=True),
    Register("VLVFB", VLVFB, count=2 * VLANS, kept=True),
    Register("UTA", UTA, count=128, kept=True),
    Register("MRCTL", 0x0F600, count=4),
    Register("EEC", EEC, 0x77, eeprom.SIZE << 11 | 0x003F_8710),  # an EEPROM, all of which has been read; no flash
    Register("EERD", EERD),
    Register("FLA", 0x1001C, 0x3F),
    Register("SWSM", SWSM, 0x7),
    Register("FWSM", FWSM, 0),  # no firmware
    Register("FACTPS", 0x10150, 0),
    Register("SW_FW_SYNC", SW_FW_SYNC),
    Register("GRC", 0x10200, 0x3),
    Register("GCR", 0x11000),
    Register("GCR_EXT", GCR_EXT, 0xC000_0003),
    Register("MREVID", 0x11064, 0, 0x1),
    Register("CORECTL", 0x14F00, 0xFFFF),  # the analog part of the chip
    Register("PFMBMEM", PFMBMEM, 0, count=16 * POOLS),
    Register("PFMAILBOX", PFMAILBOX, 0, count=POOLS),
)

# A second place of some: where the first chip of the family, the 82598, had them, or where this one has them too.
ALIASES: dict[int, int] = {
    0x0EC80: MRQC,
    **{RAL_ALIAS + at: RAL + at for at in range(0, 16 * 8, 4)},
    **{0x05480 + at: 0x0EA00 + at for at in range(0, 16 * 4, 4)},  # PSRTYPE
    **{0x0EB00 + at: RETA + at for at in range(0, 32 * 4, 4)},
    **{0x0EB80 + at: RSSRK + at for at in range(0, 10 * 4, 4)},
}

AT = by_offset(REGISTERS)


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set."""
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1


# --- their bits -----------------------------------------------------------------------------------------------------

CTRL_MASTER_DISABLE, CTRL_LINK_RESET, CTRL_RESET = 1 << 2, 1 << 3, 1 << 26
STATUS_LINK_UP, STATUS_VFS_SHIFT, STATUS_IOV, STATUS_MASTER = 1 << 7, 10, 1 << 18, 1 << 19
PF_RESET_DONE = 1 << 14  # CTRL_EXT
LINKS_VALUE = 0x7000_0000  # up, at 10 Gb/s
AUTOC_RESTART, AUTOC_NEGOTIATES = 1 << 12, 1 << 15  # the upper bit of LMS: a mode with negotiation
ANLP1_DETECTING = 1 << 16  # the state of negotiation: one's abilities are sent

# Causes of interrupts that are no queue's: EICR, EICS, EIMS, EIMC.
RX_MISS, MAILBOX, LINK_CHANGE = 1 << 17, 1 << 19, 1 << 20
GPIE_MSIX, GPIE_OTHER_CLEAR_DISABLE, GPIE_AUTO_MASK = 1 << 4, 1 << 5, 1 << 30
IVAR_VALID = 0x80
EITR_INTERVAL, EITR_KEEP_COUNTER = 0x0000_0FF8, 1 << 31

FCTRL_MPE, FCTRL_UPE, FCTRL_BAM = 1 << 8, 1 << 9, 1 << 10
MCSTCTRL_MFE = 1 << 2
VLNCTRL_VFE = 1 << 30
HLREG0_CRC_STRIP, HLREG0_JUMBO, HLREG0_PAD, HLREG0_LOOPBACK = 1 << 1, 1 << 2, 1 << 10, 1 << 15
VT_ENABLE, VT_POOL_SHIFT, VT_NO_DEFAULT, VT_REPLICATE = 1 << 0, 7, 1 << 29, 1 << 30
AUPE, ROMPE, ROPE, BAM, MPE = 1 << 24, 1 << 25, 1 << 26, 1 << 27, 1 << 28  # VMOLR
ADDRESS_VALID, VLAN_VALID = 1 << 31, 1 << 31
VLAN_ALWAYS, VLAN_NEVER = 1, 2  # VMVIR, bits 31:30
LOOPBACK_ENABLE = 1 << 0  # PFDTXGSWC
TRANSMIT_ENABLE, RECEIVE_ENABLE = 1 << 0, 1 << 0  # DMATXCTL, RXCTRL
QDE_ENABLE, QDE_QUEUE_SHIFT, QDE_WRITE = 1 << 0, 8, 1 << 16
SEMAPHORE = 1 << 0  # SWSM
EERD_START, EERD_DONE = 1 << 0, 1 << 1

"""The registers of the 82540EM (8254x Software Developer's Manual, chapter 13): one table, and the bits by name."""

from __future__ import annotations

from hv.silicon.ethernet.register import Register, by_offset

# --- what they are --------------------------------------------------------------------------------------------------

CTRL, STATUS, EECD, EERD, CTRL_EXT, MDIC = 0x0000, 0x0008, 0x0010, 0x0014, 0x0018, 0x0020
FCAL, FCAH, FCT, VET, FCTTV = 0x0028, 0x002C, 0x0030, 0x0038, 0x0170
ICR, ITR, ICS, IMS, IMC = 0x00C0, 0x00C4, 0x00C8, 0x00D0, 0x00D8
RCTL, TCTL, PBA, FCRTL, FCRTH = 0x0100, 0x0400, 0x1000, 0x2160, 0x2168
RDBAL, RDBAH, RDLEN, RDH, RDT = 0x2800, 0x2804, 0x2808, 0x2810, 0x2818
RDTR, RADV, RSRPD = 0x2820, 0x282C, 0x2C00
TDBAL, TDBAH, TDLEN, TDH, TDT = 0x3800, 0x3804, 0x3808, 0x3810, 0x3818
TIDV, TXDCTL, TADV = 0x3820, 0x3828, 0x382C
STATISTICS, STATISTICS_COUNT = 0x4000, 64
STATISTICS_END = STATISTICS + 4 * STATISTICS_COUNT
RXCSUM, MTA, RAL0, RAH0, VFTA = 0x5000, 0x5200, 0x5400, 0x5404, 0x5600
RECEIVE_ADDRESSES = 16

REGISTERS: tuple[Register, ...] = (
    Register("CTRL", CTRL, 0xFFFF_FFFF, 0x0000_0201),  # full duplex, 1000 Mb/s
    Register("STATUS", STATUS, 0),
    Register("EECD", EECD, 0x0000_0077),
    Register("EERD", EERD),
    Register("CTRL_EXT", CTRL_EXT, 0x00FF_FFFF),
    Register("FLA", 0x001C, 0x0000_003F),
    Register("MDIC", MDIC, reset=1 << 28),
    Register("FCAL", FCAL),
    Register("FCAH", FCAH, 0xFFFF),
    Register("FCT", FCT, 0xFFFF),
    Register("VET", VET, 0xFFFF, 0x8100),
    Register("ICR", ICR),
    Register("ITR", ITR, 0xFFFF),
    Register("ICS", ICS),
    Register("IMS", IMS),
    Register("IMC", IMC),
    Register("RCTL", RCTL, 0x06DF_B3FE),
    Register("FCTTV", FCTTV, 0xFFFF),
    Register("TXCW", 0x0178),
    Register("RXCW", 0x0180, 0),
    Register("TCTL", TCTL, 0x037F_FFFA),
    Register("TIPG", 0x0410, 0x3FFF_FFFF),
    Register("AIT", 0x0458, 0xFFFF),
    Register("LEDCTL", 0x0E00, 0xCFCF_CFCF, 0x0706_8302),
    Register("PBA", PBA, 0x0000_003F, 0x0000_0030, kept=True),  # KiB of the 64 KiB that receive; the others transmit
    Register("FCRTL", FCRTL, 0x8000_FFF8),
    Register("FCRTH", FCRTH, 0x0000_FFF8),
    Register("RDFH", 0x2410, 0x1FFF),
    Register("RDFT", 0x2418, 0x1FFF),
    Register("RDFHS", 0x2420, 0x1FFF),
    Register("RDFTS", 0x2428, 0x1FFF),
    Register("RDFPC", 0x2430, 0x1FFF),
    Register("RDBAL", RDBAL, 0xFFFF_FFF0),
    Register("RDBAH", RDBAH),
    Register("RDLEN", RDLEN, 0x000F_FF80),
    Register("RDH", RDH, 0xFFFF),
    Register("RDT", RDT, 0xFFFF),
    Register("RDTR", RDTR, 0xFFFF),
    Register("RXDCTL", 0x2828, 0x013F_3F3F, 0x0101_0000),
    Register("RADV", RADV, 0xFFFF),
    Register("RSRPD", RSRPD, 0x0FFF),
    Register("TXDMAC", 0x3000, 1),
    Register("TDFH", 0x3410, 0x07FF),
    Register("TDFT", 0x3418, 0x07FF),
    Register("TDFHS", 0x3420, 0x1FFF),
    Register("TDFTS", 0x3428, 0x1FFF),
    Register("TDFPC", 0x3430, 0x1FFF),
    Register("TDBAL", TDBAL, 0xFFFF_FFF0),
    Register("TDBAH", TDBAH),
    Register("TDLEN", TDLEN, 0x000F_FF80),
    Register("TDH", TDH, 0xFFFF),
    Register("TDT", TDT, 0xFFFF),
    Register("TIDV", TIDV, 0xFFFF),
    Register("TXDCTL", TXDCTL, 0xFF3F_3F3F),
    Register("TADV", TADV, 0xFFFF),
    Register("TSPMT", 0x3830),
    Register("STATISTICS", STATISTICS, 0, count=STATISTICS_COUNT),
    Register("RXCSUM", RXCSUM, 0x07FF),
    Register("MTA", MTA, count=128, kept=True),
    Register("RAL", RAL0, count=RECEIVE_ADDRESSES, step=8),
    Register("RAH", RAH0, 0x8003_FFFF, count=RECEIVE_ADDRESSES, step=8),
    Register("VFTA", VFTA, count=128, kept=True),
    # Waking up and managing a machine that sleeps: kept, and without effect.
    Register("WUC", 0x5800, 0x000F),
    Register("WUFC", 0x5808),
    Register("WUS", 0x5810),
    Register("MANC", 0x5820),
    Register("IPAV", 0x5838),
    Register("IP4AT", 0x5840, count=8),
    Register("IP6AT", 0x5880, count=4),
    Register("WUPL", 0x5900, 0),
    Register("WUPM", 0x5A00, 0, count=32),
    Register("FFLT", 0x5F00, 0x07FF, count=8),
    Register("FFMT", 0x9000, 0x000F, count=256),
    Register("FFVT", 0x9800, count=256),
)

# Where the first chip of the family, the 82542, had some of them: still there (13.2, "offset alias").
ALIASES: dict[int, int] = {
    0x0004: CTRL,
    0x0108: RDTR,
    **{0x0110 + at: RDBAL + at for at in (0x00, 0x04, 0x08, 0x10, 0x18)},
    **{0x0420 + at: TDBAL + at for at in (0x00, 0x04, 0x08, 0x10, 0x18)},
    0x0440: TIDV,
    **{0x0040 + at: RAL0 + at for at in range(0, 8 * RECEIVE_ADDRESSES, 4)},
    **{0x0200 + at: MTA + at for at in range(0, 512, 4)},
    **{0x0600 + at: VFTA + at for at in range(0, 512, 4)},
}

AT = by_offset(REGISTERS)

# --- their bits -----------------------------------------------------------------------------------------------------

CTRL_FD, CTRL_SLU, CTRL_SPEED_SHIFT = 1 << 0, 1 << 6, 8
CTRL_FRCSPD, CTRL_FRCDPLX = 1 << 11, 1 << 12
CTRL_RST, CTRL_RFCE, CTRL_TFCE, CTRL_VME, CTRL_PHY_RST = 1 << 26, 1 << 27, 1 << 28, 1 << 30, 1 << 31
CTRL_EXT_EE_RST = 1 << 13
STATUS_FD, STATUS_LU, STATUS_TXOFF, STATUS_SPEED_SHIFT, STATUS_ASDV_SHIFT = 1 << 0, 1 << 1, 1 << 4, 6, 8

# Causes of interrupts: ICR, ICS, IMS, IMC.
TXDW, TXQE, LSC, RXDMT0, RXO, RXT0 = 1 << 0, 1 << 1, 1 << 2, 1 << 4, 1 << 6, 1 << 7
MDAC, PHYINT, TXD_LOW, SRPD = 1 << 9, 1 << 12, 1 << 15, 1 << 16
CAUSES = 0x0001_FFFF  # the bits that exist, with three that have no name: they interrupt too when ICS sets them

RCTL_EN, RCTL_SBP, RCTL_UPE, RCTL_MPE, RCTL_LPE = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
RCTL_LBM_SHIFT, RCTL_RDMTS_SHIFT, RCTL_MO_SHIFT, RCTL_BAM, RCTL_BSIZE_SHIFT = 6, 8, 12, 1 << 15, 16
RCTL_VFE, RCTL_CFIEN, RCTL_CFI, RCTL_DPF, RCTL_PMCF = 1 << 18, 1 << 19, 1 << 20, 1 << 22, 1 << 23
RCTL_BSEX, RCTL_SECRC = 1 << 25, 1 << 26
TCTL_EN, TCTL_PSP, TCTL_SWXOFF = 1 << 1, 1 << 3, 1 << 22
RXCSUM_IPOFL, RXCSUM_TUOFL = 1 << 8, 1 << 9
FCRTL_XONE = 1 << 31
DELAY_FLUSH = 1 << 31  # RDTR and TIDV, FPD: what waits for its delay is told now
RAH_VALID = 1 << 31

# Statistics, as numbers of registers from STATISTICS (13.7).
MPC, XONRXC, XONTXC, XOFFRXC, XOFFTXC, FCRUC = 4, 18, 19, 20, 21, 22
PRC64, GPRC, BPRC, MPRC, GPTC, GORCL, GOTCL = 23, 29, 30, 31, 32, 34, 36
RNBC, RUC, ROC, TORL, TOTL, TPR, TPT, PTC64, MPTC, BPTC = 40, 41, 43, 48, 50, 52, 53, 54, 60, 61
TSCTC, TSCTFC = 62, 63

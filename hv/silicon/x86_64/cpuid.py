"""What CPUID says on the silicon: a small family-17h part with what Unicorn's core really has (APM vol. 3, app. E).

Left out although Unicorn's model lists them: RDRAND and RDSEED (host randomness), XSAVE, AVX, SMEP, SMAP, FSGSBASE,
MONITOR, SMX. SVM is there (a hypervisor needs it).
"""

from __future__ import annotations

from hv.silicon.timing import Timing

VENDOR = b"AuthenticAMD"
BRAND = b"hv silicon on Unicorn 2.1.4".ljust(48, b"\0")

# Leaf 1 EDX and 8000_0001 EDX share most bits.
_COMMON = sum(1 << bit for bit in (0, 2, 3, 4, 5, 6, 8, 9, 13, 15, 17, 23, 24))  # FPU DE PSE TSC MSR PAE CX8 APIC PGE
_LEAF1_EDX = _COMMON | 1 << 11 | 1 << 16 | 1 << 25 | 1 << 26  # CMOV PSE36 MMX FXSR above; SEP PAT SSE SSE2
_LEAF1_ECX = 1 << 0 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23  # SSE3 SSSE3 CX16 SSE4.1 SSE4.2 POPCNT
_EXT1_EDX = _COMMON | 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29  # SYSCALL NX 1 GiB pages RDTSCP long mode
_EXT1_ECX = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 5  # LAHF in long mode, SVM, CR8 in legacy mode, LZCNT
HTT = 1 << 28  # leaf 1, EDX: the package has more than one logical processor
SIGNATURE = 0x0080_0F12  # family 17h model 1 stepping 2


def _words(text: bytes) -> list[int]:
    return [int.from_bytes(text[i : i + 4], "little") for i in range(0, len(text), 4)]


_VENDOR_WORDS, _BRAND_WORDS = _words(VENDOR), _words(BRAND)


def cpuid(leaf: int, apic_id: int, timing: Timing, cpus: int = 1, subleaf: int = 0) -> tuple[int, int, int, int]:
    """EAX, EBX, ECX, EDX for a leaf. A leaf above the highest one gives zeros, as on AMD.

    The machine's `cpus` are the cores of one package, one thread each.
    """
    if leaf in (0, 0x8000_0000):
        return (0x16 if leaf == 0 else 0x8000_000A), _VENDOR_WORDS[0], _VENDOR_WORDS[2], _VENDOR_WORDS[1]
    if leaf in (1, 0x8000_0001):
        if leaf == 1:
            many = HTT if cpus > 1 else 0
            return SIGNATURE, apic_id << 24 | cpus << 16 | 8 << 8, _LEAF1_ECX, _LEAF1_EDX | many
        return SIGNATURE, 0, _EXT1_ECX, _EXT1_EDX
    if leaf == 0xB:  # extended topology: threads of a core, then cores of the package
        bits = (cpus - 1).bit_length()
        levels = {0: (0, 1, 1 << 8), 1: (bits, cpus, 2 << 8 | 1)}
        shift, count, level = levels.get(subleaf, (0, 0, subleaf & 0xFF))
        return shift, count, level, apic_id
    if leaf == 0x15:  # TSC rate as a ratio of the APIC timer's clock; in reality Intel's leaf
        return timing.apic_hz, timing.tsc_hz, timing.apic_hz, 0
    if leaf == 0x16:
        return timing.tsc_hz // 1_000_000, timing.tsc_hz // 1_000_000, timing.apic_hz // 1_000_000, 0
    if 0x8000_0002 <= leaf <= 0x8000_0004:
        a, b, c, d = _BRAND_WORDS[(leaf - 0x8000_0002) * 4 :][:4]
        return a, b, c, d
    if leaf == 0x8000_0007:
        return 0, 0, 0, 1 << 8  # invariant TSC
    if leaf == 0x8000_0008:
        # 48-bit linear, 40-bit physical addresses; how many cores, and how many bits their numbers take
        return 48 << 8 | 40, 0, (cpus - 1).bit_length() << 12 | cpus - 1, 0
    if leaf == 0x8000_000A:
        return 1, 16, 0, 1  # SVM revision 1, 16 ASIDs, nested paging
    return 0, 0, 0, 0

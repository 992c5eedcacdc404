"""Unicorn as a piece of hardware: one engine for all CPUs of a machine.

An engine is brought up in long mode at ring 0, with SVM on, in a little memory of its own (the microcode's RAM), where
it waits at a stub of one instruction: VMRUN. Every guest runs inside that VMRUN, on metal too, because only a guest's
RDTSC, MSRs, HLT and control registers can be seen (SILICON.md, fact 8).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import c_int, c_uint32, c_uint64, c_void_p
from typing import Any

import unicorn
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import uclib

from hv.silicon.memory import Memory, Region, anonymous
from hv.silicon.posted import Descriptor
from hv.silicon.x86_64.breakpoints import Breakpoints
from hv.silicon.x86_64.layout import CR0, CR4, EFER_VALUE, SiliconError, exported, measure
from hv.silicon.x86_64.microcode import Microcode
from hv.silicon.x86_64.state import State, state_type

# The microcode's RAM: out of reach of any guest, whose second-level tables never map it.
PRIVATE_BASE = 0xFD_0000_0000
PRIVATE_SIZE = 0x20_0000
(HOST_PML4, HOST_PDPT, HOST_PD, HOST_GDT, HSAVE, STUB, NO_PORTS, ALL_MSRS, FREE) = (
    PRIVATE_BASE + offset for offset in (0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000, 0x8000, 0xB000, 0x10000)
)
# Physical addresses without RAM or chip: reads give all ones, writes are lost. 1 GiB, mapped wherever nothing is.
VOID_BASE = 0xFE_0000_0000
VOID_SIZE = 1 << 30
BUS_BASE = VOID_BASE + VOID_SIZE  # and 1 GiB for the metal board's chips
APIC_ACCESS_PAGE = 0xFEE0_0000  # where a hypervisor maps its guest's local APIC to (virtual_apic.py)

FAR_CALL = bytes.fromhex("6a08488d05030000005048cb")  # push 8; lea rax,[rip+3]; push rax; retfq
VMRUN = bytes.fromhex("0f01d8")
VMLOAD = bytes.fromhex("0f01da")
HLT = b"\xf4"

ERRORS = {
    unicorn.UC_ERR_OK: "",
    unicorn.UC_ERR_FETCH_UNMAPPED: "instruction fetch from an address where there is no memory",
    unicorn.UC_ERR_READ_UNMAPPED: "read from an address where there is no memory",
    unicorn.UC_ERR_WRITE_UNMAPPED: "write to an address where there is no memory",
    unicorn.UC_ERR_FETCH_PROT: "instruction fetch from a device's registers",
}

# The binding's own uc_emu_start wrapper costs as much as the whole exit; this is the bare function.
_emu_start = ctypes.CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64, c_uint64, ctypes.c_size_t)(("uc_emu_start", uclib))


class Engine:
    """The CPU core. `state` is its live register file, `microcode` the counters that its hooks keep."""

    on_exit: Callable[[], bool]  # what a #VMEXIT calls, inside the slice; False ends the slice
    pass_time: Callable[[int], None]  # so many millicycles, inside a slice, which ends no later for it
    on_apic_write: Callable[[int], None]  # what a write to a register of the virtual APIC calls, but for the hot ones
    post: Callable[[Descriptor, int, bool], bool]  # must a notification be sent? not to the CPU that runs: it has it
    apic_page: tuple[Any, Any]  # C function pointers: how the APIC-access page is read and written

    def __init__(self, memory: Memory) -> None:
        layout = measure()
        self.memory = memory
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.uc.ctl_set_cpu_model(x86.UC_CPU_X86_EPYC)
        self.handle = c_void_p(self.uc._uch.value)
        self._uc: int = self.uc._uch.value
        self.start: Callable[[int], int] = lambda address: _emu_start(self._uc, address, 0, 0, 0)
        self.error: BaseException | None = None
        self._callbacks: list[Any] = []
        self._ram_offset: dict[int, int] = {}
        self._offset_of = ctypes.CFUNCTYPE(c_uint64, c_void_p, c_void_p)(exported("qemu_ram_addr_from_host"))
        self._invalidate = ctypes.CFUNCTYPE(None, c_void_p, c_uint64, c_uint64)(exported("tb_invalidate_phys_range"))
        memory.on_map = self._map
        memory.on_write = self._written
        memory.add(Region("microcode", PRIVATE_BASE, PRIVATE_SIZE, anonymous(PRIVATE_SIZE), 0))
        self._free = FREE
        self.uc.mmio_map(VOID_BASE, VOID_SIZE, lambda *_: (1 << 64) - 1, None, lambda *_: None, None)
        handle: int = self.uc._uch.value
        self.cpu = c_uint64.from_address(handle + layout.cpu).value
        self.env = self.cpu + layout.env
        self.microcode = Microcode()
        self._bring_up()
        self.state: State = state_type().from_address(self.env)
        self._check()
        self._connect()
        self._take_exits()
        self._apic_mapped = False
        self.post = lambda descriptor, vector, urgent: descriptor.post(vector, urgent=urgent)
        written = self.callback(ctypes.CFUNCTYPE(None, c_uint32), self._apic_written)
        self.microcode.apic_written = ctypes.cast(written, c_void_p).value

    def alloc(self, pages: int = 1) -> int:
        """Physical address of zeroed pages of the microcode's RAM."""
        at = self._free
        self._free += pages * 0x1000
        if self._free > PRIVATE_BASE + PRIVATE_SIZE:
            raise SiliconError("the microcode's RAM is full")
        return at

    def _bring_up(self) -> None:
        write = self.memory.write_u64
        slot = PRIVATE_BASE >> 30
        write(HOST_PML4 + 8 * (slot >> 9), HOST_PDPT | 7)
        write(HOST_PDPT + 8 * (slot & 511), HOST_PD | 7)
        write(HOST_PD, PRIVATE_BASE | 0xE7)
        write(HOST_GDT + 8, 0x00AF_9B00_0000_FFFF)
        write(HOST_GDT + 16, 0x00CF_9300_0000_FFFF)
        self.memory.write(ALL_MSRS, b"\xff" * 0x2000)
        uc = self.uc
        uc.reg_write(x86.UC_X86_REG_CR3, HOST_PML4)
        uc.reg_write(x86.UC_X86_REG_CR4, CR4)
        uc.reg_write(x86.UC_X86_REG_MSR, (0xC000_0080, EFER_VALUE))
        uc.reg_write(x86.UC_X86_REG_CR0, CR0)
        uc.reg_write(x86.UC_X86_REG_MSR, (0xC001_0117, HSAVE))
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, HOST_GDT, 0x17, 0))
        uc.reg_write(x86.UC_X86_REG_RSP, STUB)
        uc.ctl_exits_enabled(True)
        self.memory.write(STUB, FAR_CALL + HLT)
        uc.emu_start(STUB, 0)
        self.memory.write(STUB, VMLOAD + VMRUN + HLT)

    def _check(self) -> None:
        """Is the register file of *this* engine where the measured one was?"""
        for value in (0x0123_4567_89AB_CDEF, 0):
            self.uc.reg_write(x86.UC_X86_REG_R15, value)
            if self.state.regs[15] != value or self.state.cr[3] != HOST_PML4:
                raise SiliconError("Unicorn's CPU state moved between two engines")

    def _connect(self) -> None:
        """Fill in the addresses that the hooks need."""
        m, layout = self.microcode, measure()
        env = self.env
        places = {
            "uc": self.handle.value, "cpu": self.cpu, "env": env, "regs": env + layout.regs, "eip": env + layout.eip,
            "efer": env + layout.efer, "star": env + layout.star, "lstar": env + layout.lstar,
            "cstar": env + layout.cstar, "fmask": env + layout.fmask, "next_eip": env + layout.error_code + 8,
            "hflags": env + layout.hflags, "error_code": env + layout.error_code, "is_int": env + layout.error_code + 4,
            "old_exception": env + layout.old_exception, "cc_op": env + layout.cc_op,
            "cs": env + layout.segs + 24, "ss": env + layout.segs + 48, "intercept": env + layout.intercept,
            "intercept_cr_read": env + layout.intercept + 8, "intercept_cr_write": env + layout.intercept + 10,
            "do_interrupt": exported("x86_cpu_do_interrupt"), "do_vmexit": exported("do_vmexit"),
            "raise_exception": exported("raise_exception"), "check_port0": exported("helper_check_iob"),
            "check_port1": exported("helper_check_iow"), "check_port2": exported("helper_check_iol"),
            "check_ioio": exported("helper_svm_check_io"), "raise_vmexit": exported("cpu_vmexit"),
            "eflags": env + layout.eflags, "v_tpr": env + layout.v_tpr,
            "hardware_interrupt": exported("do_interrupt_x86_hardirq"), "loop_exit": exported("cpu_loop_exit_noexc"),
        }  # fmt: skip
        for name in ("emu_start", "emu_stop", "reg_read", "reg_write"):
            places[name] = ctypes.cast(getattr(uclib, f"uc_{name}"), c_void_p).value
        for name, value in places.items():
            setattr(m, name, value)
        m.pc = m.delivering = (1 << 64) - 1
        self.breakpoints = Breakpoints(m)
        self.state.old_exception = -1
        self._vmexit = ctypes.CFUNCTYPE(None, c_void_p, c_uint32, c_uint64)(exported("do_vmexit"))

    def set_ports(self, port_in: Callable[[int, int], int], port_out: Callable[[int, int, int], None]) -> None:
        """What an IN or OUT that no hypervisor intercepts reaches."""
        self.port_in, self.port_out = self.guard(port_in), self.guard(port_out)
        into = self.callback(ctypes.CFUNCTYPE(c_uint32, c_uint32, c_uint32), port_in)
        out = self.callback(ctypes.CFUNCTYPE(None, c_uint32, c_uint32, c_uint32), port_out)
        self.microcode.port_in = ctypes.cast(into, c_void_p).value
        self.microcode.port_out = ctypes.cast(out, c_void_p).value

    def _take_exits(self) -> None:
        """Let a #VMEXIT call `on_exit`. This is guard() without its packing of arguments: the hot path."""

        def take() -> bool:
            try:
                return self.on_exit()
            except BaseException as error:  # noqa: BLE001 - no exception may pass through Unicorn
                self.error = self.error or error
                return False

        pointer = ctypes.CFUNCTYPE(c_int)(take)
        self._callbacks.append(pointer)
        self.microcode.on_exit = ctypes.cast(pointer, c_void_p).value

    def rflags(self) -> int:
        """RFLAGS, also inside a slice, where Unicorn keeps the arithmetic and direction flags elsewhere."""
        value = c_uint32()
        uclib.uc_reg_read(self.handle, x86.UC_X86_REG_EFLAGS, ctypes.byref(value))
        return value.value

    def set_rflags(self, value: int) -> None:
        """Write RFLAGS, in a slice and between two."""
        uclib.uc_reg_write(self.handle, x86.UC_X86_REG_EFLAGS, ctypes.byref(c_uint32(value)))

    def map_chip(
        self, address: int, length: int, read: Callable[[int, int], int], write: Callable[[int, int, int], None]
    ) -> None:
        """Registers in memory: read(offset, size) and write(offset, size, value).

        The binding's own way to map them, and guard() on top, would cost as much as a card's work.
        """

        def into(_: Any, at: int, size: int, __: Any) -> int:
            try:
                return read(at, size)
            except BaseException as error:  # noqa: BLE001 - no exception may pass through Unicorn
                self._keep_error(error)
                return 0

        def out(_: Any, at: int, size: int, value: int, __: Any) -> None:
            try:
                write(at, size, value)
            except BaseException as error:  # noqa: BLE001
                self._keep_error(error)

        callbacks = (
            ctypes.CFUNCTYPE(c_uint64, c_void_p, c_uint64, c_uint32, c_void_p)(into),
            ctypes.CFUNCTYPE(None, c_void_p, c_uint64, c_uint32, c_uint64, c_void_p)(out),
        )
        self._callbacks += callbacks
        error = uclib.uc_mmio_map(
            self.handle, c_uint64(address), ctypes.c_size_t(length), callbacks[0], None, callbacks[1], None
        )
        if error:
            raise SiliconError(f"Unicorn refused to map registers (error {error})")

    def _apic_written(self, register: int) -> None:
        self.on_apic_write(register)

    def map_apic_page(self) -> None:
        """Let the CPU watch the accesses to the APIC-access page. Its functions have the microcode as user data."""
        if not self._apic_mapped:
            read, write = (ctypes.cast(function, c_void_p) for function in self.apic_page)
            m = ctypes.byref(self.microcode)
            place, size = c_uint64(APIC_ACCESS_PAGE), ctypes.c_size_t(0x1000)
            if uclib.uc_mmio_map(self.handle, place, size, read, m, write, m):
                raise SiliconError("Unicorn refused to map the APIC-access page")
            self._apic_mapped = True

    def _keep_error(self, error: BaseException) -> None:
        """Keep an exception for run() to raise, and end the slice."""
        self.error = self.error or error
        uclib.uc_emu_stop(self.handle)

    def guard(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A version that keeps an exception for run() to raise: it may not pass through Unicorn's C frames."""

        def guarded(*args: Any) -> Any:
            try:
                return function(*args)
            except BaseException as error:  # noqa: BLE001 - no exception may pass through Unicorn
                self._keep_error(error)
                return 0

        return guarded

    def callback(self, kind: Any, function: Callable[..., Any]) -> Any:
        """A C function pointer to guard(function), kept alive as long as the engine."""
        pointer = kind(self.guard(function))
        self._callbacks.append(pointer)
        return pointer

    def hook(self, kind: int, function: Any, *extra: int) -> None:
        """Add a hook that is a C function pointer (from zig or from callback()). Its user data is the microcode."""
        handle = ctypes.c_size_t()
        error = uclib.uc_hook_add(
            self.handle, ctypes.byref(handle), c_int(kind), ctypes.cast(function, c_void_p),
            ctypes.byref(self.microcode), c_uint64(1), c_uint64(0), *(c_int(value) for value in extra),
        )  # fmt: skip
        if error:
            raise SiliconError(f"Unicorn refused a hook (error {error})")

    def hook_leave(self, function: Any) -> None:
        """Let a C function pointer stand in for Unicorn's stop_interrupt; hook_leave in microcode.c says what for."""
        field = c_void_p.from_address(self._uc + measure().stop_interrupt)
        field.value = ctypes.cast(function, c_void_p).value

    def run(self, address: int) -> str:
        """Run from `address` until a hook stops it. Returns what went wrong, or nothing."""
        _ACTIVE.engine = self
        error = self.start(address)
        _ACTIVE.engine = None
        if self.error is not None:
            raised, self.error = self.error, None
            raise raised
        if error:
            return ERRORS.get(error, f"Unicorn stopped with error {error}")
        return ""

    def stop(self) -> None:
        """End the slice; from a hook only."""
        uclib.uc_emu_stop(self.handle)

    def world_switch(self, code: int, info1: int) -> None:
        """#VMEXIT: the guest's state goes to the VMCB in use, the host's comes back (APM vol. 2, 15.6)."""
        self._vmexit(self.env, code, info1)

    def flush_tlb(self) -> None:
        self.uc.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)

    def forget_code(self) -> None:
        """Drop all translated code: RAM has changed behind the CPU's back."""
        self.uc.ctl_flush_tb()

    def _map(self, region: Region) -> None:
        self.uc.mem_map_ptr(region.base, region.size, unicorn.UC_PROT_ALL, region.host_address())
        # Unicorn knows RAM by offsets of its own, which may overlap between regions: then it forgets a little more.
        self._ram_offset[region.base] = self._offset_of(self._uc, region.host_address())

    def _written(self, region: Region, at: int, size: int) -> None:
        """RAM was written from outside: forget translations of those bytes. Unicorn tracks the executed frames."""
        start = self._ram_offset[region.base] + at
        self._invalidate(self.handle, start, start + size)

    def save(self) -> bytes:
        """The CPU's whole register file as bytes; only this Unicorn understands them."""
        layout = measure()
        blob = bytearray(ctypes.string_at(self.env, layout.size))
        breakpoints = layout.dr + 64  # four pointers of this process, never used: see Cpu._dr7_write
        blob[breakpoints : breakpoints + 32] = bytes(32)
        return bytes(blob)

    def load(self, blob: bytes) -> None:
        """Put back what save() gave, in this or another process."""
        if len(blob) != measure().size:
            raise SiliconError("the snapshot was made with another Unicorn")
        ctypes.memmove(self.env, blob, len(blob))
        self.flush_tlb()

    def close(self) -> None:
        """Give Unicorn's memory back. The engine cannot be used afterwards."""
        self.uc._Uc__finalizer()  # what the binding runs when the object dies; callbacks keep that from happening soon


class _Active:
    """Whose guest runs at this moment. Not a variable of Engine: writing those makes Python slow at all its others."""

    engine: Engine | None = None


_ACTIVE = _Active()


def interrupt(error: BaseException) -> None:
    """For a signal handler: raise `error` in the program, also when a guest runs just now.

    Inside a hook it would be lost on its way through Unicorn; so it is kept, and run() raises it.
    """
    engine = _ACTIVE.engine
    if engine is None:
        raise error
    engine.error = engine.error or error
    engine.stop()


def check_interrupt() -> None:
    """Where the program waits for something besides a guest: raise what a signal's handler has kept."""
    engine = _ACTIVE.engine
    if engine is not None and engine.error is not None:
        raise engine.error


def native_hooks(engine: Engine) -> None:
    """The fast path: the hooks of microcode.c."""
    from hv.silicon.x86_64.microcode import load

    library = load()
    engine.start = functools.partial(library.run, ctypes.addressof(engine.microcode))
    engine.pass_time = functools.partial(library.pass_time, ctypes.addressof(engine.microcode))
    engine.apic_page = library.apic_read, library.apic_write
    post, microcode = library.post_interrupt, ctypes.addressof(engine.microcode)
    engine.post = lambda descriptor, vector, urgent: post(microcode, descriptor.host_address, vector, urgent)
    engine.hook_leave(library.hook_leave)
    engine.hook(unicorn.UC_HOOK_CODE, library.hook_code)
    engine.hook(unicorn.UC_HOOK_INTR, library.hook_intr)
    engine.hook(unicorn.UC_HOOK_INSN_INVALID, library.hook_invalid)
    engine.hook(unicorn.UC_HOOK_INSN, library.hook_syscall, x86.UC_X86_INS_SYSCALL)
    engine.hook(unicorn.UC_HOOK_INSN, library.hook_sysenter, x86.UC_X86_INS_SYSENTER)
    engine.hook(unicorn.UC_HOOK_INSN, library.hook_in, x86.UC_X86_INS_IN)
    engine.hook(unicorn.UC_HOOK_INSN, library.hook_out, x86.UC_X86_INS_OUT)

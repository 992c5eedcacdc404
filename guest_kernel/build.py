"""Build the guest: the kernel and the firmware. `python guest_kernel/build.py FOLDER` makes kernel.elf, firmware.bin.

The same sources give the same bytes in every folder and at every time. Needs the package ziglang, no system compiler.
Objects are named k__* (kernel), u__* (user program), f__* (firmware); arch/x86_64/kernel.ld sorts by these names.
"""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
ARCH = "arch/x86_64"
PT_LOAD = 1
TARGET = ["-target", "x86_64-freestanding-none"]
COMPILE = [
    *("-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror"),
    *("-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fno-sanitize=undefined", "-fno-strict-aliasing"),
    *("-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"),  # whole backtraces
    "-mno-red-zone",  # interrupts use the same stack
    *("-mno-sse", "-mno-sse2", "-mno-mmx", "-mno-80387"),  # nothing saves these registers
    *("-fno-asynchronous-unwind-tables", "-Iinclude", f"-I{ARCH}"),
]
KERNEL_ONLY = ["-mcmodel=kernel"]
USER_ONLY = ["-fno-builtin"]  # there is no memcpy on the user's side
FIRMWARE_TARGET = ["-target", "x86-freestanding-none"]
FIRMWARE_COMPILE = [option for option in COMPILE if not option.startswith(("-I", "-mno-red-zone", "-mno-80387", "-g"))]
FIRMWARE_LINK = ["-nostdlib", "-static", "-Wl,-T,firmware/firmware.ld", "-Wl,-e,reset", "-Wl,--build-id=none"]
OPTIONS = {
    "kernel": (TARGET, [*COMPILE, *KERNEL_ONLY]),
    "user": (TARGET, [*COMPILE, *USER_ONLY]),
    "firmware": (FIRMWARE_TARGET, FIRMWARE_COMPILE),
}
LINK = ["-nostdlib", "-static", f"-Wl,-T,{ARCH}/kernel.ld", "-Wl,-e,pvh_entry", "-Wl,--build-id=none"]


def zig(arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "ziglang", *arguments]
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def flat_image(elf: bytes) -> bytes:
    """The memory image of a 32-bit ELF file, from its lowest address on. (zig objcopy does it too, in 20 seconds.)"""
    table, entry_size, entries = struct.unpack_from("<28xI10xHH", elf)
    headers = [struct.unpack_from("<8I", elf, table + entry_size * n) for n in range(entries)]
    # Type, offset in the file, virtual and physical address, bytes in the file and in memory.
    loads = [(physical, elf[at : at + size]) for kind, at, _, physical, size, *_ in headers if kind == PT_LOAD and size]
    start = min(address for address, _ in loads)
    image = bytearray(max(address + len(data) for address, data in loads) - start)
    for address, data in loads:
        image[address - start : address - start + len(data)] = data
    return bytes(image)


def build_guest(out: Path) -> None:
    """Make out/kernel.elf and out/firmware.bin."""
    with tempfile.TemporaryDirectory(prefix="guest-kernel-") as temporary:
        folder = Path(temporary)
        environment = dict(os.environ)
        environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(folder / "cache"))
        environment.setdefault("ZIG_LOCAL_CACHE_DIR", str(folder / "cache"))
        ziglang = find_spec("ziglang")
        zig_folder = Path(ziglang.origin).parent if ziglang and ziglang.origin else Path("ziglang")
        hidden = {HERE: "guest_kernel", folder: "build", zig_folder: "ziglang"}
        folders_hidden = [f"-ffile-prefix-map={path}={name}" for path, name in hidden.items()]

        def compile_one(source: Path) -> str:
            kind = next((part for part in ("firmware", "user") if part in source.parts), "kernel")
            target = folder / f"{kind[0]}__{'_'.join(source.parts)}.o"
            machine, options = OPTIONS[kind]
            zig(["cc", *machine, *options, *folders_hidden, "-c", str(source), "-o", str(target)], environment)
            return str(target)

        sources = sorted(path.relative_to(HERE) for path in HERE.rglob("*.[cS]"))
        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(compile_one, sources))
        firmware = [name for name in objects if Path(name).name.startswith("f__")]
        kernel = [name for name in objects if name not in firmware]
        zig(["cc", *TARGET, *LINK, *kernel, "-o", str(folder / "kernel.elf")], environment)
        zig(["cc", *FIRMWARE_TARGET, *FIRMWARE_LINK, *firmware, "-o", str(folder / "firmware.elf")], environment)
        (folder / "firmware.bin").write_bytes(flat_image((folder / "firmware.elf").read_bytes()))
        out.mkdir(parents=True, exist_ok=True)
        for name in ("kernel.elf", "firmware.bin"):
            shutil.move(folder / name, out / name)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python guest_kernel/build.py FOLDER")
    try:
        build_guest(Path(sys.argv[1]).absolute())
    except RuntimeError as error:
        sys.exit(str(error))

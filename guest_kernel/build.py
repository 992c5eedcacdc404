"""Build the guest kernel: `python guest_kernel/build.py OUT`.

The same sources give the same bytes in every folder and at every time. Needs the package ziglang, no system compiler.
Objects are named k__* (kernel) and u__* (user program); arch/x86_64/kernel.ld sorts them by these names.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
ARCH = "arch/x86_64"
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
LINK = ["-nostdlib", "-static", f"-Wl,-T,{ARCH}/kernel.ld", "-Wl,-e,pvh_entry", "-Wl,--build-id=none"]


def zig_cc(arguments: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", *TARGET, *arguments]
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def build_kernel(out: Path) -> None:
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
            user = "user" in source.parts
            target = folder / f"{'u' if user else 'k'}__{'_'.join(source.parts)}.o"
            extra = USER_ONLY if user else KERNEL_ONLY
            zig_cc([*COMPILE, *extra, *folders_hidden, "-c", str(source), "-o", str(target)], environment)
            return str(target)

        sources = sorted(path.relative_to(HERE) for path in HERE.rglob("*.[cS]"))
        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(compile_one, sources))
        linked = folder / "kernel.elf"
        zig_cc([*LINK, *objects, "-o", str(linked)], environment)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(linked, out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python guest_kernel/build.py OUT")
    try:
        build_kernel(Path(sys.argv[1]).absolute())
    except RuntimeError as error:
        sys.exit(str(error))

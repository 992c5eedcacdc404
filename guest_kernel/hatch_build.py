"""Builds what the wheel ships in hv/_built: the guest (kernel.elf, firmware.bin) and the microcode (a host library).

Hatchling runs it for every wheel and editable install. `python guest_kernel/hatch_build.py` runs it by hand, which is
what make does when a source has changed. Same sources, same bytes, in every folder and at every time.
On a host that is not in HOSTS the wheel is pure: no microcode, and hv takes its portable path.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # hatchling loads this file by its path

from guest_kernel.build import build_guest  # noqa: E402

BUILT = ROOT / "hv" / "_built"
MICROCODE = "hv/silicon/x86_64/microcode.c"
COMPILE = [
    *("-shared", "-fPIC", "-O2", "-s", "-nostdlib"),  # no libc is used, so none is linked
    *("-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-fno-sanitize=undefined"),
]


class Host(NamedTuple):
    """A platform that microcode is built for."""

    zig_target: str
    wheel_platform: str
    library: str


HOSTS = {
    "linux-x86_64": Host("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64", "microcode.so"),
    "linux-aarch64": Host("aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64", "microcode.so"),
    "macosx-arm64": Host("aarch64-macos", "macosx_11_0_arm64", "microcode.dylib"),
    "macosx-x86_64": Host("x86_64-macos", "macosx_11_0_x86_64", "microcode.dylib"),
}


def host() -> Host | None:
    """This platform, or the one named by HV_BUILD_HOST; None if it is unknown."""
    name = sysconfig.get_platform()  # linux-x86_64, macosx-14.0-arm64, macosx-11.0-universal2, win-amd64
    if name.startswith("macosx"):
        name = f"macosx-{platform.machine()}"
    elif "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE")):
        name += "-musl"
    return HOSTS.get(os.environ.get("HV_BUILD_HOST", name))


def build_microcode(out: Path, target: str) -> None:
    with tempfile.TemporaryDirectory(prefix="microcode-") as cache:  # zig also leaves files beside its output
        environment = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache, **os.environ}
        linked = Path(cache, out.name)
        command = [sys.executable, "-m", "ziglang", "cc", "-target", target, *COMPILE, "-o", str(linked), MICROCODE]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        out.write_bytes(linked.read_bytes())


def build() -> Host | None:
    """Fill hv/_built. Files are replaced whole: a running hv keeps those that it has opened."""
    here = host()
    BUILT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=BUILT) as temporary:
        new = Path(temporary)
        build_guest(new)
        if here:
            build_microcode(new / here.library, here.zig_target)
        names = {path.name for path in new.iterdir()}
        for name in names:
            (new / name).replace(BUILT / name)
    for old in BUILT.iterdir():
        if old.is_file() and old.name not in names:
            old.unlink()
    return here


class Hook(BuildHookInterface[Any]):
    """What hatchling calls before it packs a wheel or makes an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        here = build()
        build_data["pure_python"] = here is None
        build_data["tag"] = f"py3-none-{here.wheel_platform if here else 'any'}"


if __name__ == "__main__":
    try:
        build()
    except RuntimeError as error:
        sys.exit(str(error))

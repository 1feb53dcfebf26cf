"""The tests on other platforms, in Debian systems of their own that
debian_root.sh makes. Used by noxfile.py."""

import platform
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import nox

HERE = Path(__file__).parent
# Debian's packages of programs that tests run.
PROGRAMS = (
    *("binutils", "ethtool", "iperf3", "iproute2", "iputils-ping"),
    *("netbase", "strace"),
)
# What the tests import.
TEST = (
    *("hypothesis", "numpy", "pytest", "pytest-timeout", "pytest-xdist"),
    *("scapy", "setuptools>=84.2", "tqdm", "trio"),
)


class System(NamedTuple):
    """A Debian system with an interpreter."""

    machine: str  # as in the names of wheels
    architecture: str  # in Debian's words
    release: str
    packages: tuple[str, ...]
    python: str
    version: str  # of Python
    libc: str = "manylinux"
    environment: tuple[str, ...] = ()

    @property
    def platforms(self) -> list[str]:
        """The platform tags of the wheels that run on it."""
        tags = {
            "manylinux": ("manylinux2014", "manylinux_2_27", "manylinux_2_28"),
            "musllinux": ("musllinux_1_1", "musllinux_1_2"),
        }
        return [f"{tag}_{self.machine}" for tag in tags[self.libc]]


SID = System(
    *("x86_64", "amd64", "sid"),
    ("gcc", "libc6-dev", "libpcap-dev", "python3.14-dev", *PROGRAMS),
    *("/usr/bin/python3.14", "3.14"),
)
MUSL = System(
    *("x86_64", "musl", "trixie", ()),  # see musl_python.sh
    *("/opt/python/bin/python3", "3.13", "musllinux"),
)
AARCH64 = System(
    *("aarch64", "arm64", "trixie"),
    (
        *("kmod", "linux-image-cloud-arm64", "linux-libc-dev", "musl"),
        *("python3", *PROGRAMS),
    ),
    *("/usr/bin/python3", "3.13"),
    # Not qemu's default, whose pointer authentication takes most of the time.
    environment=("QEMU_CPU=cortex-a72",),
)
# Without a wheel, of rawmmsg as of numpy.
S390X = System(
    *("s390x", "s390x", "sid"),
    ("gcc", "libc6-dev", "python3-dev", "python3-numpy", *PROGRAMS),
    *("/usr/bin/python3", "3.14"),
    # The configuration of these libraries would make links to them.
    environment=(
        "LD_LIBRARY_PATH=/usr/lib/s390x-linux-gnu/blas"
        ":/usr/lib/s390x-linux-gnu/lapack",
    ),
)


def make_root(session: nox.Session, system: System, cache: Path) -> Path:
    """Makes the root folder of the system, unless the cache has it."""
    root = cache / "roots" / f"{system.release}-{system.architecture}"
    command = ["musl_python.sh", str(root)]
    if system is not MUSL:
        debian = (system.architecture, system.release)
        command = ["debian_root.sh", *debian, str(root), *system.packages]
    session.run(str(HERE / command[0]), *command[1:], external=True)
    if system.machine != platform.machine():
        emulator = str(HERE / "emulator.sh")
        session.run(emulator, system.machine, external=True)
    return root


def install(
    session: nox.Session, system: System, root: Path, work: Path, dist: Path
) -> None:
    """Installs rawmmsg from the folder `dist`, and what its tests import, into
    work/packages. Most of it with the pip of this machine, because an emulated
    one takes minutes."""
    folder = work / "packages"
    shutil.rmtree(folder, ignore_errors=True)
    command = ("python", "-m", "pip", "install", "--quiet", "--target")
    options = (
        *(str(folder), "--only-binary=:all:", "--implementation=cp"),
        f"--python-version={system.version}",
        *(f"--platform={tag}" for tag in system.platforms),
    )
    if system is S390X:
        tests = (*(name for name in TEST if name != "numpy"), "pip")
        session.run(*command, *options, *tests)
        (sdist,) = dist.glob("*.tar.gz")
        shutil.copy(sdist, work)
        build = ("--no-deps", "--no-build-isolation", "--target")
        inside = (system.python, "-m", "pip", "install", *build)
        archive = f"/job/{sdist.name}"
        run(session, system, root, work, *inside, "/job/packages", archive)
    else:
        name = f"*-abi3-{system.libc}*_{system.machine}.whl"
        (wheel,) = dist.glob(name)
        session.run(*command, *options, *TEST, str(wheel))
    # The first line of a program names this machine's interpreter.
    for program in (folder / "bin").iterdir():
        _, _, text = program.read_text().partition("\n")
        program.write_text(f"#!{system.python}\n{text}")
    for name in ("python", "python3"):
        (folder / "bin" / name).symlink_to(system.python)


def run(
    session: nox.Session,
    system: System,
    root: Path,
    work: Path,
    *command: str,
    script: str = "enter.sh",
) -> None:
    """Runs a command in the system, with the packages in work/packages, in the
    folder work/tree."""
    path = ("/job/packages/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
    session.run(
        *(str(HERE / script), str(root), str(work)),
        *("env", "--chdir=/job/tree", f"PATH={':'.join(path)}"),
        *("PYTHONPATH=/job/packages:/job/tree/.ci", "PYTHONUNBUFFERED=1"),
        *(*system.environment, *command),
        external=True,
    )


def check_musl(
    session: nox.Session, root: Path, work: Path, dist: Path
) -> None:
    """Lets musl's loader for arm64 resolve the symbols of the module for musl.
    Only those of Python may be missing: there is no Python to import it."""
    (wheel,) = dist.glob("*-abi3-musllinux*_aarch64.whl")
    shutil.unpack_archive(wheel, work / "musl", "zip")
    report = session.run(
        *(str(HERE / "enter.sh"), str(root), str(work)),
        *("/lib/ld-musl-aarch64.so.1", "--list"),
        "/job/musl/rawmmsg/_rawmmsg.abi3.so",
        external=True,
        silent=True,
        success_codes=(127,),  # as symbols are missing
    )
    missing = re.findall(r"Error relocating .*: (\w+): symbol", str(report))
    python = [name for name in missing if name.startswith(("Py", "_Py"))]
    if not python or python != missing:
        session.error(f"{wheel.name} cannot be loaded:\n{report}")
    print(f"musl resolves {wheel.name}, except {len(python)} names of Python")

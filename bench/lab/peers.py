"""Other people's programs and modules, used where they are installed."""

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from ..framework import Unavailable
from . import native

# What installs a program, and what makes it tell its version.
PROGRAMS: Final[Mapping[str, tuple[str, str]]] = {
    "bridge": ("apt-get install iproute2", "-V"),
    "ethtool": ("apt-get install ethtool", "--version"),
    "ip": ("apt-get install iproute2", "-V"),
    "iperf3": ("apt-get install iperf3", "--version"),
    "nsenter": ("apt-get install util-linux", "--version"),
    "strace": ("apt-get install strace", "--version"),
    "tcpdump": ("apt-get install tcpdump", "--version"),
    "tcpreplay": ("apt-get install tcpreplay", "--version"),
    "trafgen": ("apt-get install netsniff-ng", "--version"),
    "unshare": ("apt-get install util-linux", "--version"),
}

# What pip installs a module from.
MODULES: Final[Mapping[str, str]] = {
    "cypcap": "cypcap",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pcapy": "pcapy-ng",
    "scapy": "scapy",
}


def program(name: str) -> str:
    """The path of a program; raises Unavailable where there is none."""
    # Plain users often have no sbin in their PATH.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise Unavailable(name, PROGRAMS[name][0])
    return found


def require(name: str) -> None:
    """Raises Unavailable where a module is not installed; does not import
    it."""
    if importlib.util.find_spec(name) is None:
        raise Unavailable(name, f"pip install {MODULES[name]}")


def module(name: str) -> ModuleType:
    """A module, or one inside it ("scapy.all"); raises Unavailable where it
    is not installed."""
    require(name.partition(".")[0])
    return importlib.import_module(name)


@functools.cache
def versions() -> dict[str, str]:
    """What peers are installed: the first line of what a program says of its
    version, and the versions of modules."""
    found: dict[str, str] = {}
    for name, (_, option) in PROGRAMS.items():
        try:
            found[name] = _version([program(name), option])
        except Unavailable:
            continue
    for distribution in MODULES.values():
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[distribution] = version
    return found


def _version(command: list[str]) -> str:
    done = subprocess.run(
        command,
        env=native.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    # tcpreplay says it on standard error.
    words = (done.stdout or done.stderr).strip()
    return words.partition("\n")[0]

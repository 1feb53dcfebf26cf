"""Programs, modules and libraries of other projects, used if installed."""

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from . import native
from .contender import UnavailableError

# The command that installs a program, and the option that prints its version.
PROGRAMS: Final[Mapping[str, tuple[str, str]]] = {
    "busybox": ("apt-get install busybox-static", "--help"),
    "dpdk-testpmd": (
        "apt-get install dpdk librte-meta-net librte-mempool-ring23",
        "-vh",
    ),
    "dumpcap": ("apt-get install wireshark-common", "--version"),
    "ethtool": ("apt-get install ethtool", "--version"),
    "ip": ("apt-get install iproute2", "-V"),
    "iperf3": ("apt-get install iperf3", "--version"),
    "nsenter": ("apt-get install util-linux", "--version"),
    "ovs-vswitchd": ("apt-get install openvswitch-switch", "--version"),
    "qemu-system-x86_64": ("apt-get install qemu-system-x86", "--version"),
    "setpriv": ("apt-get install util-linux", "--version"),
    "strace": ("apt-get install strace", "--version"),
    "tcpdump": ("apt-get install tcpdump", "--version"),
    "tcpreplay": ("apt-get install tcpreplay", "--version"),
    "trafgen": ("apt-get install netsniff-ng", "--version"),
    "unshare": ("apt-get install util-linux", "--version"),
    "vde_switch": ("apt-get install vde2", "--version"),
}

# Programs that come with another one.
_COMPANIONS: Final[Mapping[str, str]] = {
    "ovs-vsctl": "ovs-vswitchd",
    "ovsdb-server": "ovs-vswitchd",
    "ovsdb-tool": "ovs-vswitchd",
    "vde_pcapplug": "vde_switch",
}

# The distributions that pip installs modules from.
MODULES: Final[Mapping[str, str]] = {
    "cypcap": "cypcap",
    "numpy": "numpy",
    "pcapy": "pcapy-ng",
    "scapy": "scapy",
}


def program(name: str) -> str:
    """The path of a program; raises UnavailableError if it is not
    installed."""
    # Plain users often have no sbin in their PATH.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        install, _ = PROGRAMS[_COMPANIONS.get(name, name)]
        raise UnavailableError(name, install)
    return found


def require(name: str) -> None:
    """Raises UnavailableError if a module is not installed; does not import
    it."""
    if importlib.util.find_spec(name) is None:
        raise UnavailableError(name, f"pip install {MODULES[name]}")


def module(name: str) -> ModuleType:
    """A module, or one inside it ("scapy.all"); raises UnavailableError if
    it is not installed."""
    require(name.partition(".")[0])
    return importlib.import_module(name)


@functools.cache
def found() -> dict[str, str]:
    """The peers of all measurements: the version of each, or "missing" and the
    command that installs it."""
    rows: dict[str, str] = {}
    for name, (install, option) in PROGRAMS.items():
        try:
            rows[name] = _version([program(name), option])
        except UnavailableError:
            rows[name] = f"missing: {install}"
    for name, distribution in MODULES.items():
        try:
            rows[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            rows[name] = f"missing: pip install {distribution}"
    rows["pcap/pcap.h"] = _header("pcap/pcap.h")
    return rows


def _header(header: str) -> str:
    """Whether the C compiler finds a header."""
    try:
        command = [*native.compiler(), "-E", "-include", header, "-xc", "-"]
    except UnavailableError as error:
        return f"missing: {error.missing.install}"
    found = native.run(command).returncode == 0
    return "found" if found else f"missing: {native.INSTALL[header]}"


def _version(command: list[str]) -> str:
    done = native.run(command)
    # tcpreplay prints its version to standard error.
    printed = (done.stdout + done.stderr).strip()
    match = re.search(r"\d+(?:\.\d+)+", printed)
    return match[0] if match else printed.partition("\n")[0]

"""What the tests need of Linux: interfaces, iproute2's commands, ethtool, tun
and tap devices, counters, descriptors."""

import array
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rawmmsg import RawSocket
from support.child import tool

ETH_P_ALL: Final = 3

# <asm-generic/socket.h>, <linux/net_tstamp.h>
SO_ATTACH_FILTER: Final = 26
SO_TIMESTAMPNS: Final = 35
SO_TIMESTAMPING: Final = 37
SOF_TIMESTAMPING_RX_SOFTWARE: Final = 1 << 3
SOF_TIMESTAMPING_SOFTWARE: Final = 1 << 4

# <linux/sockios.h>
_SIOCETHTOOL: Final = 0x8946

# <linux/ethtool.h>
ETHTOOL_SRXCSUM: Final = 0x15
ETHTOOL_STXCSUM: Final = 0x17
ETHTOOL_STSO: Final = 0x1F
ETHTOOL_SGSO: Final = 0x24
ETHTOOL_SGRO: Final = 0x2C
_ETHTOOL_GSTRINGS: Final = 0x1B
_ETHTOOL_SFEATURES: Final = 0x3B
_ETH_SS_FEATURES: Final = 4
_ETH_GSTRING_LEN: Final = 32

# <linux/if_tun.h>
_TUNSETIFF: Final = 0x400454CA
_IFF_NAPI: Final = 0x0010
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_TUN_KINDS: Final = {"tun": 0x0001, "tap": 0x0002}


def run_iproute2(name: str, *arguments: str) -> str:
    """Runs a command of iproute2 and returns what it prints."""
    done = subprocess.run(
        [tool(name), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{name} {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def ip(*arguments: str) -> str:
    """Runs ip(8) and returns what it prints."""
    return run_iproute2("ip", *arguments)


@contextmanager
def tun_device(
    kind: str, *, vnet_hdr: bool = False, napi: bool = False
) -> Iterator[tuple[int, str]]:
    """Makes a tun or tap interface and sets it up; the kernel sends nothing of
    its own there. Returns the descriptor, from which frames that the interface
    sends are read, and the name. With vnet_hdr, each frame begins with a
    virtio_net_hdr. With napi, the interface merges what it receives."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _TUN_KINDS[kind] | _IFF_NO_PI
        flags |= vnet_hdr * _IFF_VNET_HDR | napi * _IFF_NAPI
        asked = struct.pack("16sH22x", f"{kind}%d".encode(), flags)
        answer = fcntl.ioctl(descriptor, _TUNSETIFF, asked)
        interface = answer[:16].rstrip(b"\0").decode()
        ip("link", "set", interface, "addrgenmode", "none")
        ip("link", "set", interface, "up")
        yield descriptor, interface
    finally:
        os.close(descriptor)


def tc(*arguments: str) -> str:
    """Runs tc(8) and returns what it prints."""
    return run_iproute2("tc", *arguments)


def interface_counters(interface: str) -> list[int]:
    """The interface's row of /proc/net/dev: eight counters of what it has
    received (bytes, packets, ...), then eight of what it has sent."""
    with open("/proc/thread-self/net/dev", encoding="ascii") as table:
        for line in table:
            name, _, numbers = line.partition(":")
            if name.strip() == interface:
                return [int(number) for number in numbers.split()]
    raise AssertionError(f"{interface} is gone")


def tx_dropped(interface: str) -> int:
    """The number of frames that the interface has dropped when sending."""
    return interface_counters(interface)[11]


def drop_frames_of(interface: str, size: int) -> None:
    """Makes tc-bpf(8) drop frames of this size when they are sent
    (TC_ACT_SHOT), which the kernel reports as ENOBUFS."""
    code = f"4,128 0 0 0,21 0 1 {size},6 0 0 2,6 0 0 0"
    tc("qdisc", "add", "dev", interface, "clsact")
    rest = ("egress", "bpf", "direct-action", "bytecode", code)
    tc("filter", "add", "dev", interface, *rest)


def ethtool(interface: str, command: int, value: int) -> None:
    """Sets one feature, like ethtool(8) -K."""
    _ethtool(interface, array.array("I", [command, value]))


def switch_on(interface: str, feature: str) -> None:
    """Sets a feature that has no command of its own, like ethtool(8) -K
    INTERFACE FEATURE on."""
    # With room for 128 names, twice as many as there are.
    names = array.array(
        "I", [_ETHTOOL_GSTRINGS, _ETH_SS_FEATURES, 0, *[0] * (8 * 128)]
    )
    _ethtool(interface, names)
    text, size = names.tobytes()[12:], _ETH_GSTRING_LEN
    wanted = feature.encode().ljust(size, b"\0")
    known = [text[i * size : (i + 1) * size] for i in range(names[2])]
    assert wanted in known, f"this kernel does not know {feature}"
    number = known.index(wanted)
    # For each 32 features: those to change, and those to switch on.
    words = [0, 0] * -(-len(known) // 32)
    words[number // 32 * 2] = words[number // 32 * 2 + 1] = 1 << number % 32
    blocks = len(words) // 2
    _ethtool(interface, array.array("I", [_ETHTOOL_SFEATURES, blocks, *words]))


def _ethtool(interface: str, setting: "array.array[int]") -> None:
    request = struct.pack(
        "16sP16x", interface.encode(), setting.buffer_info()[0]
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCETHTOOL, request)


def descriptors() -> set[int]:
    """The descriptors that this process has open. Without the log of a
    sanitizer, which opens it at its first report."""
    numbers = {int(name) for name in os.listdir("/proc/self/fd")}
    return {
        number for number in numbers if is_open(number) and not _is_log(number)
    }


def _is_log(descriptor: int) -> bool:
    options = " ".join(
        os.environ.get(f"{sanitizer}_OPTIONS", "").replace(":", " ")
        for sanitizer in ("ASAN", "TSAN", "UBSAN")
    )
    logs = tuple(
        option.removeprefix("log_path=")
        for option in options.split()
        if option.startswith("log_path=")
    )
    # realpath() does not fail if another thread closes the descriptor.
    path = os.path.realpath(f"/proc/self/fd/{descriptor}")
    return path.startswith(logs)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@contextmanager
def same_descriptors() -> Iterator[None]:
    """Asserts that the block leaves the same descriptors open."""
    before = descriptors()
    yield
    assert descriptors() == before, (
        "a descriptor was left open, or one too many was closed"
    )


def same_socket(sock: RawSocket) -> socket.socket:
    """A socket of the standard library that shares this open socket."""
    return socket.socket(fileno=os.dup(sock.fileno()))


def hardware_address(interface: str) -> bytes:
    """The Ethernet address of the interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((interface, 0))
        address: bytes = sock.getsockname()[4]
        return address


def packet_socket(
    interface: str | None, kind: int = socket.SOCK_RAW
) -> socket.socket:
    """A socket of the standard library that receives everything on the
    interface, or on all interfaces."""
    if interface is None:
        protocol = socket.htons(ETH_P_ALL)
        return socket.socket(socket.AF_PACKET, kind, protocol)
    sock = socket.socket(socket.AF_PACKET, kind, 0)
    sock.bind((interface, ETH_P_ALL))
    return sock


@contextmanager
def other_namespace() -> Iterator[int]:
    """Makes another network namespace, with loopback up; returns the id of a
    process inside."""
    with subprocess.Popen(
        [
            "unshare",
            "--net",
            "sh",
            "-c",
            f"{tool('ip')} link set lo up; echo; read _",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n", (
            "unshare(1) made no namespace"
        )
        yield process.pid
        process.stdin.close()

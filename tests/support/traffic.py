"""What several test files need in order to send, receive and filter real
packets, and to run child processes."""

import array
import errno
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import rawmmsg
from rawmmsg import PacketBatch, RawSocket

ETH_P_ALL: Final = 3
WAIT: Final = 30.0
"""Seconds until something that must happen counts as never: a limit for a
machine under load, not a duration."""

SCALE: Final = int(os.environ.get("RAWMMSG_TEST_SCALE", "1"))
"""How often tests that race against the kernel repeat; more by hand."""

# <linux/sockios.h>
_SIOCETHTOOL: Final = 0x8946

# <linux/if_tun.h>
_TUNSETIFF: Final = 0x400454CA
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_TUN_KINDS: Final = {"tun": 0x0001, "tap": 0x0002}

# The Debian packages of the programs that tests run.
_PACKAGES: Final = {
    "gcc": "gcc",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "readelf": "binutils",
    "strace": "strace",
    "tc": "iproute2",
}

# <linux/bpf_common.h>, <linux/filter.h>
LD_IMM: Final = 0x00
LD_H_ABS: Final = 0x28
LDX_MSH: Final = 0xB1
JEQ: Final = 0x15
RET: Final = 0x06


def program(*instructions: tuple[int, int, int, int]) -> bytes:
    """An array of struct sock_filter."""
    return b"".join(struct.pack("HBBI", *one) for one in instructions)


def accept(snap: int = 0xFFFF) -> bytes:
    """A program that keeps `snap` bytes of every packet; 0 rejects all."""
    return program((RET, 0, 0, snap))


def keep_ethertype(ethertype: int) -> bytes:
    """A program that rejects every frame of another EtherType."""
    return program(
        (LD_H_ABS, 0, 0, 12),
        (JEQ, 0, 1, ethertype),
        (RET, 0, 0, 0xFFFF),
        (RET, 0, 0, 0),
    )


@contextmanager
def flood(
    interface: str, frames: Iterable[bytes], cpu: int | None = None
) -> Iterator[None]:
    """Sends the frames on the interface, again and again, from a thread,
    which is tied to one CPU where told."""
    packets = list(frames)
    # As many as one call takes: between calls the thread waits for the GIL.
    packets *= max(1, 1024 // len(packets))
    sending, stop = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def work(sender: RawSocket) -> None:
        try:
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            while not stop.is_set():
                try:
                    sender.sendmmsg(packets)
                except OSError as error:
                    # The receiving end has no room in its backlog.
                    if error.errno != errno.ENOBUFS:
                        raise
                sending.set()
        except BaseException as error:
            failures.append(error)
            sending.set()

    with RawSocket(interface, protocol=0) as sender:
        thread = threading.Thread(target=work, args=(sender,))
        thread.start()
        try:
            assert sending.wait(WAIT), "the flood does not begin"
            yield
        finally:
            stop.set()
            thread.join()
    assert not failures, f"the flood broke off: {failures[0]!r}"


def receive(sock: RawSocket, count: int) -> list[bytes]:
    """Waits for `count` packets and returns them."""
    sock.settimeout(WAIT)
    batch = PacketBatch()
    packets: list[bytes] = []
    while len(packets) < count:
        sock.recvmmsg_into(batch)
        packets += batch.tolist()
    return packets


def pending(sock: RawSocket) -> list[bytes]:
    """Takes what waits in the queue now."""
    sock.setblocking(False)
    batch = PacketBatch()
    packets: list[bytes] = []
    try:
        while True:
            sock.recvmmsg_into(batch)
            packets += batch.tolist()
    except BlockingIOError:
        return packets


def until_stamped(sender: RawSocket, sock: RawSocket, packet: bytes) -> None:
    """The kernel begins to stamp a moment after it was asked: sends packets
    until one that `sock` receives has a stamp."""
    batch = PacketBatch()
    deadline = time.monotonic() + WAIT
    stamped = False
    while not stamped:
        assert time.monotonic() < deadline, "nothing is stamped"
        sender.send(packet)
        receive_batch(sock, batch)
        stamps = batch.timestamps_ns
        assert stamps is not None
        stamped = stamps[len(batch) - 1] != 0
    pending(sock)


def receive_batch(sock: RawSocket, batch: PacketBatch) -> None:
    sock.settimeout(WAIT)
    sock.recvmmsg_into(batch)


def datagram_pair() -> tuple[socket.socket, RawSocket]:
    """An AF_UNIX pair, which needs no privilege: the stdlib's end sends, the
    adopted one receives."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return sender, RawSocket(fileno=receiver.detach())


def missing(what: str, package: str) -> FileNotFoundError:
    """The error of a test that needs `what`; conftest.py skips the test."""
    return FileNotFoundError(
        errno.ENOENT, f"the test needs {what}: apt-get install {package}"
    )


def tool(name: str) -> str:
    """The path of a program; raises missing() if it is not installed."""
    # Plain users often have no sbin in their PATH.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise missing(name, _PACKAGES[name])
    return found


def run_iproute2(name: str, *arguments: str) -> str:
    """Runs a command of iproute2; returns what it prints."""
    done = subprocess.run(
        [tool(name), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{name} {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def ip(*arguments: str) -> str:
    """Runs ip(8); returns what it prints."""
    return run_iproute2("ip", *arguments)


@contextmanager
def tun_device(
    kind: str, *, vnet_hdr: bool = False
) -> Iterator[tuple[int, str]]:
    """A "tun" or "tap" interface, up and silent: the descriptor that what it
    sends is read from, and what it receives written to, and its name. With
    vnet_hdr each begins with a virtio_net_hdr."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _TUN_KINDS[kind] | _IFF_NO_PI | vnet_hdr * _IFF_VNET_HDR
        asked = struct.pack("16sH22x", f"{kind}%d".encode(), flags)
        answer = fcntl.ioctl(descriptor, _TUNSETIFF, asked)
        interface = answer[:16].rstrip(b"\0").decode()
        ip("link", "set", interface, "addrgenmode", "none")
        ip("link", "set", interface, "up")
        yield descriptor, interface
    finally:
        os.close(descriptor)


def tc(*arguments: str) -> str:
    """Runs tc(8); returns what it prints."""
    return run_iproute2("tc", *arguments)


def interface_counters(interface: str) -> list[int]:
    """Its row of /proc/net/dev: eight counters of what it has received (bytes,
    packets, ...), then eight of what it has sent."""
    with open("/proc/thread-self/net/dev", encoding="ascii") as table:
        for line in table:
            name, _, numbers = line.partition(":")
            if name.strip() == interface:
                return [int(number) for number in numbers.split()]
    raise AssertionError(f"{interface} is gone")


def tx_dropped(interface: str) -> int:
    """Frames that the interface has dropped on their way out."""
    return interface_counters(interface)[11]


def drop_frames_of(interface: str, size: int) -> None:
    """Has tc-bpf(8) drop frames of this size on their way out (TC_ACT_SHOT),
    of which the kernel says ENOBUFS."""
    code = f"4,128 0 0 0,21 0 1 {size},6 0 0 2,6 0 0 0"
    tc("qdisc", "add", "dev", interface, "clsact")
    rest = ("egress", "bpf", "direct-action", "bytecode", code)
    tc("filter", "add", "dev", interface, *rest)


def ethtool(interface: str, command: int, value: int) -> None:
    """ethtool(8) -K, for one feature."""
    setting = array.array("I", [command, value])
    request = struct.pack(
        "16sP16x", interface.encode(), setting.buffer_info()[0]
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCETHTOOL, request)


def environment() -> dict[str, str]:
    """For child processes: ours, able to import the package under test and
    what the tests share."""
    paths = [
        str(Path(rawmmsg.__file__).parents[1]),
        str(Path(__file__).parents[1]),
    ]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def run_python(code: str, *prefix: str) -> str:
    """Runs Python code in a child, behind the command `prefix`; returns what
    it prints."""
    done = subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

"""A virtual machine that sends TCP to a host, and `rawmmsg bridge` between
them. The machine is a network namespace with a tap, which guest.c joins to a
Unix datagram socket, as QEMU's dgram netdev does.

    guest                      here                              host
    eth0 (tap) --- guest.c --- socket --- bridge --- port --- veth --- eth0
"""

import contextlib
import fcntl
import os
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..lab import native
from ..lab.contender import GroundTruthError, Ready, Slice, UnavailableError
from .hosts import ADDRESSES, PATIENCE, Host, host_of, iperf3, two_hosts
from .sides import rawmmsg_bridge

# <linux/if_tun.h>
_TUNSETIFF: Final = 0x400454CA
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000

# How many frames may wait in a Unix datagram socket. It is 10 by default.
_QUEUE: Final = Path("/proc/sys/net/unix/max_dgram_qlen")
_QUEUE_LENGTH: Final = 512


@dataclass(frozen=True)
class Place:
    """The guest, the descriptor of its tap, the host, a folder for sockets,
    and iperf3's option for how much or how long."""

    guest: Host
    descriptor: int
    host: Host
    folder: str
    amount: Sequence[str]


@contextlib.contextmanager
def guest_and_host(amount: Sequence[str]) -> Iterator[Place]:
    """Makes both. Raises UnavailableError if something is missing."""
    lengthen_queues()
    with (
        two_hosts() as (_, host),
        tap() as (descriptor, name),
        host_of(name, ADDRESSES[0], "") as guest,
        tempfile.TemporaryDirectory(prefix="rawmmsg-bench-") as folder,
    ):
        yield Place(guest, descriptor, host, folder, amount)


def lengthen_queues() -> None:
    """Lets more frames wait in Unix datagram sockets."""
    try:
        _QUEUE.write_text(str(_QUEUE_LENGTH))
    except OSError:
        raise UnavailableError(
            "the right to set net.unix.max_dgram_qlen", "run as root"
        ) from None


@contextlib.contextmanager
def tap() -> Iterator[tuple[int, str]]:
    """A tap without offloads: its descriptor and name."""
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        raise UnavailableError(
            "/dev/net/tun", "modprobe tun; chmod 666 /dev/net/tun"
        ) from None
    try:
        asked = struct.pack("16sH22x", b"tap%d", _IFF_TAP | _IFF_NO_PI)
        answer = fcntl.ioctl(descriptor, _TUNSETIFF, asked)
        yield descriptor, answer[:16].rstrip(b"\0").decode()
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def running(descriptor: int, local: str, remote: str) -> Iterator[None]:
    """Joins a tap to a socket at the path `local`, which talks to `remote`, in
    a thread."""
    run = native.library("forward/guest.c").guest_run
    reader, writer = os.pipe()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ThreadPoolExecutor(1) as pool,
    ):
        try:
            sock.bind(local)
            sock.connect(remote)
            done = pool.submit(run, descriptor, sock.fileno(), reader)
            yield
        finally:
            os.close(writer)
        native.succeeded(done.result(PATIENCE), "forward/guest.c")
    os.close(reader)
    os.unlink(local)


def uploading(*options: str) -> Callable[[Place], Ready]:
    """Makes a bridge with these options ready to run."""
    return lambda place: Ready(lambda _: _upload(place, options))


def _upload(place: Place, options: Sequence[str]) -> Slice:
    """Sends TCP from the guest to the host."""
    bridge, machine = f"{place.folder}/bridge", f"{place.folder}/machine"
    ports = (f"unix:{bridge},{machine}", place.host.port)
    before = _errors(place)
    with (
        rawmmsg_bridge(*ports, *options) as pid,
        running(place.descriptor, machine, bridge),
    ):
        begin = _cpu_seconds(pid)
        end = iperf3(place.guest, place.host, place.amount)
        used = _cpu_seconds(pid) - begin
    errors = _errors(place) - before
    if errors > 0:
        raise GroundTruthError(f"{errors} segments arrived damaged")
    received = end["sum_received"]
    gigabytes = received["bytes"] / 1e9
    share = end["cpu_utilization_percent"]["remote_total"] / 100
    return Slice(
        received["bits_per_second"] / 1e9,
        extra={
            "bridge, s/GB": used / gigabytes,
            "host's iperf3, s/GB": share * received["seconds"] / gigabytes,
        },
    )


def _errors(place: Place) -> int:
    return place.guest.checksum_errors() + place.host.checksum_errors()


def _cpu_seconds(pid: int) -> float:
    """The CPU time of a process, the kernel's work for it included."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()  # proc(5): the third is first
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

"""docs/reference/errors.md tells the truth: each row of its tables is raised
here, as the row says."""

import asyncio
import builtins
import errno
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from support.blocks import ROOT
from support.calls import Call
from support.child import WITHOUT_CAPABILITIES, environment, tool
from support.datagrams import UDP, Datagram, super_frame
from support.frames import PACKET, frame
from support.linux import ip, tc, tun_device

import rawmmsg
from rawmmsg import PacketBatch, RawSocket, pacing, pcap
from rawmmsg.testing import veth_pair

LOAD: Final = struct.pack("HBBI", 0x20, 0, 0, 0)  # ld [0]
ACCEPT: Final = struct.pack("HBBI", 0x06, 0, 0, 1)  # ret #1
# The kernel counts its own instructions, several for each ldxb 4*([0]&0xf).
LARGE: Final = struct.pack("HBBI", 0xB1, 0, 0, 0) * 4095 + ACCEPT


class Lab:
    """A new pair of interfaces, and what must be closed after the test."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self.folder = folder
        self.veth = stack.enter_context(veth_pair())

    def open(self, *args: Any, **options: Any) -> RawSocket:
        """A socket, on side b unless another interface is given."""
        if not args and "fileno" not in options:
            args = (self.veth.b,)
        return self._stack.enter_context(RawSocket(*args, **options))

    def sender(self) -> RawSocket:
        return self.open(self.veth.a, protocol=0)

    def adopted(self, family: int, kind: int, **options: Any) -> RawSocket:
        opened = socket.socket(family, kind)
        return self.open(fileno=opened.detach(), **options)

    def pair(self, kind: int) -> tuple[RawSocket, socket.socket]:
        near, far = socket.socketpair(socket.AF_UNIX, kind)
        self._stack.enter_context(far)
        return self.open(fileno=near.detach()), far

    def throttle(self, limit: int) -> None:
        """Lets `limit` bytes wait in the queue of side a, almost for ever."""
        tc(
            *("qdisc", "replace", "dev", self.veth.a, "root", "tbf"),
            *("burst", "2000", "rate", "100bit", "limit", str(limit)),
        )

    @contextmanager
    def waiting(self, sock: RawSocket, batch: PacketBatch) -> Iterator[Call]:
        """A receive that waits in another thread until the socket closes."""
        with Call(sock.recvmmsg_into, batch) as call:
            call.until_blocked()
            try:
                yield call
            finally:
                sock.close()


@pytest.fixture
def lab(short_path: Path) -> Iterator[Lab]:
    tool("ip")
    with ExitStack() as stack:
        yield Lab(stack, short_path)


Probe: TypeAlias = Callable[[Lab], object]
PROBES: dict[tuple[str, str], Probe] = {}


def probe(kind: str, place: str) -> Callable[[Probe], Probe]:
    """Registers the function that raises what the row with these two cells
    says."""

    def register(function: Probe) -> Probe:
        PROBES[kind, place] = function
        return function

    return register


# Packet sockets


@probe("EAGAIN", "recvmmsg_into()")
def _(lab: Lab) -> None:
    sock = lab.open()
    sock.setblocking(False)
    sock.recvmmsg_into(PacketBatch())


@probe("EAGAIN", "sendmmsg()")
def _(lab: Lab) -> None:
    lab.throttle(1_000_000)
    sock = lab.open(lab.veth.a, protocol=0, sndbuf=0)
    sock.setblocking(False)
    for _ in range(100):
        sock.sendmmsg([frame(bytes(1000))])


@probe("EALREADY", "set_fanout()")
def _(lab: Lab) -> None:
    sock = lab.open(fanout="hash")
    sock.set_fanout("hash")


@probe("EBADF", "recvmmsg_into(), sendmmsg()")
def _(lab: Lab) -> None:
    sock = lab.open()
    with lab.waiting(sock, PacketBatch()) as call:
        sock.close()
        call.result()


@probe("EBADF", "RawSocket(fileno=)")
def _(lab: Lab) -> None:
    sock = lab.open()
    number = sock.detach()
    os.close(number)
    RawSocket(fileno=number)


@probe("EBADF", "attach_filter()")
def _(lab: Lab) -> None:
    lab.open().attach_filter(10**6)


@probe("EBUSY", "detach()")
def _(lab: Lab) -> None:
    sock = lab.open()
    with lab.waiting(sock, PacketBatch()):
        sock.detach()


@probe("EINVAL", "sendmmsg()")
def _(lab: Lab) -> None:
    lab.sender().sendmmsg([bytes(13)])


@probe("EINVAL", "send() of SOCK_DGRAM")
def _(lab: Lab) -> None:
    lab.open(type=socket.SOCK_DGRAM).send(b"payload")


@probe("EINVAL", "sendmmsg() of a UDP super-frame")
def _(lab: Lab) -> None:
    batch = super_frame(Datagram(bytes(129), UDP), 1)
    lab.open(lab.veth.a, protocol=0, vnet_hdr=True).sendmmsg(batch)


@probe("EINVAL", "recvmmsg_into() with vnet_hdr=")
def _(lab: Lab) -> None:
    with tun_device("tap", vnet_hdr=True) as (descriptor, interface):
        sock = lab.open(interface, vnet_hdr=True)
        # A header of type VIRTIO_NET_HDR_GSO_UDP, and a datagram for it.
        udp = struct.pack("!HHHH", 1, 2, 3008, 0) + bytes(3000)
        packet = struct.pack("!BBHIBBH8x", 0x45, 0, 3028, 0, 64, 17, 0) + udp
        header = struct.pack("=BBHHHH", 0, 3, 42, 1000, 0, 0)
        os.write(descriptor, header + frame(packet, ethertype=0x0800))
        sock.settimeout(10)
        sock.recvmmsg_into(PacketBatch())


@probe("EINVAL", "attach_filter()")
def _(lab: Lab) -> None:
    lab.open().attach_filter(LOAD)  # it has no ret


@probe("EINVAL", "set_fanout()")
def _(lab: Lab) -> None:
    group = lab.open().set_fanout("hash")
    lab.open(lab.veth.a).set_fanout("hash", group)


@probe("EINVAL", "add_membership()")
def _(lab: Lab) -> None:
    lab.open().add_membership(bytes(5))


@probe("EINVAL", "RawSocket(netns=)")
def _(lab: Lab) -> None:
    RawSocket("lo", netns="/dev/null")


@probe("EMFILE", "RawSocket()")
def _(lab: Lab) -> None:
    # Not in this process, whose other threads may open files.
    raise_in_child(
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))\n"
        "kept = [RawSocket('lo', allow_down=True) for _ in range(5)]"
    )


@probe("EMSGSIZE", "sendmmsg()")
def _(lab: Lab) -> None:
    lab.sender().sendmmsg([frame(bytes(1501))])


@probe("ENETDOWN", "RawSocket()")
def _(lab: Lab) -> None:
    ip("link", "set", lab.veth.b, "down")
    RawSocket(lab.veth.b)


@probe("ENETDOWN", "recvmmsg_into()")
def _(lab: Lab) -> None:
    sock = lab.open()
    ip("link", "set", lab.veth.b, "down")
    sock.recvmmsg_into(PacketBatch())


@probe("ENETDOWN", "sendmmsg()")
def _(lab: Lab) -> None:
    sock = lab.sender()
    ip("link", "set", lab.veth.a, "down")
    sock.sendmmsg([PACKET])


@probe("ENOBUFS", "sendmmsg()")
def _(lab: Lab) -> None:
    lab.throttle(3_000)
    sock = lab.sender()
    for _ in range(100):
        sock.sendmmsg([frame(bytes(1000))])


@probe("ENOBUFS", "sendmmsg_all()")
def _(lab: Lab) -> None:
    lab.throttle(3_000)
    lab.sender().sendmmsg_all([frame(bytes(1000))] * 100)


@probe("ENODEV", "RawSocket()")
def _(lab: Lab) -> None:
    RawSocket("missing")


@probe("ENODEV", "recvmmsg_into(), sendmmsg()")
def _(lab: Lab) -> None:
    sock = lab.sender()
    ip("link", "delete", lab.veth.a)
    sock.sendmmsg([PACKET])


@probe("ENODEV", "sendto()")
def _(lab: Lab) -> None:
    lab.open(None).sendto(PACKET, ("missing", 0))


@probe("ENOENT", "RawSocket(netns=)")
def _(lab: Lab) -> None:
    RawSocket("lo", netns="missing")


@probe("ENOENT", "detach_filter()")
def _(lab: Lab) -> None:
    lab.open().detach_filter()


@probe("ENOMEM", "attach_filter()")
def _(lab: Lab) -> None:
    lab.open().attach_filter(LARGE)


@probe("ENOPROTOOPT", "getsockopt()")
def _(lab: Lab) -> None:
    lab.open().getsockopt(rawmmsg.SOL_PACKET, 10_000)


@probe("ENOSPC", "set_fanout()")
def _(lab: Lab) -> None:
    group = None
    for _ in range(257):
        # Without the default receive buffer.
        sock = lab.open(rcvbuf=0)
        group = sock.set_fanout("hash", group)


@probe("ENOTSOCK", "RawSocket(fileno=)")
def _(lab: Lab) -> None:
    with open(os.devnull) as file:
        RawSocket(fileno=file.fileno())


@probe("ENXIO", "send() on all interfaces")
def _(lab: Lab) -> None:
    lab.open(None).send(PACKET)


@probe("ENXIO", "sendto()")
def _(lab: Lab) -> None:
    lab.open(None).sendto(PACKET, (2**31 - 1, 0))


@probe("EOPNOTSUPP", "recvmmsg_into()")
def _(lab: Lab) -> None:
    lab.sender().recvmmsg_into(PacketBatch())


@probe("EOPNOTSUPP", "recv(), send() with vnet_hdr=")
def _(lab: Lab) -> None:
    lab.open(vnet_hdr=True).send(PACKET)


@probe("EOPNOTSUPP", 'RawSocket(timestamps="hardware")')
def _(lab: Lab) -> None:
    RawSocket(lab.veth.b, timestamps="hardware")


@probe("EPERM", "RawSocket()")
def _(lab: Lab) -> None:
    raise_in_child("RawSocket('lo')", prefix=WITHOUT_CAPABILITIES)


@probe("EPERM", "attach_filter(), detach_filter()")
def _(lab: Lab) -> None:
    sock = lab.open(filter="arp")
    sock.lock_filter()
    sock.detach_filter()


def raise_in_child(code: str, prefix: tuple[str, ...] = ()) -> None:
    """Raises an exception of the class and with the errno of the one that the
    code raises in another process."""
    program = (
        "import socket, warnings\n"
        "from rawmmsg import RawSocket\n"
        "warnings.simplefilter('error')\n"
        f"try:\n    exec({code!r})\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, getattr(error, 'errno', 0))\n"
    )
    done = subprocess.run(
        [*prefix, sys.executable, "-c", program],
        env=environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    name, number = done.stdout.decode().split()
    raise getattr(builtins, name)(int(number), "in another process")


# Adopted sockets


@probe("EACCES", "sendto() to a broadcast address")
def _(lab: Lab) -> None:
    ip("link", "set", "lo", "up")
    sock = lab.adopted(socket.AF_INET, socket.SOCK_DGRAM, addresses=True)
    sock.sendto(b"x", ("127.255.255.255", 9))


@probe("EAGAIN", "send()")
def _(lab: Lab) -> None:
    sock, _ = lab.pair(socket.SOCK_DGRAM)
    sock.setblocking(False)
    while True:
        sock.send(b"x")


@probe("ECONNREFUSED", "sendto() on AF_UNIX")
def _(lab: Lab) -> None:
    sock = lab.adopted(socket.AF_UNIX, socket.SOCK_DGRAM, addresses=True)
    path = str(lab.folder / "closed")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(path)
    sock.sendto(b"x", path)


@probe("ECONNREFUSED", "recv() on AF_INET")
def _(lab: Lab) -> None:
    ip("link", "set", "lo", "up")
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.connect(("127.0.0.1", 9))
    sock = lab.open(fileno=opened.detach())
    sock.send(b"x")
    sock.settimeout(10)
    sock.recv(1)


@probe("EDESTADDRREQ", "send() on AF_INET")
def _(lab: Lab) -> None:
    lab.adopted(socket.AF_INET, socket.SOCK_DGRAM).send(b"x")


@probe("EMSGSIZE", "sendto()")
def _(lab: Lab) -> None:
    sock = lab.adopted(socket.AF_INET, socket.SOCK_DGRAM, addresses=True)
    sock.sendto(bytes(70_000), ("127.0.0.1", 9))


@probe("ENETUNREACH", "sendto() on AF_INET")
def _(lab: Lab) -> None:
    sock = lab.adopted(socket.AF_INET, socket.SOCK_DGRAM, addresses=True)
    sock.sendto(b"x", ("192.0.2.1", 9))


@probe("ENOENT", "sendto() on AF_UNIX")
def _(lab: Lab) -> None:
    sock = lab.adopted(socket.AF_UNIX, socket.SOCK_DGRAM, addresses=True)
    sock.sendto(b"x", str(lab.folder / "missing"))


@probe("ENOTCONN", "send() on AF_UNIX")
def _(lab: Lab) -> None:
    lab.adopted(socket.AF_UNIX, socket.SOCK_DGRAM).send(b"x")


@probe("EOPNOTSUPP", "getsockname(), set_fanout()")
def _(lab: Lab) -> None:
    lab.adopted(socket.AF_UNIX, socket.SOCK_DGRAM).getsockname()


@probe("EPIPE", "send() on SOCK_SEQPACKET")
def _(lab: Lab) -> None:
    sock, far = lab.pair(socket.SOCK_SEQPACKET)
    far.close()
    assert sock.recv(1) == b"", "the end is an empty packet"
    sock.send(b"x")


@probe("EPROTOTYPE", "sendto() on AF_UNIX")
def _(lab: Lab) -> None:
    sock = lab.adopted(socket.AF_UNIX, socket.SOCK_DGRAM, addresses=True)
    path = str(lab.folder / "stream")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.bind(path)
        sock.sendto(b"x", path)


# Exceptions without errno


@probe("TimeoutError", "recvmmsg_into(), sendmmsg()")
def _(lab: Lab) -> None:
    sock = lab.open()
    sock.settimeout(0.01)
    sock.recvmmsg_into(PacketBatch())


@probe("AttributeError", "batch.timestamps_ns, and the other columns")
def _(lab: Lab) -> object:
    return PacketBatch().timestamps_ns


@probe("BufferError", "batch[0], and every use of a batch")
def _(lab: Lab) -> None:
    sock, batch = lab.open(), PacketBatch()
    batch.append(PACKET)
    with lab.waiting(sock, batch):
        batch[0]


@probe("BufferError", "segment_into(), merge_into()")
def _(lab: Lab) -> None:
    batch = PacketBatch()
    batch.merge_into(batch)


@probe("BufferError", "PacketBatch(buffer=)")
def _(lab: Lab) -> None:
    PacketBatch(buffer=bytes(2048))


@probe("BufferError", "append() to a batch of slices")
def _(lab: Lab) -> None:
    PacketBatch(buffer=PACKET, offsets=[0], lengths=60).append(PACKET)


@probe("BufferError", "memoryview(batch)")
def _(lab: Lab) -> None:
    memoryview(PacketBatch(buffers=[bytearray(2048)]))


@probe("IndexError", "batch[i]")
def _(lab: Lab) -> None:
    PacketBatch()[0]


@probe("FilterError", "RawSocket(filter=)")
def _(lab: Lab) -> None:
    RawSocket(lab.veth.b, filter="arpp")


@probe("UnsupportedFilterError", "RawSocket(filter=)")
def _(lab: Lab) -> None:
    RawSocket(lab.veth.b, filter="wlan host 02:00:00:00:00:01")


@probe("ValueError", "RawSocket()")
def _(lab: Lab) -> None:
    RawSocket(promisc=True)


@probe("ValueError", "sendmmsg() without vnet_hdr=")
def _(lab: Lab) -> None:
    batch = PacketBatch()
    batch.append(PACKET)
    batch.vnet_flags[0] = rawmmsg.VNET_NEEDS_CSUM
    lab.sender().sendmmsg(batch)


@probe("ValueError", "sendto() on a bound socket")
def _(lab: Lab) -> None:
    lab.sender().sendto(PACKET, (lab.veth.a, 0))


@probe("ValueError", "batch.append()")
def _(lab: Lab) -> None:
    PacketBatch(frame_size=100).append(bytes(101))


@probe("ValueError", "compute_checksums()")
def _(lab: Lab) -> None:
    batch = PacketBatch(1)
    batch.append(Datagram(bytes(20)).build()[:-1])
    assert batch.verify_checksums().tolist() == [rawmmsg.CHECKSUM_NONE]
    batch.compute_checksums()


@probe("ValueError", "segment_into(), merge_into()")
def _(lab: Lab) -> None:
    batch = PacketBatch()
    batch.append(PACKET)
    batch.merge_into(PacketBatch(1, len(PACKET) - 1))


@probe("ValueError", "pacing.send()")
def _(lab: Lab) -> None:
    pacing.send(lab.sender(), [PACKET], pps=1, mbps=1)


@probe("RecordingError", "pcap.Reader()")
def _(lab: Lab) -> None:
    path = lab.folder / "some.pcap"
    path.write_bytes(b"no recording")
    pcap.Reader(path)


@probe("ValueError", "pcap.Writer.write()")
def _(lab: Lab) -> None:
    batch = PacketBatch()
    batch.append(PACKET)
    with pcap.Writer(lab.folder / "some.pcap") as writer:
        writer.write(batch)


@probe("ValueError", "aio.batches(), aio.send()")
def _(lab: Lab) -> None:
    from rawmmsg import aio

    asyncio.run(aio.send(lab.sender(), [PACKET]))


@probe("TypeError", 'sendmmsg(b"...")')
def _(lab: Lab) -> None:
    lab.sender().sendmmsg(PACKET)  # type: ignore[arg-type]


@probe("TypeError", 'RawSocket(protocol="arp")')
def _(lab: Lab) -> None:
    RawSocket(lab.veth.b, protocol="arp")  # type: ignore[arg-type]


@probe("OverflowError", "settimeout()")
def _(lab: Lab) -> None:
    lab.open().settimeout(147 * 365.25 * 24 * 3600)


# Warnings


@probe("RuntimeWarning", "RawSocket(rcvbuf=)")
def _(lab: Lab) -> None:
    # With CAP_NET_ADMIN there is no limit.
    raise_in_child(
        "near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "RawSocket(fileno=near.fileno(), rcvbuf=1 << 30)",
        prefix=WITHOUT_CAPABILITIES,
    )


@probe("RuntimeWarning", "RawSocket(protocol=)")
def _(lab: Lab) -> None:
    RawSocket(lab.veth.b, protocol=socket.htons(0x0800))


@probe("ResourceWarning", "the end of a RawSocket's life")
def _(lab: Lab) -> None:
    RawSocket(lab.veth.b)


# The tables


PAGE: Final = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")


def rows() -> Iterator[tuple[str, str]]:
    """The errno (or the exception, where there is none) and the place of each
    row."""
    for cells in re.findall(
        r"^\| `([A-Z]\w+)` \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE
    ):
        yield cells[0], cells[1].replace("`", "")


def subclasses() -> Iterator[tuple[str, str]]:
    """The class of each errno that has one."""
    for names, kind in re.findall(
        r"^\| ([^|]+) \| `(\w+Error)` \|$", PAGE, re.MULTILINE
    ):
        for name in re.findall(r"\w+", names):
            yield name, kind


@pytest.mark.no_network
def test_every_row_is_tried() -> None:
    assert sorted(rows()) == sorted(PROBES)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("kind", "place"), list(rows()))
def test_row_is_true(lab: Lab, kind: str, place: str) -> None:
    if kind == "ResourceWarning":
        with pytest.warns(ResourceWarning):
            PROBES[kind, place](lab)
        return
    with pytest.raises(Exception) as caught:
        PROBES[kind, place](lab)
    name = type(caught.value).__name__
    if hasattr(errno, kind):
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == getattr(errno, kind)
        assert name == dict(subclasses()).get(kind, "OSError")
    else:
        assert name == kind

"""sendmmsg(addresses=...) and sendto() on packet sockets: each packet goes
where its address says."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import WAIT
from support.child import run_python
from support.frames import (
    HEADER_SIZE,
    LOCAL_EXPERIMENTAL,
    OTHER_EXPERIMENTAL,
    SOURCE,
    frame,
    number_of,
    numbered,
    pending,
    receive_batch,
)
from support.linux import ip
from support.programs import keep_ethertype

from rawmmsg import PACKET_OUTGOING, PacketBatch, RawSocket
from rawmmsg.testing import Veth

COUNT = 200

# <linux/if_tun.h>, <linux/if_arp.h>
TUNSETLINK = 0x400454CD
ARPHRD_INFINIBAND = 32


@pytest.fixture
def two(
    veth_factory: Callable[..., Veth],
) -> tuple[Veth, Veth]:
    """Two veth pairs. Frames received on one must go back to the same one."""
    return veth_factory(), veth_factory()


@pytest.fixture
def everywhere() -> Iterator[Callable[..., RawSocket]]:
    """Makes sockets on all interfaces that receive one EtherType."""
    with contextlib.ExitStack() as stack:

        def make(kind: int = socket.SOCK_RAW, **options: Any) -> RawSocket:
            options = {"ignore_outgoing": True} | options
            if kind == socket.SOCK_RAW:
                options["filter"] = keep_ethertype(LOCAL_EXPERIMENTAL)
            else:
                options["protocol"] = LOCAL_EXPERIMENTAL
            made = RawSocket(type=kind, **options)
            made.settimeout(WAIT)
            return stack.enter_context(made)

        yield make


# All interfaces


def test_batch_goes_back_to_the_interfaces_it_came_from(
    two: tuple[Veth, Veth], everywhere: Callable[..., RawSocket]
) -> None:
    sock = everywhere()
    batch = PacketBatch(2 * COUNT)
    with (
        RawSocket(two[0].a, ignore_outgoing=True) as one,
        RawSocket(two[1].a, ignore_outgoing=True) as other,
    ):
        for i in range(COUNT):
            (one, other)[i % 2].send(numbered(i))
        receive_batch(sock, batch, COUNT)
        sent = 0
        while sent < COUNT:
            sent += sock.sendmmsg(batch, sent, addresses=True)
        for half, end in enumerate((one, other)):
            numbers = [number_of(packet) for packet in pending(end)]
            assert numbers == list(range(half, COUNT, 2))


def test_start_applies_to_packets_and_addresses(
    two: tuple[Veth, Veth], everywhere: Callable[..., RawSocket]
) -> None:
    sock = everywhere()
    batch = PacketBatch()
    with (
        RawSocket(two[0].a, ignore_outgoing=True) as one,
        RawSocket(two[1].a, ignore_outgoing=True) as other,
    ):
        one.send(numbered(0))
        other.send(numbered(1))
        receive_batch(sock, batch, 2)
        assert sock.sendmmsg(batch, start=1, addresses=True) == 1
        assert sock.sendmmsg(batch, start=2, addresses=True) == 0
        assert pending(one) == []
        assert pending(other) == [numbered(1)]


def test_packets_of_dgram_sockets_go_back_to_their_senders(
    two: tuple[Veth, Veth], everywhere: Callable[..., RawSocket]
) -> None:
    """With SOCK_DGRAM, the kernel makes the link header from the address."""
    sock = everywhere(socket.SOCK_DGRAM)
    batch = PacketBatch(2 * COUNT)
    senders = [bytes([2, 0, 0, 0, 0, i]) for i in range(4)]
    with (
        RawSocket(two[0].a, ignore_outgoing=True, promisc=True) as one,
        RawSocket(two[1].a, ignore_outgoing=True, promisc=True) as other,
    ):
        for i in range(COUNT):
            (one, other)[i % 2].send(numbered(i, src=senders[i % 4]))
        receive_batch(sock, batch, COUNT)
        sent = 0
        while sent < COUNT:
            sent += sock.sendmmsg(batch, sent, addresses=True)
        for half, (end, veth) in enumerate(
            zip((one, other), two, strict=True)
        ):
            with RawSocket(veth.b, protocol=0) as port:
                mac = port.getsockname()[4]
            expected = [
                frame(
                    numbered(i, src=senders[i % 4])[HEADER_SIZE:],
                    senders[i % 4],
                    mac,
                )
                for i in range(half, COUNT, 2)
            ]
            assert pending(end) == expected


@pytest.mark.parametrize("kind", [socket.SOCK_RAW, socket.SOCK_DGRAM])
def test_recvfrom_returns_what_sendto_takes(
    kind: int, pair: Veth, everywhere: Callable[..., RawSocket]
) -> None:
    sock = everywhere(kind)
    with RawSocket(pair.a, ignore_outgoing=True, promisc=True) as end:
        end.send(numbered(7))
        data, address = sock.recvfrom(2048)
        assert address == (pair.b, LOCAL_EXPERIMENTAL, 1, 1, SOURCE)
        assert sock.sendto(data, address) == len(data)
        (answer,) = pending(end)
        assert answer[HEADER_SIZE:] == numbered(7)[HEADER_SIZE:]


@pytest.mark.parametrize("kind", [socket.SOCK_RAW, socket.SOCK_DGRAM])
def test_address_is_that_of_the_socket_module(
    kind: int, pair: Veth, sender: RawSocket
) -> None:
    protocol = LOCAL_EXPERIMENTAL
    with (
        socket.socket(
            socket.AF_PACKET, kind, socket.htons(protocol)
        ) as theirs,
        RawSocket(type=kind, protocol=protocol) as ours,
    ):
        sender.send(numbered(1))
        theirs.settimeout(WAIT)
        ours.settimeout(WAIT)
        assert ours.recvfrom(2048) == theirs.recvfrom(2048)


def test_address_of_a_batch_has_the_index(
    pair: Veth, sender: RawSocket, everywhere: Callable[..., RawSocket]
) -> None:
    """A batch has no socket that could look up the name; sendto() accepts
    both."""
    sock = everywhere()
    batch = PacketBatch()
    sender.send(numbered(1))
    receive_batch(sock, batch, 1)
    address = batch.address(0)
    assert address == (
        socket.if_nametoindex(pair.b),
        LOCAL_EXPERIMENTAL,
        1,
        1,
        SOURCE,
    )
    assert batch.address(-1) == address
    with RawSocket(pair.a, ignore_outgoing=True) as end:
        sock.sendto(numbered(2), address)
        assert pending(end) == [numbered(2)]


def test_tagged_frame_goes_back_with_its_tag(
    pair: Veth, everywhere: Callable[..., RawSocket]
) -> None:
    """The kernel must read the protocol from the frame's tag. The protocol in
    the received address is the one after the tag."""
    tagged = frame(bytes.fromhex("0005 88b5") + bytes(46), ethertype=0x8100)
    sock = everywhere()
    batch = PacketBatch()
    with (
        RawSocket(pair.a, ignore_outgoing=True) as end,
        RawSocket(pair.b) as tap,
    ):
        end.send(tagged)
        receive_batch(sock, batch, 1)
        assert batch.address(0)[1] == LOCAL_EXPERIMENTAL
        pending(tap)
        assert sock.sendmmsg(batch, addresses=True) == 1
        assert pending(end) == [tagged]
        tap.settimeout(WAIT)
        data, address = tap.recvfrom(2048)
        assert data == tagged
        assert address[1:3] == (0x8100, PACKET_OUTGOING)


# Sequences of addresses


def test_each_packet_of_a_sequence_has_its_address(
    two: tuple[Veth, Veth],
) -> None:
    addresses = [(two[i % 2].a, LOCAL_EXPERIMENTAL) for i in range(COUNT)]
    packets = [numbered(i) for i in range(COUNT)]
    with (
        RawSocket(two[0].b) as one,
        RawSocket(two[1].b) as other,
        RawSocket() as sock,
    ):
        assert sock.sendmmsg(packets[:100], addresses=addresses[:100]) == 100
        assert sock.sendmmsg(packets, 100, addresses=addresses) == 100
        for half, end in enumerate((one, other)):
            numbers = [number_of(packet) for packet in pending(end)]
            assert numbers == list(range(half, COUNT, 2))


@pytest.mark.parametrize("start", ["position", "keyword"])
def test_start_skips_addresses_too(start: str, pair: Veth) -> None:
    packets = [numbered(i) for i in range(3)]
    addresses: list[Any] = [("no such if", 0), (pair.a, 0), (pair.a, 0)]
    with RawSocket(pair.b) as end, RawSocket() as sock:
        if start == "position":
            assert sock.sendmmsg(packets, 1, addresses=addresses) == 2
        else:
            assert sock.sendmmsg(packets, start=1, addresses=addresses) == 2
            assert sock.sendmmsg(packets, addresses=addresses, start=3) == 0
        assert pending(end) == packets[1:]


def test_addresses_of_none_means_no_addresses(pair: Veth) -> None:
    with RawSocket(pair.b) as end, RawSocket(pair.a) as sock:
        assert sock.sendmmsg([numbered(1)], addresses=None) == 1
        assert sock.sendmmsg([numbered(2)], 0, addresses=None) == 1
        assert pending(end) == [numbered(1), numbered(2)]


def test_batch_with_a_sequence_keeps_no_address(pair: Veth) -> None:
    """Sending with addresses leaves nothing in the batch."""
    batch = PacketBatch()
    batch.append(numbered(1))
    with (
        RawSocket(pair.b) as end,
        RawSocket() as free,
        RawSocket(pair.a) as bound,
    ):
        assert free.sendmmsg(batch, addresses=[(pair.a, 0)]) == 1
        for call in (
            lambda: free.sendmmsg(batch),
            lambda: free.sendmmsg_all(batch),
            lambda: free.send(numbered(1)),
        ):
            with pytest.raises(OSError, match="needs an address") as caught:
                call()
            assert caught.value.errno == errno.ENXIO
        assert bound.sendmmsg(batch) == 1
        assert pending(end) == [numbered(1)] * 2


@pytest.mark.parametrize(
    "send",
    [
        lambda sock: sock.send(bytes(46)),
        lambda sock: sock.sendmmsg([bytes(46)]),
    ],
    ids=["send", "sendmmsg"],
)
def test_sock_dgram_without_an_address_is_an_error(
    pair: Veth, send: Callable[[RawSocket], int]
) -> None:
    words = "a socket of type SOCK_DGRAM needs an address"
    with RawSocket(pair.a, type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(OSError, match=words) as caught:
            send(sock)
        assert caught.value.errno == errno.EINVAL


def test_gathered_packets_have_addresses(pair: Veth) -> None:
    whole = numbered(1)
    with RawSocket(pair.b) as end, RawSocket() as sock:
        parts = (whole[:10], whole[10:])
        assert (
            sock.sendmmsg(
                [parts], addresses=[(socket.if_nametoindex(pair.a), 0)]
            )
            == 1
        )
        assert pending(end) == [whole]


def test_offload_headers_are_sent_with_addresses(pair: Veth) -> None:
    with (
        RawSocket(pair.b, vnet_hdr=True) as end,
        RawSocket(vnet_hdr=True) as sock,
    ):
        batch = PacketBatch()
        batch.append(numbered(1))
        assert sock.sendmmsg(batch, addresses=[(pair.a, 0)]) == 1
        assert sock.sendmmsg([numbered(2)], addresses=[(pair.a, 0)]) == 1
        assert pending(end) == [numbered(1), numbered(2)]


@pytest.mark.parametrize("method", ["sendto", "recvfrom"])
def test_sendto_needs_a_socket_without_offload_headers(method: str) -> None:
    with RawSocket("lo", vnet_hdr=True) as sock:
        arguments: tuple[Any, ...] = (64,)
        if method == "sendto":
            arguments = (b"", ("lo", 0))
        with pytest.raises(OSError, match=method) as caught:
            getattr(sock, method)(*arguments)
        assert caught.value.errno == errno.EOPNOTSUPP


def test_name_is_looked_up_in_the_sockets_namespace() -> None:
    """The caller's namespace lacks an interface that the socket's has, and has
    one that the socket's lacks."""
    run_python(
        """
            import errno, subprocess
            from rawmmsg import RawSocket

            def ip(*arguments):
                subprocess.run(["ip", *arguments], check=True)

            with subprocess.Popen(
                ["unshare", "--net", "sh", "-c", "echo; read _"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            ) as process:
                process.stdout.readline()
                there = f"/proc/{process.pid}/ns/net"
                target = ["netns", str(process.pid)]
                ip("link", "add", "here", "type", "veth", "peer", "name",
                   "end", *target)
                ip("link", "add", "name", "one", "index", "777", "type",
                   "veth", "peer", "name", "two", *target)
                ip("link", "set", "here", "up")
                ip("link", "set", "one", "up")
                enter = ["nsenter", "-t", str(process.pid), "-n", "ip"]
                for name in "end", "two":
                    subprocess.run([*enter, "link", "set", name, "up"],
                                   check=True)
                frame = bytes(12) + b"\\x88\\xb5" + bytes(46)
                with (
                    RawSocket("here", protocol=0x88b5) as near,
                    RawSocket(netns=there, protocol=0x88b5) as far,
                ):
                    assert far.sendto(frame, ("end", 0)) == len(frame)
                    near.settimeout(30)
                    assert near.recv(100) == frame
                    near.send(frame)
                    far.settimeout(30)
                    data, address = far.recvfrom(100)
                    while address[2] == 4:
                        data, address = far.recvfrom(100)
                    assert address[0] == "end", address
                    try:
                        far.sendto(frame, ("one", 0))
                    except OSError as error:
                        assert error.errno == errno.ENODEV
                        assert error.filename == "one"
                    else:
                        raise AssertionError("found here, not there")
                process.stdin.close()
            """,
        "unshare",
        "--net",
    )


# Refused


def test_bound_socket_accepts_no_addresses(pair: Veth) -> None:
    """For the kernel, the address would override bind()."""
    batch = PacketBatch()
    address = (pair.b, LOCAL_EXPERIMENTAL)
    with RawSocket(pair.b) as end, RawSocket(pair.a) as sock:
        sock.sendmmsg([])
        end.send(numbered(1))
        sock.settimeout(WAIT)
        sock.recvmmsg_into(batch)
        pending(end)
        wrong: Any = object()
        attempts: list[Callable[[], object]] = [
            lambda: sock.sendto(numbered(1), address),
            lambda: sock.sendto(numbered(1), (pair.a, 0)),
            lambda: sock.sendto(numbered(1), wrong),
            lambda: sock.sendmmsg([numbered(1)], addresses=[address]),
            lambda: sock.sendmmsg([], addresses=[]),
            lambda: sock.sendmmsg(batch, addresses=True),
        ]
        for attempt in attempts:
            with pytest.raises(ValueError, match="bound to an interface"):
                attempt()
        assert pending(end) == []


def test_bound_dgram_socket_sends_only_on_its_interface(
    two: tuple[Veth, Veth],
) -> None:
    """It needs an address to send at all: the hardware address."""
    bound, other = two[0].a, two[1].a
    address = (bound, OTHER_EXPERIMENTAL, 0, 0, SOURCE)
    options: Any = {"type": socket.SOCK_DGRAM, "ignore_outgoing": True}
    with (
        RawSocket(two[0].b, promisc=True) as end,
        RawSocket(bound, **options) as sock,
    ):
        assert sock.sendto(b"payload", address) == 7
        assert sock.sendmmsg([b"more"], addresses=[address]) == 1
        with pytest.raises(ValueError, match="is bound to interface"):
            sock.sendto(b"payload", (other, *address[1:]))
        with pytest.raises(ValueError, match=r"address 1: .* bound to"):
            sock.sendmmsg(
                [b"1", b"2"], addresses=[address, (other, *address[1:])]
            )
        mac = sock.getsockname()[4]
        assert pending(end) == [
            frame(b"payload", SOURCE, mac, OTHER_EXPERIMENTAL),
            frame(b"more", SOURCE, mac, OTHER_EXPERIMENTAL),
        ]


def test_received_addresses_of_another_interface_are_refused(
    two: tuple[Veth, Veth],
) -> None:
    """A batch received on all interfaces is sent on a bound SOCK_DGRAM
    socket."""
    batch = PacketBatch()
    options: Any = {"type": socket.SOCK_DGRAM, "ignore_outgoing": True}
    with (
        RawSocket(protocol=LOCAL_EXPERIMENTAL, **options) as free,
        RawSocket(two[0].b, **options) as bound,
        RawSocket(two[0].a, protocol=0) as one,
        RawSocket(two[1].a, protocol=0) as other,
    ):
        one.send(numbered(0))
        other.send(numbered(1))
        receive_batch(free, batch, 2)
        assert bound.sendmmsg(batch, 2, addresses=True) == 0
        with pytest.raises(ValueError, match=r"packet 1: .* is bound to"):
            bound.sendmmsg(batch, addresses=True)
        assert bound.statistics().packets_sent == 0


def test_addresses_true_needs_a_batch_with_addresses(pair: Veth) -> None:
    batch = PacketBatch()
    with (
        RawSocket() as sock,
        RawSocket(pair.a, protocol=0) as sender,
        RawSocket(pair.b) as receiver,
    ):
        with pytest.raises(TypeError, match="must be a sequence of addresses"):
            sock.sendmmsg([b""], addresses=True)
        with pytest.raises(ValueError, match="holds no addresses"):
            sock.sendmmsg(batch, addresses=True)
        sender.send(numbered(1))
        receive_batch(receiver, batch, 1)
        with pytest.raises(ValueError, match="holds no addresses"):
            sock.sendmmsg(batch, addresses=True)
        with pytest.raises(ValueError, match="holds no addresses"):
            batch.address(0)
    with RawSocket(pair.b, addresses=True) as receiver:
        with RawSocket(pair.a, protocol=0) as sender:
            sender.send(numbered(1))
        receive_batch(receiver, batch, 1)
        assert batch.address(0)[0] == socket.if_nametoindex(pair.b)
        with pytest.raises(IndexError):
            batch.address(1)
        with pytest.raises(IndexError):
            batch.address(-2)
        batch.append(b"filled for send")
        with pytest.raises(ValueError, match="holds no addresses"):
            batch.address(0)


WRONG_ADDRESSES: dict[str, tuple[Any, type[Exception], str]] = {
    "None": (None, TypeError, "must be .interface, protocol"),
    "str": ("lo", TypeError, "must be .interface, protocol"),
    "list": (["lo", 0], TypeError, "must be .interface, protocol"),
    "one item": (("lo",), TypeError, "must be .interface, protocol"),
    "six items": (("lo", 0, 0, 0, b"", 0), TypeError, "must be .interface"),
    "no protocol": (("lo", None), TypeError, "protocol must be an int"),
    "float": (("lo", 2.0), TypeError, "protocol must be an int"),
    "negative": (("lo", -1), ValueError, "protocol must be 0 to 65535"),
    "large": (("lo", 65536), ValueError, "protocol must be 0 to 65535"),
    "huge": (("lo", 2**70), ValueError, "protocol must be 0 to 65535"),
    "type": (("lo", 0, 256), ValueError, "packet type must be 0 to 255"),
    "link": (("lo", 0, 0, -1), ValueError, "link type must be 0 to 65535"),
    "text": (("lo", 0, 0, 0, "02:00"), TypeError, "bytes-like"),
    "long": (("lo", 0, 0, 0, bytes(21)), ValueError, "at most 20 bytes"),
    "no name": (("", 0), ValueError, "interface must be a name"),
    "long name": (("a" * 16, 0), ValueError, "interface must be a name"),
    "colon": (("lo:1", 0), ValueError, "interface must be a name"),
    "NUL": (("lo\0", 0), ValueError, "null"),
    "bytes": ((b"lo", 0), TypeError, "a name or an index"),
    "index 0": ((0, 0), ValueError, "0 is not the index"),
    "index -1": ((-1, 0), ValueError, "interface's index must be 0 to"),
    "large index": ((2**31, 0), ValueError, "interface's index must be"),
    "unknown": (("no such if", 0), OSError, "SIOCGIFINDEX.*see ip link"),
}


@pytest.mark.parametrize(
    ("address", "error", "match"),
    WRONG_ADDRESSES.values(),
    ids=WRONG_ADDRESSES,
)
def test_error_names_the_wrong_address_and_nothing_is_sent(
    address: Any, error: type[Exception], match: str
) -> None:
    good = ("lo", LOCAL_EXPERIMENTAL)
    with (
        RawSocket("lo", filter=keep_ethertype(LOCAL_EXPERIMENTAL)) as end,
        RawSocket() as sock,
    ):
        with pytest.raises(error, match=match):
            sock.sendto(numbered(1), address)
        if error is not OSError:
            match = r"address 1: .*" + match
        with pytest.raises(error, match=match):
            sock.sendmmsg([numbered(1)] * 3, addresses=[good, address, good])
        assert pending(end) == []
        assert sock.statistics().packets_sent == 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_number_of_addresses_must_be_that_of_packets(count: int) -> None:
    with RawSocket() as sock, pytest.raises(ValueError, match="each of 2"):
        sock.sendmmsg([b"", b""], 1, addresses=[("lo", 0)] * count)


@pytest.mark.parametrize("addresses", [False, 1, "lo", object()])
def test_addresses_must_be_a_sequence(addresses: Any) -> None:
    with RawSocket() as sock, pytest.raises(TypeError, match="must be a seq"):
        sock.sendmmsg([b""], addresses=addresses)


class Hostile:
    """A number that runs code of the caller when it is used."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __index__(self) -> int:
        self.action()
        return 0


@pytest.mark.parametrize("use", ["sendto", "sendmmsg", "batch"])
def test_address_that_closes_the_socket_is_ebadf(use: str) -> None:
    batch = PacketBatch()
    batch.append(numbered(1))
    with RawSocket() as sock:
        address = ("lo", Hostile(sock.close))
        with pytest.raises(OSError, match="the socket was closed"):
            send(sock, use, batch, address)


@pytest.mark.parametrize("use", ["sendto", "sendmmsg", "batch"])
def test_address_may_use_the_batch_of_its_call(use: str) -> None:
    """During a send, the batch is in use."""
    batch = PacketBatch()
    batch.append(numbered(1))
    with RawSocket() as sock:
        address = ("lo", Hostile(batch.clear))
        if use == "batch":
            with pytest.raises(BufferError, match="in use"):
                send(sock, use, batch, address)
        else:
            send(sock, use, batch, address)


def send(sock: RawSocket, use: str, batch: PacketBatch, address: Any) -> None:
    if use == "sendto":
        sock.sendto(numbered(1), address)
    elif use == "sendmmsg":
        sock.sendmmsg([numbered(1)], addresses=[address])
    else:
        sock.sendmmsg(batch, addresses=[address])


class Shrinking:
    """A sequence with fewer addresses than its length."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[str, int]:
        return [("lo", 0), ("lo", 0)][index]


def test_sequence_shorter_than_its_length_raises() -> None:
    addresses: Any = Shrinking()
    with RawSocket() as sock, pytest.raises(IndexError):
        sock.sendmmsg([numbered(1)] * 3, addresses=addresses)


def test_hardware_address_of_twenty_bytes_is_sent_whole(
    tun: tuple[int, str],
) -> None:
    """InfiniBand's is longer than the field in sockaddr_ll, and the kernel
    needs all of it."""
    descriptor, interface = tun
    ip("link", "set", interface, "down")
    fcntl.ioctl(descriptor, TUNSETLINK, ARPHRD_INFINIBAND)
    ip("link", "set", interface, "up")
    address = (interface, 0x0800, 0, ARPHRD_INFINIBAND, bytes(range(20)))
    with RawSocket(
        type=socket.SOCK_DGRAM, protocol=OTHER_EXPERIMENTAL
    ) as sock:
        assert sock.sendto(b"payload", address) == 7
        assert sock.sendmmsg([b"more"], addresses=[address]) == 1
    assert os.read(descriptor, 100) == b"payload"
    assert os.read(descriptor, 100) == b"more"

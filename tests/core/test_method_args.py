"""Invalid arguments of methods: each raises the stated error, never crashes,
and leaves no descriptor open."""

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
from support.calls import packets_sent
from support.frames import frame
from support.linux import same_descriptors
from support.programs import accept

from rawmmsg import PacketBatch, RawSocket

# Methods

CALLS: dict[str, tuple[Callable[[Any], object], Any]] = {
    "recvmmsg_into None": (lambda s: s.recvmmsg_into(None), TypeError),
    "recvmmsg_into bytearray": (
        lambda s: s.recvmmsg_into(bytearray(64)),
        TypeError,
    ),
    "recvmmsg_into type": (lambda s: s.recvmmsg_into(PacketBatch), TypeError),
    "recvmmsg_into itself": (lambda s: s.recvmmsg_into(s), TypeError),
    "recvmmsg_into nothing": (lambda s: s.recvmmsg_into(), TypeError),
    "recvmmsg_into keyword": (
        lambda s: s.recvmmsg_into(batch=PacketBatch(1)),
        TypeError,
    ),
    "sendmmsg bytes": (lambda s: s.sendmmsg(b"packet"), TypeError),
    "sendmmsg bytearray": (lambda s: s.sendmmsg(bytearray(64)), TypeError),
    "sendmmsg view": (lambda s: s.sendmmsg(memoryview(b"ab")), TypeError),
    "sendmmsg str": (lambda s: s.sendmmsg("packet"), TypeError),
    "sendmmsg None": (lambda s: s.sendmmsg(None), TypeError),
    "sendmmsg set": (lambda s: s.sendmmsg({b"packet"}), TypeError),
    "sendmmsg dict": (lambda s: s.sendmmsg({0: b"packet"}), TypeError),
    "sendmmsg iterator": (lambda s: s.sendmmsg(iter([b"a"])), TypeError),
    "sendmmsg itself": (lambda s: s.sendmmsg(s), TypeError),
    "sendmmsg str within": (lambda s: s.sendmmsg([b"a", "b"]), TypeError),
    "sendmmsg list within": (lambda s: s.sendmmsg([[b"a"]]), TypeError),
    "sendmmsg tuple within": (lambda s: s.sendmmsg([((b"a",),)]), TypeError),
    "sendmmsg not contiguous": (
        lambda s: s.sendmmsg([memoryview(b"abcd")[::2]]),
        BufferError,
    ),
    "sendmmsg parts": (lambda s: s.sendmmsg([(b"a",) * 1025]), ValueError),
    "sendmmsg start negative": (lambda s: s.sendmmsg([b"a"], -1), ValueError),
    "sendmmsg start beyond": (lambda s: s.sendmmsg([b"a"], 2), ValueError),
    "sendmmsg start huge": (
        lambda s: s.sendmmsg([b"a"], 2**70),
        OverflowError,
    ),
    "sendmmsg start str": (lambda s: s.sendmmsg([b"a"], "0"), TypeError),
    "sendmmsg keyword": (lambda s: s.sendmmsg(packets=[b"a"]), TypeError),
    "sendmmsg two starts": (
        lambda s: s.sendmmsg([b"a"], 0, start=0),
        TypeError,
    ),
    "sendmmsg stop str": (lambda s: s.sendmmsg([b"a"], 0, "/a"), TypeError),
    "sendmmsg stop negative": (
        lambda s: s.sendmmsg([b"a"], 0, -1),
        ValueError,
    ),
    "sendmmsg stop beyond": (lambda s: s.sendmmsg([b"a"], 0, 2), ValueError),
    "sendmmsg stop before start": (
        lambda s: s.sendmmsg([b"a", b"b"], 2, stop=1),
        ValueError,
    ),
    "sendmmsg stop huge": (
        lambda s: s.sendmmsg([b"a"], stop=2**70),
        OverflowError,
    ),
    "sendmmsg two stops": (
        lambda s: s.sendmmsg([b"a"], 0, 1, stop=1),
        TypeError,
    ),
    "sendmmsg fourth": (
        lambda s: s.sendmmsg([b"a"], 0, 1, b"\0nobody"),
        TypeError,
    ),
    "sendmmsg unknown keyword": (
        lambda s: s.sendmmsg([b"a"], to="/a"),
        TypeError,
    ),
    "sendmmsg unknown and addresses": (
        lambda s: s.sendmmsg([b"a"], to="/a", addresses="/a"),
        TypeError,
    ),
    "sendmmsg start twice and addresses": (
        lambda s: s.sendmmsg([b"a"], 0, addresses="/a", start=0),
        TypeError,
    ),
    "sendmmsg addresses alone": (
        lambda s: s.sendmmsg(addresses="/a"),
        TypeError,
    ),
    "sendmmsg addresses True": (
        lambda s: s.sendmmsg(PacketBatch(1), addresses=True),
        TypeError,
    ),
    "sendmmsg addresses list": (
        lambda s: s.sendmmsg([b"a"], addresses=["/a"]),
        TypeError,
    ),
    "sendmmsg addresses and start": (
        lambda s: s.sendmmsg([b"a"], 2, addresses="/a"),
        ValueError,
    ),
    "sendmmsg nobody there": (
        lambda s: s.sendmmsg([b"a"], addresses=b"\0nobody"),
        ConnectionRefusedError,
    ),
    "sendmmsg_all bytes": (lambda s: s.sendmmsg_all(b"packet"), TypeError),
    "sendmmsg_all addresses": (
        lambda s: s.sendmmsg_all([b"a"], addresses="/a"),
        TypeError,
    ),
    "sendmmsg_all None": (lambda s: s.sendmmsg_all(None), TypeError),
    "sendmmsg_all None within": (lambda s: s.sendmmsg_all([None]), TypeError),
    "sendmmsg_all start": (lambda s: s.sendmmsg_all([b"a"], 0), TypeError),
    "recv negative": (lambda s: s.recv(-1), ValueError),
    "recv huge": (lambda s: s.recv(2**62), MemoryError),
    "recv overflow": (lambda s: s.recv(2**70), OverflowError),
    "recv str": (lambda s: s.recv("1"), TypeError),
    "recv flags": (lambda s: s.recv(1, 0), TypeError),
    "recvfrom negative": (lambda s: s.recvfrom(-1), ValueError),
    "recvfrom huge": (lambda s: s.recvfrom(2**62), MemoryError),
    "recvfrom str": (lambda s: s.recvfrom("1"), TypeError),
    "recvfrom flags": (lambda s: s.recvfrom(1, 0), TypeError),
    "recv_into bytes": (lambda s: s.recv_into(b"1"), (BufferError, TypeError)),
    "recv_into str": (lambda s: s.recv_into("1"), TypeError),
    "recv_into negative": (
        lambda s: s.recv_into(bytearray(1), -1),
        ValueError,
    ),
    "recv_into beyond": (lambda s: s.recv_into(bytearray(1), 2), ValueError),
    "recv_into not contiguous": (
        lambda s: s.recv_into(memoryview(bytearray(4))[::2]),
        BufferError,
    ),
    "send str": (lambda s: s.send("packet"), TypeError),
    "send None": (lambda s: s.send(None), TypeError),
    "send sequence": (lambda s: s.send([b"packet"]), TypeError),
    "sendto no address": (lambda s: s.sendto(b"packet"), TypeError),
    "sendto flags": (lambda s: s.sendto(b"packet", 0, "/a"), TypeError),
    "sendto None": (lambda s: s.sendto(b"packet", None), TypeError),
    "sendto str": (lambda s: s.sendto("packet", "/a"), TypeError),
    "sendto keyword": (
        lambda s: s.sendto(b"packet", address="/a"),
        TypeError,
    ),
    "attach_filter int": (lambda s: s.attach_filter(0), OSError),
    "attach_filter None": (lambda s: s.attach_filter(None), TypeError),
    "attach_filter cut": (lambda s: s.attach_filter(b"1234567"), ValueError),
    "attach_filter empty": (lambda s: s.attach_filter(b""), OSError),
    "attach_filter str": (lambda s: s.attach_filter("udp"), ValueError),
    "attach_filter long": (
        lambda s: s.attach_filter(accept() * 65537),
        OSError,
    ),
    "detach_filter nothing there": (lambda s: s.detach_filter(), OSError),
    "getsockopt str": (lambda s: s.getsockopt("a", 1), TypeError),
    "getsockopt huge": (lambda s: s.getsockopt(2**40, 1), OverflowError),
    "getsockopt unknown": (lambda s: s.getsockopt(1, 12345), OSError),
    "getsockopt size": (lambda s: s.getsockopt(1, 3, 2**20), ValueError),
    # SO_GET_FILTER: its length counts instructions, not bytes
    "getsockopt filter": (lambda s: s.getsockopt(1, 26), ValueError),
    "getsockopt filters": (lambda s: s.getsockopt(1, 26, 300), ValueError),
    "setsockopt str": (lambda s: s.setsockopt(1, 8, "1"), TypeError),
    "setsockopt huge": (lambda s: s.setsockopt(1, 8, 2**40), OverflowError),
    "setsockopt None": (lambda s: s.setsockopt(1, 8, None), TypeError),
    "setsockopt cut": (lambda s: s.setsockopt(1, 8, b"1"), OSError),
    "getsockname": (lambda s: s.getsockname(), OSError),
    "settimeout negative": (lambda s: s.settimeout(-1), ValueError),
    "settimeout nan": (lambda s: s.settimeout(float("nan")), ValueError),
    "settimeout inf": (lambda s: s.settimeout(float("inf")), OverflowError),
    "settimeout str": (lambda s: s.settimeout("1"), TypeError),
    "fileno argument": (lambda s: s.fileno(1), TypeError),
    "close argument": (lambda s: s.close(1), TypeError),
}


@pytest.mark.parametrize(("call", "error"), CALLS.values(), ids=CALLS)
def test_invalid_argument_raises(
    sock: RawSocket, call: Callable[[Any], object], error: Any
) -> None:
    with same_descriptors(), pytest.raises(error):
        call(sock)
    assert not sock.closed
    assert sock.statistics()[2:] == (0, 0, 0, 0), (
        "a packet was sent or received"
    )


def test_attributes_of_a_closed_socket_work() -> None:
    """As in the socket module, attributes that need no descriptor still
    work."""
    with RawSocket("lo") as sock:
        pass
    sock.settimeout(1)
    assert sock.gettimeout() == sock.timeout == 1
    assert sock.getblocking()
    assert sock.statistics() == (0, 0, 0, 0, 0, 0)
    sock.setblocking(False)
    assert sock.gettimeout() == sock.timeout == 0
    assert not sock.getblocking()
    assert sock.proto == 3  # ETH_P_ALL
    assert sock.closed
    assert sock.fileno() == sock.detach() == -1
    assert sock.interface == "lo"
    assert sock.ifindex == socket.if_nametoindex("lo")
    assert (sock.family, sock.type) == (socket.AF_PACKET, socket.SOCK_RAW)
    assert sock.close() is None  # type: ignore[func-returns-value]


CLOSED: dict[str, Callable[[RawSocket], object]] = {
    "recvmmsg_into": lambda s: s.recvmmsg_into(PacketBatch(1)),
    "sendmmsg": lambda s: s.sendmmsg([frame()]),
    "set_fanout": lambda s: s.set_fanout("lb"),
    "sendmmsg of nothing": lambda s: s.sendmmsg([]),
    "sendmmsg_all": lambda s: s.sendmmsg_all([frame()]),
    "sendmmsg_all of nothing": lambda s: s.sendmmsg_all([]),
    "recv": lambda s: s.recv(1),
    "recv_into": lambda s: s.recv_into(bytearray(1)),
    "recvfrom": lambda s: s.recvfrom(1),
    "send": lambda s: s.send(frame()),
    "sendto": lambda s: s.sendto(frame(), "/no such address"),
    "sendmmsg to an address": lambda s: s.sendmmsg([], addresses="/a"),
    "attach_filter": lambda s: s.attach_filter(accept()),
    "detach_filter": lambda s: s.detach_filter(),
    "lock_filter": lambda s: s.lock_filter(),
    "getsockopt": lambda s: s.getsockopt(1, 3),
    "setsockopt": lambda s: s.setsockopt(1, 8, 65536),
}


@pytest.mark.parametrize("call", CLOSED.values(), ids=CLOSED)
def test_closed_datagram_socket_is_ebadf(
    sock: RawSocket, call: Callable[[RawSocket], object]
) -> None:
    sock.close()
    with pytest.raises(OSError, match="the socket was closed") as caught:
        call(sock)
    assert caught.value.errno == errno.EBADF
    assert caught.value.filename is None, "the socket has no interface"


def test_every_method_is_tested_on_a_closed_socket() -> None:
    """A method that is added needs its closed socket tested too."""
    harmless = {
        *("fileno", "detach", "close", "settimeout", "gettimeout"),
        *("setblocking", "getblocking", "getsockname", "statistics"),
        # only on AF_PACKET
        *("add_membership", "drop_membership"),
    }
    methods = {
        name
        for name, value in vars(RawSocket).items()
        if callable(value) and not name.startswith("_")
    }
    assert methods == harmless | {name.split()[0] for name in CLOSED}


def test_error_of_sendmmsg_all_has_packets_sent(sock: RawSocket) -> None:
    for packets in ([b"sent", None], [None], None):
        with pytest.raises(TypeError) as caught:
            sock.sendmmsg_all(packets)  # type: ignore[arg-type]
        assert packets_sent(caught.value) == 0
    sock.close()
    with pytest.raises(OSError) as closed:
        sock.sendmmsg_all([b"packet"])
    assert packets_sent(closed.value) == 0


# Lengths beyond the frame

TOO_LONG: dict[str, Callable[[RawSocket, PacketBatch], object]] = {
    "index": lambda sock, batch: batch[1],
    "negative index": lambda sock, batch: batch[-2],
    "iteration": lambda sock, batch: list(batch),
    "tolist": lambda sock, batch: batch.tolist(),
    "sendmmsg": lambda sock, batch: sock.sendmmsg(batch),
    "sendmmsg from it on": lambda sock, batch: sock.sendmmsg(batch, 1),
    "sendmmsg_all": lambda sock, batch: sock.sendmmsg_all(batch),
    "extend": lambda sock, batch: PacketBatch().extend(batch),
}


@pytest.mark.parametrize("length", [65, 2**16, 2**31, 2**32 - 1])
@pytest.mark.parametrize("use", TOO_LONG.values(), ids=TOO_LONG)
@pytest.mark.parametrize("memory", ["own", "buffer", "buffers"])
def test_length_beyond_the_frame_is_refused_by_every_use(
    memory: str,
    use: Callable[[RawSocket, PacketBatch], object],
    length: int,
    sock: RawSocket,
) -> None:
    if memory == "own":
        batch = PacketBatch(3, 64)
    elif memory == "buffer":
        batch = PacketBatch(3, buffer=bytearray(192))
    else:
        batch = PacketBatch(buffers=[bytearray(64) for _ in range(3)])
    batch.extend([b"one", b"two", b"three"])
    batch.lengths[1] = length
    with pytest.raises(
        ValueError, match=rf"lengths\[1\] is {length}, more than the 64"
    ):
        use(sock, batch)
    assert sock.statistics().packets_sent == 0, "part of the batch was sent"
    assert bytes(batch[0]) == b"one"
    assert bytes(batch[2]) == b"three"
    batch.lengths[1] = 64
    assert len(batch[1]) == 64
    assert sock.sendmmsg(batch) == 3, "the batch no longer works"


def test_unused_lengths_are_not_checked(sock: RawSocket) -> None:
    batch = PacketBatch(3, 64)
    batch.append(b"one")
    batch.lengths[1] = 65
    assert batch.tolist() == [b"one"]
    assert sock.sendmmsg(batch) == 1
    batch.set_count(3)
    batch.lengths[0], batch.lengths[1] = 65, 3
    assert sock.sendmmsg(batch, 1) == 2, "packets before start were sent"


WRONG_PACKETS: dict[str, tuple[object, str]] = {
    "number": (5, "a bytes-like object is required, not 'int'"),
    "part": ((b"a", "b"), "a bytes-like object is required, not 'str'"),
    "not contiguous": (memoryview(b"abcd")[::2], ".*not C-contiguous"),
}


@pytest.mark.parametrize("name", WRONG_PACKETS)
def test_an_error_names_the_packet_that_is_no_buffer(
    sender: RawSocket, name: str
) -> None:
    wrong, words = WRONG_PACKETS[name]
    packets: Any = [frame(bytes(46))] * 1030
    packets[1028] = wrong
    expected = f"^packet 1028: .*{words}"
    with pytest.raises((TypeError, BufferError), match=expected):
        sender.sendmmsg(packets, 1026)
    with pytest.raises((TypeError, BufferError), match=expected) as caught:
        sender.sendmmsg_all(packets)
    assert packets_sent(caught.value) == 1024

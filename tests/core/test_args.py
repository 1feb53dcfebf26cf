"""Bad input: each mistake raises the error stated, never crashes, and leaves
no descriptor behind."""

import contextlib
import copy
import errno
import os
import pickle
import resource
import socket
import stat
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.child import run_python
from support.frames import datagram_pair, frame
from support.programs import accept

from rawmmsg import PacketBatch, RawSocket, Statistics
from rawmmsg.testing import Veth

Make = Callable[[], object]


def descriptors() -> set[int]:
    """The open ones, without that which listed them."""
    numbers = {int(name) for name in os.listdir("/proc/self/fd")}
    return {number for number in numbers if is_open(number)}


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def same_descriptors() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before, "a descriptor is leaked or lost"


@contextlib.contextmanager
def room_for(count: int) -> Iterator[None]:
    """This process can open `count` more descriptors, and no other."""
    used = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 0
    while count or limit in used:
        count -= limit not in used
        limit += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def sock() -> Iterator[RawSocket]:
    """A socket that never waits, of which nothing is to be had."""
    peer, adopted = datagram_pair()
    adopted.setblocking(False)
    with peer, adopted:
        yield adopted


# PacketBatch()


@pytest.mark.parametrize("capacity", [0, 2**20 + 1, 2**31, 2**62, 2**70])
def test_capacity_is_limited(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity must be 1 to 1048576"):
        PacketBatch(capacity)


@pytest.mark.parametrize("frame_size", [0, 2**31, 2**62, 2**63, 2**70])
def test_frame_size_is_limited(frame_size: int) -> None:
    with pytest.raises(ValueError, match="frame_size must be 1 to 2147483647"):
        PacketBatch(1, frame_size)


@pytest.mark.parametrize("size", [-1, -(2**31), -(2**62), -(2**70)])
def test_sizes_are_not_negative(size: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        PacketBatch(size)
    with pytest.raises(ValueError, match="negative"):
        PacketBatch(1, size)


def test_more_memory_than_there_is_raises() -> None:
    """Two pebibytes, which no process can address."""
    with pytest.raises(MemoryError):
        PacketBatch(2**20, 2**31 - 1)


@pytest.mark.parametrize("size", ["64", 64.0, b"64", [64], object()])
def test_sizes_are_whole_numbers(size: Any) -> None:
    with pytest.raises(TypeError):
        PacketBatch(size)
    with pytest.raises(TypeError):
        PacketBatch(1, size)


def test_buffer_and_buffers_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        PacketBatch(1, 2048, bytearray(2048))  # type: ignore[call-arg]


# RawSocket()

UNFIT_NAMES: dict[str, tuple[Any, type[Exception], str]] = {
    "empty": ("", ValueError, "not an interface name"),
    "16 bytes": ("a" * 16, ValueError, "not an interface name"),
    "16 bytes of UTF-8": ("é" * 8, ValueError, "not an interface name"),
    "very long": ("a" * 100_000, ValueError, "not an interface name"),
    "alias": ("lo:1", ValueError, "not an interface name"),
    "NUL": ("lo\0", ValueError, "null"),
    "surrogate": ("\ud800", UnicodeEncodeError, "surrogate"),
    "bytes": (b"lo", TypeError, "interface must be str or None"),
    "index": (1, TypeError, "interface must be str or None"),
    "path": (Path("lo"), TypeError, "interface must be str or None"),
}


@pytest.mark.parametrize(
    ("name", "error", "match"), UNFIT_NAMES.values(), ids=UNFIT_NAMES
)
def test_interface_that_cannot_be_one_is_refused(
    name: Any, error: type[Exception], match: str
) -> None:
    with same_descriptors(), pytest.raises(error, match=match):
        RawSocket(name)


@pytest.mark.parametrize(
    "name", ["nosuchinterface", "a" * 15, "é" * 7, "\udcff", ".", "a/b", "lo "]
)
def test_interface_that_does_not_exist_is_enodev(name: str) -> None:
    with same_descriptors(), pytest.raises(OSError) as caught:
        RawSocket(name)
    assert caught.value.errno == errno.ENODEV
    assert caught.value.filename == name
    assert "ioctl(SIOCGIFINDEX)" in str(caught.value)


OPTIONS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "protocol too large": ({"protocol": 0x10000}, ValueError),
    "protocol negative": ({"protocol": -1}, ValueError),
    "protocol huge": ({"protocol": 2**62}, OverflowError),
    "protocol str": ({"protocol": "0x800"}, TypeError),
    "type stream": ({"type": socket.SOCK_STREAM}, ValueError),
    "type flags": (
        {"type": socket.SOCK_RAW | socket.SOCK_NONBLOCK},
        ValueError,
    ),
    "type str": ({"type": "raw"}, TypeError),
    "timestamps hardware": ({"timestamps": "hardware"}, OSError),
    "timestamps True": ({"timestamps": True}, ValueError),
    "timestamps bytes": ({"timestamps": b"software"}, ValueError),
    "rcvbuf negative": ({"rcvbuf": -1}, ValueError),
    "rcvbuf huge": ({"rcvbuf": 2**31}, OverflowError),
    "rcvbuf float": ({"rcvbuf": 1e6}, TypeError),
    "sndbuf negative": ({"sndbuf": -1}, ValueError),
    "sndbuf huge": ({"sndbuf": 2**70}, OverflowError),
    "netns int": ({"netns": 3}, TypeError),
    "netns empty": ({"netns": ""}, ValueError),
    "netns NUL": ({"netns": "a\0b"}, ValueError),
    "netns missing": ({"netns": "no such namespace"}, FileNotFoundError),
    "netns no path": ({"netns": "/no/such/path"}, FileNotFoundError),
    "netns a folder": ({"netns": "/"}, OSError),
    "netns no namespace": ({"netns": "/dev/null"}, OSError),
    "netns of another kind": ({"netns": "/proc/self/ns/uts"}, OSError),
    "filter int": ({"filter": 0}, OSError),
    "filter int huge": ({"filter": 2**31}, OverflowError),
    "filter bool": ({"filter": True}, TypeError),
    "vnet_hdr odd": ({"vnet_hdr": 11}, ValueError),
    "vnet_hdr str": ({"vnet_hdr": "10"}, TypeError),
    "vnet_hdr dgram": ({"vnet_hdr": True, "type": 2}, ValueError),
    "fanout int": ({"fanout": 1}, TypeError),
    "fanout unknown": ({"fanout": "round"}, ValueError),
    "fanout empty": ({"fanout": ()}, TypeError),
    "fanout long": ({"fanout": ("lb", 1, 0, None, 5)}, TypeError),
    "fanout group": ({"fanout": ("lb", 65536)}, ValueError),
    "fanout flags": ({"fanout": ("lb", 1, 0x2000)}, ValueError),
    "fanout program": ({"fanout": ("lb", 1, 0, accept())}, ValueError),
    "fanout no program": ({"fanout": "cbpf"}, ValueError),
    "fanout cbpf number": ({"fanout": ("cbpf", 1, 0, 5)}, ValueError),
    "fanout cbpf bad": ({"fanout": ("cbpf", 1, 0, bytes(8))}, OSError),
    "fanout ebpf code": ({"fanout": ("ebpf", 1, 0, accept())}, ValueError),
    "fanout ebpf bad": ({"fanout": ("ebpf", 1, 0, 0)}, OSError),
    "fanout filter": ({"fanout": "lb", "filter": b"1"}, ValueError),
    "multicast str": ({"multicast": ["01:00:5e:00:00:01"]}, TypeError),
    "multicast bytes": ({"multicast": b"123456"}, TypeError),
    "multicast int": ({"multicast": 1}, TypeError),
    "multicast long": ({"multicast": [bytes(9)]}, ValueError),
    "multicast empty": ({"multicast": [b""]}, ValueError),
    "multicast short": ({"multicast": [b"1"]}, OSError),
    "filter empty": ({"filter": b""}, OSError),
    "filter cut": ({"filter": accept()[:-1]}, ValueError),
    "filter without end": ({"filter": bytes(8)}, OSError),
    "filter too long": ({"filter": accept() * 4097}, OSError),
    "filter beyond 16 bits": ({"filter": accept() * 65537}, OSError),
    "filter list": ({"filter": [accept()]}, TypeError),
    "fileno with interface": ({"fileno": 0}, ValueError),
    "unknown": ({"no_such_option": 1}, TypeError),
}


@pytest.mark.parametrize(("options", "error"), OPTIONS.values(), ids=OPTIONS)
def test_option_that_makes_no_sense_is_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with same_descriptors(), pytest.raises(error):
        RawSocket("lo", **options)


@pytest.mark.parametrize(
    "option",
    "promisc ignore_outgoing vlan addresses qdisc_bypass allow_down".split(),
)
def test_truth_value_that_raises_is_passed_on(option: str) -> None:
    class Undecided:
        def __bool__(self) -> bool:
            raise KeyError("undecided")

    options: dict[str, Any] = {option: Undecided()}
    with same_descriptors(), pytest.raises(KeyError, match="undecided"):
        RawSocket("lo", **options)


def test_options_of_all_interfaces_that_need_one_are_refused() -> None:
    with same_descriptors():
        options: dict[str, Any]
        for options in ({"protocol": 0}, {"promisc": True}):
            with pytest.raises(ValueError, match="interface"):
                RawSocket(**options)


@pytest.mark.parametrize(
    ("interface", "options", "reason"),
    [
        (None, {}, "without an interface"),
        ("lo", {"type": socket.SOCK_DGRAM}, "SOCK_DGRAM"),
    ],
)
def test_filter_expression_without_a_link_header_is_refused(
    interface: str | None, options: dict[str, Any], reason: str
) -> None:
    with same_descriptors(), pytest.raises(ValueError, match=reason):
        RawSocket(interface, filter="udp", **options)


def test_options_are_keyword_only() -> None:
    with same_descriptors(), pytest.raises(TypeError):
        RawSocket("lo", 3)  # type: ignore[call-arg]


@pytest.mark.parametrize("room", [0, 1])
def test_constructor_without_descriptors_left_raises(room: int) -> None:
    """The socket and the descriptor that wakes calls: none stays open where
    the other cannot be had."""
    with same_descriptors():
        with room_for(room), pytest.raises(OSError) as caught:
            RawSocket("lo")
        assert caught.value.errno == errno.EMFILE
        with room_for(2):
            RawSocket("lo").close()


# Adopting a descriptor

ADOPTIONS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "interface": ({"interface": "lo"}, ValueError),
    "protocol": ({"protocol": 3}, ValueError),
    "type": ({"type": socket.SOCK_RAW}, ValueError),
    "netns": ({"netns": "/proc/self/ns/net"}, ValueError),
    "allow_down": ({"allow_down": True}, ValueError),
    "promisc": ({"promisc": True}, ValueError),
    "filter cut": ({"filter": b"123"}, ValueError),
    "filter empty": ({"filter": b""}, OSError),
    "filter int": ({"filter": 0}, OSError),
    "filter expression": ({"filter": "udp"}, ValueError),
    "timestamps": ({"timestamps": "later"}, ValueError),
    "rcvbuf": ({"rcvbuf": -1}, ValueError),
    "unknown": ({"no_such_option": 1}, TypeError),
}
PACKET_ONLY: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    option: ({option: True}, ValueError)
    for option in [
        *("ignore_outgoing", "vlan", "qdisc_bypass"),
        *("vnet_hdr", "allmulti"),
    ]
}


@pytest.mark.parametrize(
    ("family", "options", "error"),
    [
        (family, *case)
        for family, cases in [
            (socket.AF_PACKET, ADOPTIONS),
            (socket.AF_INET, ADOPTIONS | PACKET_ONLY),
            (socket.AF_UNIX, ADOPTIONS | PACKET_ONLY),
        ]
        for case in cases.values()
    ],
    ids=[f"packet {name}" for name in ADOPTIONS]
    + [f"inet {name}" for name in ADOPTIONS | PACKET_ONLY]
    + [f"unix {name}" for name in ADOPTIONS | PACKET_ONLY],
)
def test_caller_still_owns_a_descriptor_that_was_not_adopted(
    family: int, options: dict[str, Any], error: type[Exception]
) -> None:
    with socket.socket(family, socket.SOCK_DGRAM, 0) as owned:
        with same_descriptors(), pytest.raises(error):
            RawSocket(fileno=owned.fileno(), **options)
        assert owned.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == family


def test_caller_still_owns_it_without_descriptors_left() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as owned:
        with same_descriptors():
            with room_for(0), pytest.raises(OSError) as caught:
                RawSocket(fileno=owned.fileno())
            assert caught.value.errno == errno.EMFILE
        assert stat.S_ISSOCK(os.fstat(owned.fileno()).st_mode)


@pytest.mark.parametrize(
    ("family", "type_"),
    [
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_STREAM),
    ],
)
def test_stream_is_not_adopted(family: int, type_: int) -> None:
    with (
        socket.socket(family, type_) as stream,
        same_descriptors(),
        pytest.raises(ValueError, match="AF_PACKET or a datagram socket"),
    ):
        RawSocket(fileno=stream.fileno())


@pytest.mark.parametrize(
    ("fileno", "error"),
    [
        (-1, ValueError),
        (2**31, OverflowError),
        (2**70, OverflowError),
        ("3", TypeError),
        (3.0, TypeError),
    ],
)
def test_fileno_must_be_a_descriptor(
    fileno: Any, error: type[Exception]
) -> None:
    with same_descriptors(), pytest.raises(error):
        RawSocket(fileno=fileno)


def test_closed_descriptor_is_ebadf() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as closed:
        fileno = closed.fileno()
    with same_descriptors(), pytest.raises(OSError) as caught:
        RawSocket(fileno=fileno)
    assert caught.value.errno == errno.EBADF


def test_descriptor_of_a_file_is_enotsock() -> None:
    with (
        open(os.devnull, "rb") as file,
        same_descriptors(),
        pytest.raises(OSError) as caught,
    ):
        RawSocket(fileno=file.fileno())
    assert caught.value.errno == errno.ENOTSOCK


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
    "sendmmsg third": (lambda s: s.sendmmsg([b"a"], 0, "/a"), TypeError),
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
def test_call_that_makes_no_sense_raises(
    sock: RawSocket, call: Callable[[Any], object], error: Any
) -> None:
    with same_descriptors(), pytest.raises(error):
        call(sock)
    assert not sock.closed
    assert sock.statistics()[2:] == (0, 0, 0, 0), "something was transferred"


def test_closed_socket_still_tells_its_state() -> None:
    """What needs no descriptor works on a closed socket, as in the socket
    module."""
    with RawSocket("lo") as sock:
        pass
    sock.settimeout(1)
    assert sock.gettimeout() == 1
    assert sock.statistics() == (0, 0, 0, 0, 0, 0)
    sock.setblocking(False)
    assert sock.gettimeout() == 0
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
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        call(sock)
    assert caught.value.errno == errno.EBADF
    assert caught.value.filename is None, "it has no interface"


def test_every_method_is_known_to_these_tests() -> None:
    """A method that is added needs its closed socket tested too."""
    harmless = {
        *("fileno", "detach", "close", "settimeout", "gettimeout"),
        *("setblocking", "getsockname", "statistics"),
        # of AF_PACKET
        *("add_membership", "drop_membership"),
    }
    methods = {
        name
        for name, value in vars(RawSocket).items()
        if callable(value) and not name.startswith("_")
    }
    assert methods == harmless | {name.split()[0] for name in CLOSED}


def test_error_of_sendmmsg_all_tells_what_was_sent(sock: RawSocket) -> None:
    for packets in ([b"sent", None], [None], None):
        with pytest.raises(TypeError) as caught:
            sock.sendmmsg_all(packets)  # type: ignore[arg-type]
        assert caught.value.packets_sent == 0  # type: ignore[attr-defined]
    sock.close()
    with pytest.raises(OSError) as closed:
        sock.sendmmsg_all([b"packet"])
    assert closed.value.packets_sent == 0  # type: ignore[attr-defined]


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
def test_length_beyond_the_frame_is_refused_at_every_use(
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
        ValueError, match=rf"lengths\[1\] is {length}: beyond the frame's 64"
    ):
        use(sock, batch)
    assert sock.statistics().packets_sent == 0, "part of the batch was sent"
    assert bytes(batch[0]) == b"one"
    assert bytes(batch[2]) == b"three"
    batch.lengths[1] = 64
    assert len(batch[1]) == 64
    assert sock.sendmmsg(batch) == 3, "the batch is of no more use"


def test_only_the_packets_held_need_a_good_length(sock: RawSocket) -> None:
    batch = PacketBatch(3, 64)
    batch.append(b"one")
    batch.lengths[1] = 65
    assert batch.tolist() == [b"one"]
    assert sock.sendmmsg(batch) == 1
    batch.set_count(3)
    batch.lengths[0], batch.lengths[1] = 65, 3
    assert sock.sendmmsg(batch, 1) == 2, "those before start are not sent"


# Objects that misbehave


class Hostile:
    """Runs code of the caller's wherever it can."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __index__(self) -> int:
        self.action()
        return 1

    def __len__(self) -> int:
        self.action()
        return 2

    def __getitem__(self, index: int) -> bytes:
        self.action()
        return b"packet"

    def __buffer__(self, flags: int) -> memoryview:
        self.action()
        return memoryview(bytearray(8))


# What takes a number or a sequence, and, from Python 3.12 on, what takes a
# buffer: PEP 688.
NUMBERS: dict[str, Callable[[RawSocket, Any], object]] = {
    "recv": lambda sock, bad: sock.recv(bad),
    "getsockopt": lambda sock, bad: sock.getsockopt(1, bad),
    "setsockopt": lambda sock, bad: sock.setsockopt(bad, 8, 1),
    "sendmmsg": lambda sock, bad: sock.sendmmsg(bad),
    "sendmmsg_all": lambda sock, bad: sock.sendmmsg_all(bad),
    "start": lambda sock, bad: sock.sendmmsg([b"a", b"b"], bad),
}
BUFFERS: dict[str, Callable[[RawSocket, Any], object]] = {
    "send": lambda sock, bad: sock.send(bad),
    "recv_into": lambda sock, bad: sock.recv_into(bad),
    "sendmmsg within": lambda sock, bad: sock.sendmmsg([b"a", bad]),
    "gather": lambda sock, bad: sock.sendmmsg([(b"a", bad)]),
    "sendmmsg_all within": lambda sock, bad: sock.sendmmsg_all([b"a", bad]),
}
USES = NUMBERS | (BUFFERS if sys.version_info >= (3, 12) else {})


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_socket_closed_by_its_argument_is_ebadf(
    sock: RawSocket, use: Callable[[RawSocket, Any], object]
) -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        use(sock, Hostile(sock.close))
    assert caught.value.errno == errno.EBADF
    assert sock.closed
    assert sock.fileno() == -1


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_exception_of_an_argument_is_passed_on(
    sock: RawSocket, use: Callable[[RawSocket, Any], object]
) -> None:
    def fail() -> None:
        raise KeyError("argument")

    with same_descriptors(), pytest.raises(KeyError, match="argument"):
        use(sock, Hostile(fail))
    assert sock.statistics().packets_sent == 0


def test_argument_cannot_detach_the_socket_of_its_own_call(
    sock: RawSocket,
) -> None:
    """sendmmsg_all() is in flight while it asks the sequence for packets."""
    with pytest.raises(OSError) as caught:
        sock.sendmmsg_all(Hostile(sock.detach))  # type: ignore[arg-type]
    assert caught.value.errno == errno.EBUSY


def test_argument_may_use_the_socket_of_its_own_call(sock: RawSocket) -> None:
    assert sock.sendmmsg(Hostile(lambda: sock.send(b"more"))) == 2  # type: ignore[arg-type]
    assert sock.statistics().packets_sent > 2


class Shrinking:
    """A sequence that has fewer packets than it says."""

    def __init__(self, claimed: int, real: int) -> None:
        self.claimed = claimed
        self.real = real

    def __len__(self) -> int:
        return self.claimed

    def __getitem__(self, index: int) -> bytes:
        if index >= self.real:
            raise IndexError(index)
        return b"packet"


@pytest.mark.parametrize("claimed", [2, 1024, 1025, 2**31, 2**62])
def test_sequence_that_is_shorter_than_it_says_raises(
    sock: RawSocket, claimed: int
) -> None:
    packets: Any = Shrinking(claimed, 1)
    with pytest.raises(IndexError):
        sock.sendmmsg(packets)
    with pytest.raises(IndexError) as caught:
        sock.sendmmsg_all(packets)
    assert caught.value.packets_sent == 0  # type: ignore[attr-defined]


def test_length_of_a_sequence_must_be_one(sock: RawSocket) -> None:
    for length, error in [(-1, ValueError), (2**64, OverflowError)]:
        packets: Any = Shrinking(length, 1)
        with pytest.raises(error):
            sock.sendmmsg(packets)
        with pytest.raises(error):
            sock.sendmmsg_all(packets)


if sys.version_info >= (3, 12):

    def test_buffer_may_use_the_batch_that_it_is_appended_to() -> None:
        batch = PacketBatch(2)

        def act() -> None:
            batch.clear()
            batch.extend([b"one"])

        batch.append(Hostile(act))
        assert batch.tolist() == [b"one", bytes(8)]


GARBAGE: list[Any] = [
    *(None, True, -1, 2**31, 2**62, 2**70, 1.5, float("nan"), 1j),
    *("", "x", "\0", "\ud800", "x" * 10_000, b"", b"x", b"x" * 10_000),
    *(bytearray(), bytearray(8), memoryview(b"abcd")[::2]),
    memoryview(bytearray(64)).cast("B", (8, 8)),
    *([], [None], [[]], [b""], [()], [(b"",)], (), {}, set(), range(3)),
    *(object(), object, len, Ellipsis),
    *(PacketBatch(1), PacketBatch, Shrinking(3, 1), Shrinking(-1, 0)),
]
REFUSALS = (
    *(TypeError, ValueError, OverflowError, BufferError, MemoryError),
    *(OSError, IndexError, NotImplementedError),
)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in vars(RawSocket)
        if not name.startswith("_") and callable(getattr(RawSocket, name))
    ],
)
def test_garbage_is_refused_and_does_no_harm(name: str) -> None:
    """Whatever is given to a method, it returns or raises, and the socket
    works after."""
    with same_descriptors():
        for arguments in [(), *((bad,) for bad in GARBAGE)] + [
            pair
            for bad in GARBAGE
            for pair in ((bad, bad), (1, bad), (1, 2, bad), (bad, 1, 2, 3))
        ]:
            peer, sock = datagram_pair()
            with peer, sock:
                peer.setblocking(False)
                sock.setblocking(False)
                with contextlib.suppress(*REFUSALS):
                    result = getattr(sock, name)(*arguments)
                    if name == "detach":
                        os.close(result)
                if name in ("close", "detach"):
                    continue
                sock.setblocking(False)
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)


@pytest.mark.parametrize(
    "option",
    "interface protocol type filter timestamps rcvbuf sndbuf netns".split(),
)
def test_garbage_as_an_option_is_refused_or_means_something(
    option: str,
) -> None:
    with same_descriptors():
        for bad in GARBAGE:
            options: dict[str, Any] = {"interface": "lo", option: bad}
            try:
                sock = RawSocket(**options)
            except (*REFUSALS, ModuleNotFoundError):
                continue
            with sock:
                assert sock.fileno() >= 0


@pytest.mark.parametrize("method", ["append", "extend", "set_count"])
def test_garbage_in_a_batch_is_refused(method: str) -> None:
    for bad in GARBAGE:
        batch = PacketBatch(4, 64)
        with contextlib.suppress(*REFUSALS):
            getattr(batch, method)(bad)
        batch.clear()
        batch.append(b"packet")
        assert batch.tolist() == [b"packet"]


# Without privilege

DROP = """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)

    def drop_capabilities():
        # capset(2), _LINUX_CAPABILITY_VERSION_3
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        none = (ctypes.c_uint32 * 6)()
        assert libc.capset(header, none) == 0, ctypes.get_errno()

    def become_another_user():
        ids = open("/proc/self/uid_map").read().split()
        if int(ids[2]) > 65534:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        else:
            # A namespace without other users: leave it for one that has all
            # rights over itself, and none over the network.
            CLONE_NEWUSER = 0x10000000
            assert libc.unshare(CLONE_NEWUSER) == 0, ctypes.get_errno()
"""


def run_without_privilege(drop: str, code: str) -> str:
    """Runs code, in a child, that calls drop() to lose what it may do."""
    return run_python(
        textwrap.dedent(DROP) + f"\ndrop = {drop}\n" + textwrap.dedent(code)
    )


@pytest.fixture(params=["drop_capabilities", "become_another_user"])
def drop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_no_privilege_is_a_permission_error_with_the_remedy(drop: str) -> None:
    answer = run_without_privilege(
        drop,
        """
        import errno, os
        from rawmmsg import RawSocket
        before = os.listdir("/proc/self/fd")
        drop()
        for interface in ("lo", None):
            try:
                RawSocket(interface)
            except PermissionError as error:
                assert error.errno == errno.EPERM, error
                assert error.filename == interface, error
                assert str(error).startswith("[Errno 1] socket: "), error
                (note,) = error.__notes__
                for word in ("CAP_NET_RAW", "root", "setcap", "unshare"):
                    assert word in note, note
            else:
                raise AssertionError("a packet socket without privilege")
        assert len(os.listdir("/proc/self/fd")) == len(before)
        print("refused")
        """,
    )
    assert answer == "refused\n"


def test_no_privilege_to_enter_a_namespace_is_a_permission_error(
    drop: str,
) -> None:
    answer = run_without_privilege(
        drop,
        """
        import os
        from rawmmsg import RawSocket
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        before = os.listdir("/proc/self/fd")
        drop()
        path = f"/proc/self/fd/{namespace}"
        try:
            RawSocket("lo", netns=path)
        except PermissionError as error:
            assert error.filename == path, error
            assert str(error).startswith("[Errno 1] setns: "), error
        else:
            raise AssertionError("entered a namespace without privilege")
        assert len(os.listdir("/proc/self/fd")) == len(before)
        print("refused")
        """,
    )
    assert answer == "refused\n"


def test_adopting_needs_no_privilege(drop: str) -> None:
    """A helper with the right to open packet sockets can hand them over."""
    answer = run_without_privilege(
        drop,
        """
        import socket
        from rawmmsg import PacketBatch, RawSocket
        near, far = (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            for _ in range(2)
        )
        for one in (near, far):
            one.bind(("lo", 3))
        drop()
        packet = bytes(12) + bytes([0x88, 0xb5]) + b"packet"
        with (
            RawSocket(fileno=near.detach(), vlan=True) as sender,
            RawSocket(fileno=far.detach(), vlan=True) as receiver,
        ):
            receiver.settimeout(30)
            sender.sendmmsg([packet])
            batch = PacketBatch()
            while packet not in batch.tolist():
                receiver.recvmmsg_into(batch)
        print("received")
        """,
    )
    assert answer == "received\n"


# Types

SAMPLES: dict[str, Make] = {
    "batch": PacketBatch,
    "frame": lambda: memoryview(PacketBatch(1)).obj,
    "column": lambda: PacketBatch(1).lengths.obj,
    "socket": lambda: RawSocket("lo"),
}


@pytest.fixture(params=list(SAMPLES))
def sample(request: pytest.FixtureRequest) -> Iterator[object]:
    made = SAMPLES[request.param]()
    yield made
    if isinstance(made, RawSocket):
        made.close()


def test_objects_cannot_be_copied(sample: object) -> None:
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot pickle"):
            duplicate(sample)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_cannot_be_pickled(sample: object, protocol: int) -> None:
    with pytest.raises((TypeError, pickle.PicklingError), match="pickle"):
        pickle.dumps(sample, protocol)


def test_types_cannot_be_subclassed(sample: object) -> None:
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Derived", (type(sample),), {})


def test_types_and_objects_cannot_be_changed(sample: object) -> None:
    with pytest.raises(TypeError, match="immutable type"):
        type(sample).attribute = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        sample.attribute = 1  # type: ignore[attr-defined]


def test_what_a_batch_is_made_of_cannot_be_made_by_itself() -> None:
    batch = PacketBatch(1)
    for part in (memoryview(batch).obj, batch.lengths.obj):
        with pytest.raises(TypeError, match="cannot create"):
            type(part)()
        with pytest.raises(TypeError):
            object.__new__(type(part))


def test_objects_are_made_by_their_own_type() -> None:
    for made, other in ((PacketBatch, RawSocket), (RawSocket, PacketBatch)):
        with pytest.raises(TypeError):
            object.__new__(made)
        with pytest.raises(TypeError):
            made.__new__(other)  # type: ignore[type-var]


def test_methods_take_objects_of_their_own_type(sock: RawSocket) -> None:
    batch = PacketBatch(1)
    for own, other in ((RawSocket, batch), (PacketBatch, sock)):
        for name, member in vars(own).items():
            if name in ("__new__", "__doc__", "__module__", "__hash__"):
                continue
            with pytest.raises(TypeError):
                if callable(member):
                    member(other)
                else:
                    member.__get__(other)


def test_objects_are_hashable(sample: object) -> None:
    assert hash(sample) == hash(sample)
    assert {sample: "found"}[sample] == "found"


def test_statistics_is_a_plain_tuple(sock: RawSocket) -> None:
    """What is only data can be copied, pickled and compared."""
    statistics = sock.statistics()
    assert copy.copy(statistics) == statistics
    assert pickle.loads(pickle.dumps(statistics)) == statistics
    assert isinstance(statistics, Statistics)
    assert statistics == (0, None, 0, 0, 0, 0)


def test_constructor_that_fails_late_leaves_no_socket(veth: Veth) -> None:
    """One that the kernel knows, where a filter or membership was set."""
    table = Path("/proc/self/net/packet")
    before = table.read_text()
    for program in (b"", bytes(8)):
        with pytest.raises(OSError):
            RawSocket(veth.b, promisc=True, filter=program)
    veth.down("b")
    with pytest.raises(OSError) as caught:
        RawSocket(veth.b, promisc=True, filter=accept())
    assert caught.value.errno == errno.ENETDOWN
    assert table.read_text() == before, "a packet socket is left open"
    with RawSocket(veth.b, promisc=True, filter=accept(), allow_down=True):
        assert table.read_text() != before

"""Invalid arguments of constructors: each raises the stated error and leaves
no descriptor open."""

import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.calls import raises
from support.linux import is_open, same_descriptors
from support.programs import accept

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth


@contextlib.contextmanager
def room_for(count: int) -> Iterator[None]:
    """Lets this process open only `count` more descriptors."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 0
    while count or is_open(limit):
        count -= not is_open(limit)
        limit += 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


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


def test_too_much_memory_is_a_memory_error() -> None:
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
    "empty": ("", ValueError, "interface must be a name"),
    "16 bytes": ("a" * 16, ValueError, "interface must be a name"),
    "16 bytes of UTF-8": ("é" * 8, ValueError, "interface must be a name"),
    "very long": ("a" * 100_000, ValueError, "interface must be a name"),
    "alias": ("lo:1", ValueError, "interface must be a name"),
    "NUL": ("lo\0", ValueError, "null"),
    "surrogate": ("\ud800", UnicodeEncodeError, "surrogate"),
    "bytes": (b"lo", TypeError, "interface must be str or None"),
    "index": (1, TypeError, "interface must be str or None"),
    "path": (Path("lo"), TypeError, "interface must be str or None"),
}


@pytest.mark.parametrize(
    ("name", "error", "match"), UNFIT_NAMES.values(), ids=UNFIT_NAMES
)
def test_invalid_interface_is_refused(
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
    assert "see ip link; rawmmsg doctor IFACE" in str(caught.value)


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
def test_invalid_option_is_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with same_descriptors(), pytest.raises(error):
        RawSocket("lo", **options)


@pytest.mark.parametrize(
    "option",
    "promisc ignore_outgoing vlan addresses qdisc_bypass allow_down".split(),
)
def test_exception_of_a_truth_value_is_passed_on(option: str) -> None:
    class Undecided:
        def __bool__(self) -> bool:
            raise KeyError("undecided")

    options: dict[str, Any] = {option: Undecided()}
    with same_descriptors(), pytest.raises(KeyError, match="undecided"):
        RawSocket("lo", **options)


def test_options_that_need_an_interface_are_refused_without_one() -> None:
    with same_descriptors():
        options: dict[str, Any]
        for options in ({"protocol": 0}, {"promisc": True}):
            with pytest.raises(ValueError, match="interface"):
                RawSocket(**options)


@pytest.mark.parametrize(
    ("interface", "options", "reason"),
    [
        (None, {}, "on all interfaces"),
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
def test_constructor_without_free_descriptors_raises(room: int) -> None:
    """It opens two, the socket and an eventfd. If it cannot open one of them,
    it closes the other."""
    with same_descriptors():
        with room_for(room), raises(errno.EMFILE):
            RawSocket("lo")
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
def test_caller_keeps_a_descriptor_that_was_not_adopted(
    family: int, options: dict[str, Any], error: type[Exception]
) -> None:
    with socket.socket(family, socket.SOCK_DGRAM, 0) as owned:
        with same_descriptors(), pytest.raises(error):
            RawSocket(fileno=owned.fileno(), **options)
        assert owned.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == family


def test_caller_keeps_the_descriptor_if_no_other_is_free() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as owned:
        with same_descriptors():
            with room_for(0), raises(errno.EMFILE):
                RawSocket(fileno=owned.fileno())
        assert stat.S_ISSOCK(os.fstat(owned.fileno()).st_mode)


@pytest.mark.parametrize(
    ("family", "type_"),
    [
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_STREAM),
    ],
)
def test_stream_sockets_are_not_adopted(family: int, type_: int) -> None:
    with (
        socket.socket(family, type_) as stream,
        same_descriptors(),
        pytest.raises(ValueError, match="AF_PACKET socket, a datagram socket"),
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
    with same_descriptors(), raises(errno.EBADF, "Bad file descriptor"):
        RawSocket(fileno=fileno)


def test_descriptor_of_a_file_is_enotsock() -> None:
    with (
        open(os.devnull, "rb") as file,
        same_descriptors(),
        raises(errno.ENOTSOCK),
    ):
        RawSocket(fileno=file.fileno())


def test_constructor_that_fails_late_leaves_no_socket(veth: Veth) -> None:
    """If setting the filter or a membership fails, the kernel's socket is
    closed."""
    table = Path("/proc/self/net/packet")
    before = table.read_text()
    for program in (b"", bytes(8)):
        with pytest.raises(OSError):
            RawSocket(veth.b, promisc=True, filter=program)
    veth.down("b")
    with raises(errno.ENETDOWN):
        RawSocket(veth.b, promisc=True, filter=accept())
    assert table.read_text() == before, (
        "the constructor left a packet socket open"
    )
    with RawSocket(veth.b, promisc=True, filter=accept(), allow_down=True):
        assert table.read_text() != before


@pytest.mark.parametrize("name", ["protocol", "type", "rcvbuf", "fileno"])
def test_wrong_type_of_argument_is_named(name: str) -> None:
    options: dict[str, Any] = {name: "arp"}
    with pytest.raises(TypeError, match=f"{name} must be an int, not 'arp'"):
        RawSocket(**options)

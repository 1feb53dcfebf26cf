"""Calls that fail change nothing, neither on their socket nor on a descriptor
that was to be adopted."""

import ctypes
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from support.linux import SO_ATTACH_FILTER, SO_TIMESTAMPING, SO_TIMESTAMPNS, ip
from support.programs import LD_IMM, RET, accept, program

from rawmmsg import (
    PACKET_AUXDATA,
    PACKET_FANOUT,
    PACKET_IGNORE_OUTGOING,
    PACKET_QDISC_BYPASS,
    PACKET_VNET_HDR,
    PACKET_VNET_HDR_SZ,
    SOL_PACKET,
    PacketBatch,
    RawSocket,
)
from rawmmsg.testing import Veth

SO_GET_FILTER: Final = 26
SO_LOCK_FILTER: Final = 44

# Level and number of the options that the constructor can change.
OPTIONS: Final = {
    "SO_RCVBUF": (socket.SOL_SOCKET, socket.SO_RCVBUF),
    "SO_SNDBUF": (socket.SOL_SOCKET, socket.SO_SNDBUF),
    "SO_TIMESTAMPNS": (socket.SOL_SOCKET, SO_TIMESTAMPNS),
    "SO_TIMESTAMPING": (socket.SOL_SOCKET, SO_TIMESTAMPING),
    "PACKET_AUXDATA": (SOL_PACKET, PACKET_AUXDATA),
    "PACKET_VNET_HDR": (SOL_PACKET, PACKET_VNET_HDR),
    "PACKET_VNET_HDR_SZ": (SOL_PACKET, PACKET_VNET_HDR_SZ),
    "PACKET_FANOUT": (SOL_PACKET, PACKET_FANOUT),
    "PACKET_QDISC_BYPASS": (SOL_PACKET, PACKET_QDISC_BYPASS),
    "PACKET_IGNORE_OUTGOING": (SOL_PACKET, PACKET_IGNORE_OUTGOING),
}

GROUP: Final = bytes.fromhex("01005e000001")
TWO_STEPS: Final = program((LD_IMM, 0, 0, 1), (RET, 0, 0, 100))


def filter_of(sock: socket.socket) -> bytes:
    """The attached filter, by SO_GET_FILTER. Its length counts instructions,
    which the socket module would take for bytes."""
    count = ctypes.c_uint(64)
    code = ctypes.create_string_buffer(64 * 8)
    result = ctypes.CDLL(None).getsockopt(
        *(sock.fileno(), socket.SOL_SOCKET, SO_GET_FILTER),
        *(code, ctypes.byref(count)),
    )
    assert result == 0
    return code.raw[: count.value * 8]


def snapshot(sock: socket.socket, interface: str) -> dict[str, object]:
    """Everything on the descriptor that the constructor can change."""
    found: dict[str, object] = {
        name: sock.getsockopt(level, option)
        for name, (level, option) in OPTIONS.items()
    }
    found["filter"] = filter_of(sock)
    found["blocking"] = sock.getblocking()
    found["name"] = sock.getsockname()
    found["promiscuity"] = ip("-d", "link", "show", interface)
    found["groups"] = ip("maddr", "show", "dev", interface)
    return found


@pytest.fixture
def owned(pair: Veth) -> Iterator[socket.socket]:
    code = ctypes.create_string_buffer(TWO_STEPS, len(TWO_STEPS))
    classic = struct.pack("@HP", len(TWO_STEPS) // 8, ctypes.addressof(code))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as made:
        made.bind((pair.b, 3))
        made.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, classic)
        yield made


# All options for an adopted descriptor. Whatever was changed before the
# failing one must be undone.
EVERYTHING: Final[dict[str, Any]] = {
    "filter": accept(),
    "promisc": True,
    "allmulti": True,
    "multicast": [GROUP],
    "ignore_outgoing": True,
    "vlan": True,
    "addresses": True,
    "timestamps": "software",
    "vnet_hdr": 12,
    "qdisc_bypass": True,
    "rcvbuf": 100_000,
    "sndbuf": 100_000,
}

WRONG: Final[dict[str, tuple[dict[str, Any], Any]]] = {
    "filter cut": ({"filter": b"1234567"}, ValueError),
    "filter refused": ({"filter": bytes(8)}, OSError),
    "filter syntax": ({"filter": "udp and"}, ValueError),
    "filter of a list": ({"filter": [1]}, TypeError),
    "filter of a file": ({"filter": 0}, OSError),
    "ignore_outgoing": ({"ignore_outgoing": 1, "unknown": 2}, TypeError),
    "timestamps": ({"timestamps": "late"}, ValueError),
    "timestamps hardware": ({"timestamps": "hardware"}, OSError),
    "vnet_hdr": ({"vnet_hdr": 11}, ValueError),
    "vnet_hdr str": ({"vnet_hdr": "10"}, TypeError),
    "fanout mode": ({"fanout": "bogus"}, ValueError),
    "fanout group": ({"fanout": ("lb", 65536)}, ValueError),
    "fanout flags": ({"fanout": ("lb", 1, 1)}, ValueError),
    "fanout number": ({"fanout": 1}, TypeError),
    "fanout program": ({"fanout": ("cbpf", 1, 0, b"1234567")}, ValueError),
    "fanout refused": ({"fanout": ("cbpf", 1, 0, bytes(8))}, OSError),
    "fanout filter": ({"fanout": ("cbpf", 1, 0, "udp")}, TypeError),
    "fanout descriptor": ({"fanout": ("ebpf", 1, 0, 0)}, OSError),
    "multicast": ({"multicast": [GROUP, b""]}, ValueError),
    "multicast long": ({"multicast": [GROUP, bytes(9)]}, ValueError),
    "multicast number": ({"multicast": [GROUP, 5]}, TypeError),
    "multicast refused": ({"multicast": [GROUP, b"1"]}, OSError),
    "rcvbuf": ({"rcvbuf": -1}, ValueError),
    "rcvbuf huge": ({"rcvbuf": 2**31}, OverflowError),
    "sndbuf": ({"sndbuf": 1.5}, TypeError),
    "interface": ({"interface": "lo"}, ValueError),
    "protocol": ({"protocol": 3}, ValueError),
    "type": ({"type": socket.SOCK_RAW}, ValueError),
    "netns": ({"netns": "elsewhere"}, ValueError),
    "allow_down": ({"allow_down": True}, ValueError),
}


@pytest.mark.parametrize("others", [{}, EVERYTHING], ids=["alone", "last"])
@pytest.mark.parametrize(("options", "error"), WRONG.values(), ids=WRONG)
def test_descriptor_that_is_not_adopted_is_unchanged(
    pair: Veth,
    owned: socket.socket,
    options: dict[str, Any],
    error: Any,
    others: dict[str, Any],
) -> None:
    before = snapshot(owned, pair.b)
    with pytest.raises(error):
        RawSocket(fileno=owned.fileno(), **(others | options))
    assert snapshot(owned, pair.b) == before


def test_all_options_together_are_valid(
    pair: Veth, owned: socket.socket
) -> None:
    """Otherwise the test above would show little."""
    before = snapshot(owned, pair.b)
    duplicate = socket.socket(fileno=owned.detach())
    with duplicate.dup() as kept, duplicate:
        with RawSocket(fileno=kept.detach(), **EVERYTHING):
            after = snapshot(duplicate, pair.b)
    unchanged = {name for name in before if before[name] == after[name]}
    assert unchanged == {"PACKET_FANOUT", "SO_TIMESTAMPNS", "blocking", "name"}


def test_refused_fanout_leaves_the_descriptor_unchanged(
    pair: Veth, owned: socket.socket
) -> None:
    """The kernel refuses the last step. The error names the likely cause."""
    with RawSocket(pair.a, fanout=("lb", 7)):
        before = snapshot(owned, pair.b)
        with pytest.raises(OSError, match="one interface") as caught:
            RawSocket(
                fileno=owned.fileno(), **(EVERYTHING | {"fanout": ("lb", 7)})
            )
        assert caught.value.errno == errno.EINVAL
        assert caught.value.filename == pair.b
        assert snapshot(owned, pair.b) == before


def test_locked_filter_leaves_the_descriptor_unchanged(
    pair: Veth, owned: socket.socket
) -> None:
    owned.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
    before = snapshot(owned, pair.b)
    for options in (
        {"filter": accept()},
        {"fanout": ("cbpf", 1, 0, accept())},
    ):
        with pytest.raises(PermissionError):
            RawSocket(
                fileno=owned.fileno(),
                **(EVERYTHING | {"filter": None} | options),
            )
        assert snapshot(owned, pair.b) == before


# Calls on a RawSocket.

Call = Callable[[RawSocket], object]

CALLS: Final[dict[str, tuple[Call, Any]]] = {
    "fanout program": (
        lambda s: s.set_fanout("cbpf", program=b"1234567"),
        ValueError,
    ),
    "fanout refused": (
        lambda s: s.set_fanout("cbpf", program=bytes(8)),
        OSError,
    ),
    "fanout filter": (
        lambda s: s.set_fanout("cbpf", program="udp port 53"),  # type: ignore[arg-type]
        TypeError,
    ),
    "fanout descriptor": (lambda s: s.set_fanout("ebpf", program=0), OSError),
    "fanout mode": (lambda s: s.set_fanout("round"), ValueError),  # type: ignore[arg-type]
    "fanout group": (lambda s: s.set_fanout("lb", -1), ValueError),
    "fanout flags": (lambda s: s.set_fanout("lb", flags=1), ValueError),
    "filter cut": (lambda s: s.attach_filter(b"1234567"), ValueError),
    "filter refused": (lambda s: s.attach_filter(bytes(8)), OSError),
    "filter long": (lambda s: s.attach_filter(accept() * 4097), OSError),
    "filter syntax": (lambda s: s.attach_filter("udp and"), ValueError),
    "filter list": (lambda s: s.attach_filter([1]), TypeError),  # type: ignore[arg-type]
    "membership": (lambda s: s.add_membership(bytes(9)), ValueError),
    "membership short": (lambda s: s.add_membership(b"1"), OSError),
    "membership str": (lambda s: s.add_membership("1"), TypeError),  # type: ignore[arg-type]
    "option": (
        lambda s: s.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1),
        ValueError,
    ),
    "timeout": (lambda s: s.settimeout(-1), ValueError),
    "send": (lambda s: s.sendmmsg([b"", None]), TypeError),  # type: ignore[list-item]
    "start": (lambda s: s.sendmmsg(PacketBatch(1), 1), ValueError),
}


@pytest.mark.parametrize(("call", "error"), CALLS.values(), ids=CALLS)
def test_call_that_fails_changes_nothing(
    pair: Veth, call: Call, error: Any
) -> None:
    with RawSocket(pair.b, filter=TWO_STEPS) as sock:
        with socket.socket(fileno=sock.fileno()) as same:
            before = snapshot(same, pair.b)
            with pytest.raises(error):
                call(sock)
            assert snapshot(same, pair.b) == before
            same.detach()
        assert sock.fanout_group is None
        assert sock.statistics()[3:] == (0, 0, 0)
        assert sock.set_fanout("lb") == sock.fanout_group, (
            "it can no longer join a group"
        )

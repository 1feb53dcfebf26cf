"""The numbers and their names: the same as in the kernel's headers."""

import ast
import inspect
import re
import socket
from enum import Enum, IntEnum, IntFlag
from itertools import pairwise
from pathlib import Path

import pytest

import rawmmsg
from rawmmsg import constants
from rawmmsg.constants import (
    ChecksumStatus,
    FanoutMode,
    GsoType,
    PacketFlag,
    PacketType,
    VnetFlag,
)

NAMES = [name for name in constants.__all__ if name.isupper()]
CLASSES = [name for name in constants.__all__ if name not in NAMES]

# Where the kernel's name is not ours.
IN_HEADERS = {
    "FANOUT_RANDOM": "PACKET_FANOUT_RND",
    "FANOUT_QUEUE": "PACKET_FANOUT_QM",
    "VNET_NEEDS_CSUM": "VIRTIO_NET_HDR_F_NEEDS_CSUM",
    "VNET_DATA_VALID": "VIRTIO_NET_HDR_F_DATA_VALID",
}
# Newer than the oldest headers that the extension builds with.
VALUES = {
    "GSO_UDP_L4": 5,
    "PACKET_IGNORE_OUTGOING": 23,
    "PACKET_VNET_HDR_SZ": 24,
    "SOL_PACKET": 263,
}
PREFIXES = {
    "FANOUT_": "PACKET_FANOUT_",
    "GSO_": "VIRTIO_NET_HDR_GSO_",
    "PACKET_": "PACKET_",
}


def defined_in_headers() -> dict[str, int]:
    found: dict[str, int] = {}
    for header in ("if_packet.h", "virtio_net.h"):
        text = Path("/usr/include/linux", header).read_text(encoding="ascii")
        for name, value in re.findall(
            r"^#define (\w+)\s+(0x[0-9a-fA-F]+|\d+)\b", text, re.MULTILINE
        ):
            found[name] = int(value, 0)
    return found


def name_in_headers(name: str) -> str | None:
    if name in IN_HEADERS:
        return IN_HEADERS[name]
    for prefix, kernel in PREFIXES.items():
        if name.startswith(prefix):
            return kernel + name.removeprefix(prefix)
    return None


def test_numbers_are_those_of_the_kernels_headers() -> None:
    defined = defined_in_headers()
    checked = set()
    for name in NAMES:
        kernel = name_in_headers(name)
        if kernel is not None and (name not in VALUES or kernel in defined):
            assert getattr(constants, name) == defined[kernel], name
            checked.add(name)
    assert len(checked) >= 30
    for name, value in VALUES.items():
        assert getattr(constants, name) == value, name


def test_numbers_are_those_of_the_socket_module() -> None:
    for kind in PacketType:
        assert getattr(socket, f"PACKET_{kind.name}") == kind


def test_enumerations_are_complete() -> None:
    """rawmmsg leaves out only the numbers of packets that no socket can
    receive, and of UDP fragmentation offload, which Linux no longer has."""
    modes = {
        name
        for name in defined_in_headers()
        if re.fullmatch(r"PACKET_FANOUT_(?!DATA|FLAG_)\w+", name)
    }
    assert len(modes) == len(FanoutMode)
    assert list(GsoType) == [0, 1, 4, 5]


def test_flags_are_distinct_bits() -> None:
    assert list(PacketFlag) == [1 << bit for bit in range(len(PacketFlag))]
    assert list(VnetFlag) == [1 << bit for bit in range(len(VnetFlag))]


def test_package_has_every_single_name() -> None:
    for name in NAMES:
        assert name in rawmmsg.__all__
        assert getattr(rawmmsg, name) is getattr(constants, name)


@pytest.mark.parametrize(
    ("prefix", "enumeration"),
    [
        ("GSO_", GsoType),
        ("PACKET_", PacketType),
        ("FANOUT_", FanoutMode),
        ("CHECKSUM_", ChecksumStatus),
    ],
)
def test_single_name_is_the_member(
    prefix: str, enumeration: type[IntEnum]
) -> None:
    for member in enumeration:
        assert getattr(rawmmsg, prefix + member.name) is member


@pytest.mark.parametrize(
    ("prefix", "flags"), [("", PacketFlag), ("VNET_", VnetFlag)]
)
def test_single_name_of_a_bit_is_a_plain_int(
    prefix: str, flags: type[IntFlag]
) -> None:
    """A member of an IntFlag would make `column[i] & BIT` slow."""
    for name, member in flags.__members__.items():
        bit = getattr(rawmmsg, prefix + name)
        assert bit == member
        assert type(bit) is int


def test_flags_are_for_printing() -> None:
    both = PacketFlag(rawmmsg.TRUNCATED | rawmmsg.VLAN_RESTORED)
    assert both == PacketFlag.TRUNCATED | PacketFlag.VLAN_RESTORED
    assert "TRUNCATED" in repr(both)
    assert "VLAN_RESTORED" in repr(both)
    assert GsoType(1).name == "TCPV4"
    assert repr(PacketType(4)) == "<PacketType.OUTGOING: 4>"


def test_everything_is_documented() -> None:
    for name in CLASSES:
        kind = getattr(constants, name)
        assert issubclass(kind, Enum)
        assert inspect.getdoc(kind) != inspect.getdoc(kind.__mro__[1])
    body = ast.parse(inspect.getsource(constants)).body
    documented = {
        node.target.id
        for node, text in pairwise(body)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }
    assert documented == set(NAMES)

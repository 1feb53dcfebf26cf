"""Has the kernel what rawmmsg uses?"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..._kernel import kernel_version
from ...constants import (
    PACKET_AUXDATA,
    PACKET_IGNORE_OUTGOING,
    PACKET_QDISC_BYPASS,
    PACKET_VNET_HDR,
    PACKET_VNET_HDR_SZ,
    SOL_PACKET,
)
from ..finding import Finding, note, ok, problem

__all__ = ["check"]

NAME: Final = "kernel"


@dataclass(frozen=True)
class _Feature:
    name: str
    since: tuple[int, int]  # the first kernel that has it
    used_by: str
    option: int | None = None  # with which it can be tried
    value: int = 1
    needed: bool = False


_FEATURES: Final = (
    _Feature("PACKET_AUXDATA", (2, 6), "vlan=", PACKET_AUXDATA, needed=True),
    _Feature(
        "PACKET_IGNORE_OUTGOING",
        (4, 20),
        "ignore_outgoing=",
        PACKET_IGNORE_OUTGOING,
        needed=True,
    ),
    _Feature(
        "PACKET_QDISC_BYPASS", (3, 14), "qdisc_bypass=", PACKET_QDISC_BYPASS
    ),
    _Feature("PACKET_VNET_HDR", (2, 6), "vnet_hdr=True", PACKET_VNET_HDR),
    _Feature(
        "PACKET_VNET_HDR_SZ", (6, 4), "vnet_hdr=12", PACKET_VNET_HDR_SZ, 12
    ),
    # Two that only traffic could try (linux/if_packet.h, linux/virtio_net.h).
    _Feature(
        "PACKET_FANOUT_FLAG_IGNORE_OUTGOING",
        (6, 2),
        "ignore_outgoing=True with fanout=",
    ),
    _Feature("VIRTIO_NET_HDR_GSO_UDP_L4", (6, 2), "GSO_UDP_L4"),
)


def check() -> Iterator[Finding]:
    release = os.uname().release
    version = kernel_version()
    absent = [one for one in _FEATURES if not _is_there(one, version)]
    for feature in absent:
        message = (
            f"Linux {release} lacks {feature.name}, which"
            f" {feature.used_by} needs"
        )
        remedy = "a kernel of version {}.{} or later".format(*feature.since)
        found = problem if feature.needed else note
        yield found(
            NAME, message, remedy, release=release, missing=feature.name
        )
    if not absent:
        yield ok(NAME, f"Linux {release} has all features", release=release)


def _is_there(feature: _Feature, version: tuple[int, int]) -> bool:
    """Tries it, or goes by the version if that is not possible: a
    distribution may have added a feature to an older kernel."""
    if feature.option is not None:
        try:
            return _try(feature.option, feature.value)
        except PermissionError:
            pass
    return version >= feature.since


def _try(option: int, value: int) -> bool:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        try:
            sock.setsockopt(SOL_PACKET, option, struct.pack("=i", value))
        except OSError as error:
            if error.errno in (errno.ENOPROTOOPT, errno.EINVAL):
                return False
            raise
    return True

"""Batched raw packet I/O for Linux.

One system call moves a batch of frames between an AF_PACKET socket and memory
that the caller owns. Filters run in the kernel, and nothing is time-stamped
unless the caller asks for it.

    RawSocket, PacketBatch   sockets, and memory for batches of frames
    open_fanout_group()      several sockets that share the traffic
    aio                      batches in asyncio
    bpf                      the filter compiler
    constants                the numbers of the kernel, as enumerations
    pacing                   sending at a given rate
    pcap                     recordings: pcapng and pcap files
    scapy                    sockets and senders for Scapy (needs Scapy)
    testing                  private networks for tests, and a pytest plugin
"""

from importlib import import_module
from types import ModuleType

# C imports it by name, maybe after the process has given up the right to read
# this folder.
from . import _options  # noqa: F401

try:
    from ._rawmmsg import PacketBatch, RawSocket, Statistics
except ModuleNotFoundError as error:
    if error.name != f"{__name__}._rawmmsg":
        raise
    error.msg += (
        f": {__path__[0]} has no module compiled for this Python. In a"
        " checkout, start Python in another folder, to use the rawmmsg that is"
        " installed, or compile this one: pip install -e ."
    )
    raise
from .constants import (
    CHECKSUM_BAD,
    CHECKSUM_GOOD,
    CHECKSUM_NONE,
    CHECKSUM_NOT_READY,
    CHECKSUM_PENDING,
    CHECKSUM_VALID,
    CONTROL_TRUNCATED,
    FANOUT_CBPF,
    FANOUT_CPU,
    FANOUT_EBPF,
    FANOUT_FLAG_DEFRAG,
    FANOUT_FLAG_ROLLOVER,
    FANOUT_HASH,
    FANOUT_LB,
    FANOUT_QUEUE,
    FANOUT_RANDOM,
    FANOUT_ROLLOVER,
    FOREIGN,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    PACKET_ADD_MEMBERSHIP,
    PACKET_AUXDATA,
    PACKET_BROADCAST,
    PACKET_DROP_MEMBERSHIP,
    PACKET_FANOUT,
    PACKET_FANOUT_DATA,
    PACKET_HOST,
    PACKET_IGNORE_OUTGOING,
    PACKET_LOOPBACK,
    PACKET_MULTICAST,
    PACKET_ORIGDEV,
    PACKET_OTHERHOST,
    PACKET_OUTGOING,
    PACKET_QDISC_BYPASS,
    PACKET_ROLLOVER_STATS,
    PACKET_STATISTICS,
    PACKET_TIMESTAMP,
    PACKET_VNET_HDR,
    PACKET_VNET_HDR_SZ,
    SOL_PACKET,
    SUPER_FRAME,
    TRUNCATED,
    VLAN_RESTORED,
    VNET_DATA_VALID,
    VNET_NEEDS_CSUM,
)
from .fanout import open_fanout_group

__version__ = "0.1.0"

__all__ = [
    "CHECKSUM_BAD",
    "CHECKSUM_GOOD",
    "CHECKSUM_NONE",
    "CHECKSUM_NOT_READY",
    "CHECKSUM_PENDING",
    "CHECKSUM_VALID",
    "CONTROL_TRUNCATED",
    "FANOUT_CBPF",
    "FANOUT_CPU",
    "FANOUT_EBPF",
    "FANOUT_FLAG_DEFRAG",
    "FANOUT_FLAG_ROLLOVER",
    "FANOUT_HASH",
    "FANOUT_LB",
    "FANOUT_QUEUE",
    "FANOUT_RANDOM",
    "FANOUT_ROLLOVER",
    "FOREIGN",
    "GSO_ECN",
    "GSO_NONE",
    "GSO_TCPV4",
    "GSO_TCPV6",
    "GSO_UDP_L4",
    "PACKET_ADD_MEMBERSHIP",
    "PACKET_AUXDATA",
    "PACKET_BROADCAST",
    "PACKET_DROP_MEMBERSHIP",
    "PACKET_FANOUT",
    "PACKET_FANOUT_DATA",
    "PACKET_HOST",
    "PACKET_IGNORE_OUTGOING",
    "PACKET_LOOPBACK",
    "PACKET_MULTICAST",
    "PACKET_ORIGDEV",
    "PACKET_OTHERHOST",
    "PACKET_OUTGOING",
    "PACKET_QDISC_BYPASS",
    "PACKET_ROLLOVER_STATS",
    "PACKET_STATISTICS",
    "PACKET_TIMESTAMP",
    "PACKET_VNET_HDR",
    "PACKET_VNET_HDR_SZ",
    "SOL_PACKET",
    "SUPER_FRAME",
    "TRUNCATED",
    "VLAN_RESTORED",
    "VNET_DATA_VALID",
    "VNET_NEEDS_CSUM",
    "PacketBatch",
    "RawSocket",
    "Statistics",
    "open_fanout_group",
]

_SUBMODULES = frozenset(
    {"aio", "bpf", "bridge", "pacing", "pcap", "ptf", "scapy", "testing"}
)


def __getattr__(name: str) -> ModuleType:
    """Imports a submodule on first use (PEP 562)."""
    missing = f"module {__name__!r} has no attribute {name!r}"
    if name not in _SUBMODULES:
        raise AttributeError(missing)
    try:
        return import_module(f"{__name__}.{name}")
    except ImportError as error:
        # hasattr(), help() and Tab completion ask for every name, and expect
        # this error if a name cannot be had.
        raise AttributeError(f"{missing}: {error}") from error


def __dir__() -> list[str]:
    """What is public, and the names that every module has."""
    special = {name for name in globals() if name.startswith("__")}
    return sorted({*__all__, *_SUBMODULES, "constants", "fanout", *special})

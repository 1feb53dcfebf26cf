"""Direct, ring-less packet I/O for Linux: batches of frames in and out of
memory that the caller owns, filtered in the kernel, stamped only on request.
"""

from importlib import import_module
from types import ModuleType

from ._rawmmsg import (
    CHECKSUM_NOT_READY,
    CHECKSUM_VALID,
    CONTROL_TRUNCATED,
    FANOUT_DEFRAG,
    FANOUT_ROLLOVER,
    FOREIGN,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    SUPER_FRAME,
    TRUNCATED,
    VLAN_RESTORED,
    VNET_DATA_VALID,
    VNET_NEEDS_CSUM,
    PacketBatch,
    RawSocket,
    Statistics,
)

__version__ = "0.1.0"

__all__ = [
    "CHECKSUM_NOT_READY",
    "CHECKSUM_VALID",
    "CONTROL_TRUNCATED",
    "FANOUT_DEFRAG",
    "FANOUT_ROLLOVER",
    "FOREIGN",
    "GSO_ECN",
    "GSO_NONE",
    "GSO_TCPV4",
    "GSO_TCPV6",
    "GSO_UDP_L4",
    "SUPER_FRAME",
    "TRUNCATED",
    "VLAN_RESTORED",
    "VNET_DATA_VALID",
    "VNET_NEEDS_CSUM",
    "PacketBatch",
    "RawSocket",
    "Statistics",
]

_SUBMODULES = frozenset({"aio", "bpf", "fanout", "scapy", "testing"})


def __getattr__(name: str) -> ModuleType:
    """Submodules on first use (PEP 562)."""
    missing = f"module {__name__!r} has no attribute {name!r}"
    if name not in _SUBMODULES:
        raise AttributeError(missing)
    try:
        return import_module(f"{__name__}.{name}")
    except ImportError as error:
        # hasattr(), help() and Tab completion ask for every name and expect
        # this error of one that is not there.
        raise AttributeError(f"{missing}: {error}") from error


def __dir__() -> list[str]:
    return sorted(set(globals()) | _SUBMODULES)

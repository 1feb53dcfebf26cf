"""What this back end offers to a guest and to a front end.

Not offered, because nothing here would keep the promise: CONFIGURE_MEM_SLOTS
(QEMU would send ADD_MEM_REG instead of SET_MEM_TABLE), STATUS (DPDK would ask
for it), INFLIGHT_SHMFD, LOG_SHMFD, PAGEFAULT, MQ, and of the guest's features
ACCESS_PLATFORM and IN_ORDER.
"""

from enum import IntFlag
from typing import Final

from .._kernel import kernel_version

__all__ = [
    "OFFERED",
    "OFFERED_PROTOCOL",
    "Feature",
    "ProtocolFeature",
    "offered_by",
]


class Feature(IntFlag):
    """Bits that the guest's driver negotiates (virtio 1.2, 5.1.3 and 6), and
    PROTOCOL_FEATURES, which only the front end uses."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    MTU = 1 << 3
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    MRG_RXBUF = 1 << 15
    ANY_LAYOUT = 1 << 27
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    VERSION_1 = 1 << 32
    GUEST_USO4 = 1 << 54
    GUEST_USO6 = 1 << 55
    HOST_USO = 1 << 56


class ProtocolFeature(IntFlag):
    REPLY_ACK = 1 << 3
    NET_MTU = 1 << 4


def offered_by(version: tuple[int, int]) -> Feature:
    """Returns what to offer on a kernel of this version. A packet socket takes
    super-frames of UDP since Linux 6.2; on an older one, the guest has to cut
    them itself."""
    everything = Feature(sum(Feature))
    return everything if version >= (6, 2) else everything & ~Feature.HOST_USO


OFFERED: Final = offered_by(kernel_version())
OFFERED_PROTOCOL: Final = ProtocolFeature(sum(ProtocolFeature))

"""Scapy on rawmmsg: sockets that receive in batches, packets sent in batches.

    from rawmmsg.scapy import install

    install()  # sniff(), srp(), AsyncSniffer ... use our sockets from now on

    L2RawMmsgSocket, L2RawMmsgListenSocket, L3RawMmsgSocket
                    wherever Scapy takes a socket
    BatchSession    for sniff(session=): a whole batch for one wait
    RawSniffer      frames as memoryviews, no Packet made of them
    sendp_batch()   in place of sendp() and sendpfast()

Needs Scapy 2.6 or later, and imports it. A packet's `time` is when its batch
arrived: `timestamps=True`, an option of the sockets that sniff() passes on,
has the kernel stamp each one.
"""

from importlib import import_module

try:
    import_module("scapy")
except ModuleNotFoundError as error:
    if error.name != "scapy":
        raise
    raise ModuleNotFoundError(
        "rawmmsg.scapy needs Scapy: pip install 'rawmmsg[scapy]'",
        name=error.name,
    ) from None

from ..pacing import SendResult
from .configuration import install, uninstall
from .links import FilterError
from .raw import RawSniffer
from .sending import sendp_batch
from .session import BatchSession
from .sockets import (
    L2RawMmsgListenSocket,
    L2RawMmsgSocket,
    L3RawMmsgSocket,
)

__all__ = [
    "BatchSession",
    "FilterError",
    "L2RawMmsgListenSocket",
    "L2RawMmsgSocket",
    "L3RawMmsgSocket",
    "RawSniffer",
    "SendResult",
    "install",
    "sendp_batch",
    "uninstall",
]

"""Scapy on rawmmsg: receives packets in batches, and sends them in batches.

    from rawmmsg.scapy import install

    install()  # from now on sniff(), srp(), AsyncSniffer ... use rawmmsg

    L2RawMmsgSocket, L2RawMmsgListenSocket, L3RawMmsgSocket
                    for every argument of Scapy that is a socket
    BatchSession    for sniff(session=): all packets of a batch after one wait
    RawSniffer      gives frames as memoryviews, without Packet objects
    sendp_batch()   in place of sendp() and sendpfast()

Needs Scapy 2.6 or later, and imports it. `time` of a packet is when its batch
arrived. To have the kernel stamp each packet, pass `timestamps=True` to a
socket, or to sniff(), which passes it on.
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
from .installation import Installation, install, uninstall
from .links import FilterError
from .raw_sniffer import RawSniffer
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
    "Installation",
    "L2RawMmsgListenSocket",
    "L2RawMmsgSocket",
    "L3RawMmsgSocket",
    "RawSniffer",
    "SendResult",
    "install",
    "sendp_batch",
    "uninstall",
]

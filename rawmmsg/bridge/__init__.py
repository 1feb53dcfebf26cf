"""`rawmmsg bridge`, a switch with two ports, and `rawmmsg switch`, with any
number of ports.

    Switch       the latter, for programs
    PortCounts   what one of its ports has counted

Each module uses only those below it:

command     the command line of the bridge
switching   all that only the switch needs
console     the lines of statistics and the summary
arguments   options that bridge and switch share
loop        one thread and one poll(2) for all directions
directions  which kind of direction two ports need
streams     directions that begin at a stream socket
guests      directions that begin or end in the memory of a guest
batched     a direction that receives batches and passes them on
direction   what the loop and the console know of a direction
receiving   receives batches, and finds frames that are not to be sent
sending     sends; full queues (ENOBUFS, EAGAIN) and refused frames
merging     the frames to be sent, merged into super-frames
outgoing    the frames to be sent, as they are or cut into segments
batches     the memory that both directions share
ports       interfaces, sockets and guests, and their names on the command line
drops       the reasons for which frames are dropped
filters     pcap-filter expressions for each kind of port
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .switching.counts import PortCounts
    from .switching.switch import Switch

__all__ = ["PortCounts", "Switch"]


def __getattr__(name: str) -> object:
    """Imports these names on first use (PEP 562): the command line starts
    faster without them."""
    if name == "Switch":
        from .switching.switch import Switch

        return Switch
    if name == "PortCounts":
        from .switching.counts import PortCounts

        return PortCounts
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

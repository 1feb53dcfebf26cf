"""What the counters show at one moment. Two samples tell what is lost now."""

from dataclasses import dataclass

from .kernel.links import Link, link_by_index
from .kernel.qdiscs import Qdisc, qdiscs_of
from .kernel.sockets import PacketSocket, packet_sockets
from .kernel.softnet import Softnet, read_softnet

__all__ = ["Sample", "take_sample"]


@dataclass(frozen=True)
class Sample:
    link: Link | None
    sockets: list[PacketSocket]  # on the interface, or of the namespace
    qdiscs: list[Qdisc]
    softnet: Softnet


def take_sample(index: int | None) -> Sample:
    """Reads the counters of an interface, or without it those of the machine
    and of all packet sockets. Raises OSError if the kernel does not show
    its packet sockets."""
    link = None if index is None else link_by_index(index)
    return Sample(
        link,
        [
            sock
            for sock in packet_sockets()
            if index is None or sock.index in (0, index)
        ],
        [] if link is None else qdiscs_of(link.index),
        read_softnet(),
    )

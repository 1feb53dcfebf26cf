"""Queueing disciplines, from rtnetlink(7)."""

import socket
import struct
from dataclasses import dataclass
from typing import Final

from ... import _netlink as netlink

__all__ = ["Qdisc", "qdiscs_of"]

_NETLINK_ROUTE: Final = 0  # linux/netlink.h

# linux/rtnetlink.h
_RTM_GETQDISC: Final = 38
_TCMSG: Final = struct.Struct("=B3xiIII")  # struct tcmsg
_TCA_KIND: Final = 1
_TCA_STATS2: Final = 7

# linux/gen_stats.h
_TCA_STATS_BASIC: Final = 1
_TCA_STATS_QUEUE: Final = 3
_STATS_BASIC: Final = struct.Struct("=QI")  # struct gnet_stats_basic
_STATS_QUEUE: Final = struct.Struct("=IIIII")  # struct gnet_stats_queue

# linux/pkt_sched.h
_TC_H_ROOT: Final = 0xFFFFFFFF
_TC_H_INGRESS: Final = 0xFFFFFFF1


@dataclass(frozen=True)
class Qdisc:
    """The root of the output queue, or the filters at the input."""

    kind: str
    ingress: bool
    packets: int  # that have left it
    queued: int
    backlog: int  # in bytes
    drops: int


def qdiscs_of(index: int) -> list[Qdisc]:
    """Returns the queueing disciplines of an interface. The counters of a
    root include those of its classes."""
    question = _TCMSG.pack(socket.AF_UNSPEC, index, 0, 0, 0)
    answers = netlink.dump(_NETLINK_ROUTE, _RTM_GETQDISC, question)
    found = []
    for answer in answers:
        _, of, _, parent, _ = _TCMSG.unpack_from(answer)
        if of == index and parent in (_TC_H_ROOT, _TC_H_INGRESS):
            rest = netlink.attributes(answer[_TCMSG.size :])
            found.append(_parse(rest, parent == _TC_H_INGRESS))
    return found


def _parse(found: dict[int, bytes], ingress: bool) -> Qdisc:
    statistics = netlink.nested(found, _TCA_STATS2)
    basic = statistics.get(_TCA_STATS_BASIC, bytes(_STATS_BASIC.size))
    queue = statistics.get(_TCA_STATS_QUEUE, bytes(_STATS_QUEUE.size))
    _, packets = _STATS_BASIC.unpack_from(basic)
    queued, backlog, drops, _, _ = _STATS_QUEUE.unpack_from(queue)
    kind = found[_TCA_KIND].rstrip(b"\0").decode()
    return Qdisc(kind, ingress, packets, queued, backlog, drops)

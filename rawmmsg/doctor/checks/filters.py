"""Is there a socket whose filter rejects every packet?"""

from collections.abc import Iterator
from typing import Final

from ..acceptance import can_accept
from ..finding import Finding, note, ok, problem
from ..kernel.processes import describe, owners, values_of
from ..kernel.sockets import PacketSocket
from ..sample import Sample
from .privileges import administers_network

__all__ = ["check"]

NAME: Final = "filters"


def check(before: Sample, after: Sample) -> Iterator[Finding]:
    """A socket may reject everything for a moment, while it changes its
    filter, so both samples must show it."""
    if not administers_network():
        yield note(
            NAME,
            "the filters of sockets were not looked at: this needs"
            " CAP_NET_ADMIN",
            "run as root",
        )
        return
    earlier = {sock.inode for sock in _rejecting(before)}
    rejecting = [sock for sock in _rejecting(after) if sock.inode in earlier]
    processes = owners({sock.inode for sock in rejecting})
    for sock in rejecting:
        yield problem(
            NAME,
            "the filter of a packet socket rejects every packet:"
            f" {describe(sock.inode, processes)}",
            "attach another filter; to see one: rawmmsg filter EXPRESSION",
            socket=sock.inode,
            **values_of(processes.get(sock.inode)),
        )
    unlisted = _unlisted(before) & _unlisted(after)
    if unlisted:
        yield note(
            NAME,
            f"the filters of {len(unlisted)} packet sockets were not looked"
            " at: the kernel lists no filter of about 4,000 instructions or"
            " more, and none after it",
            "detach the longest filter",
            sockets=[*sorted(unlisted)],
        )
    elif not rejecting:
        count = sum(sock.filter is not None for sock in after.sockets)
        yield ok(
            NAME,
            "no packet socket rejects every packet"
            f" (sockets: {len(after.sockets)}, with a filter: {count})",
            sockets=len(after.sockets),
            filters=count,
        )


def _rejecting(sample: Sample) -> list[PacketSocket]:
    return [
        sock
        for sock in sample.sockets
        if sock.protocol  # else it receives nothing anyway
        and sock.filter is not None
        and not can_accept(sock.filter, {})
    ]


def _unlisted(sample: Sample) -> set[int]:
    return {sock.inode for sock in sample.sockets if not sock.filter_listed}

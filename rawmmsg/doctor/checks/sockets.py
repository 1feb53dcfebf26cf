"""Do packet sockets lose packets because their queue is full?"""

from collections.abc import Iterator
from typing import Final

from ..finding import Finding, note, ok, problem
from ..kernel.processes import Process, describe, owners, values_of
from ..kernel.sockets import PacketSocket
from ..sample import Sample
from .buffers import DEFAULT_RCVBUF

__all__ = ["check"]

NAME: Final = "sockets"
_FULL: Final = 0.9  # of the room in the queue


def check(before: Sample, after: Sample) -> Iterator[Finding]:
    drops = {sock.inode: sock.drops for sock in before.sockets}
    receiving = [sock for sock in after.sockets if sock.protocol]
    losing = [sock for sock in receiving if sock.drops or _is_full(sock)]
    processes = owners({sock.inode for sock in losing})
    for sock in losing:
        new = sock.drops - drops.get(sock.inode, 0)
        yield _finding(sock, new, processes)
    if not losing:
        yield ok(
            NAME,
            f"none of the {len(receiving)} packet sockets that receive here"
            " has lost a packet"
            if receiving
            else "no packet socket receives here",
            sockets=len(receiving),
        )


def _is_full(sock: PacketSocket) -> bool:
    return sock.queued >= _FULL * sock.room


def _finding(
    sock: PacketSocket, new: int, processes: dict[int, Process]
) -> Finding:
    found = problem if new or _is_full(sock) else note
    enough = max(sock.room, DEFAULT_RCVBUF)
    return found(
        NAME,
        f"a packet socket has lost {sock.drops:,} packets, {new:,} of them"
        f" just now; {sock.queued:,} of {sock.room:,} bytes of its queue are"
        f" in use: {describe(sock.inode, processes)}",
        "receive larger batches, reject packets by filter=, share them"
        f" (fanout=), or RawSocket(..., rcvbuf={enough})",
        socket=sock.inode,
        drops=sock.drops,
        drops_now=new,
        queued=sock.queued,
        room=sock.room,
        **values_of(processes.get(sock.inode)),
    )

"""BatchSession: a session of sniff() that takes whole batches."""

from collections.abc import Callable, Iterator
from typing import Any

from scapy.packet import Packet
from scapy.sessions import DefaultSession
from scapy.supersocket import SuperSocket

from .sockets import L2RawMmsgSocket


def _everything(_: bytes) -> bool:
    return True


class BatchSession(DefaultSession):
    """Gives sniff() all packets of a batch after one wait in select().

        sniff(session=BatchSession(lambda frame: frame[23] == 17), ...)

    `lfilter` sees the bytes of a frame before they are dissected, unlike
    sniff()'s argument of that name. A frame that it rejects is not made into a
    Packet and not counted. If it raises, the sniff of that socket ends, as
    with sniff()'s argument.

    If a sniff does not take a whole batch, the next sniff on the same socket
    gets the rest. Sockets of other classes give one packet at a time, all of
    them dissected; with `lfilter` they raise ValueError.

    To combine it with another session, pass `supersession=`, or derive a class
    with BatchSession as its first base:
    `class BatchIPSession(BatchSession, IPSession)`.
    """

    def __init__(
        self,
        lfilter: Callable[[bytes], object] | None = None,
        supersession: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(supersession=supersession, **kwargs)
        self._lfilter = lfilter

    def recv(self, sock: SuperSocket) -> Iterator[Packet]:
        if not isinstance(sock, L2RawMmsgSocket):
            if self._lfilter is not None:
                raise ValueError(
                    "BatchSession(lfilter) needs a socket of rawmmsg.scapy,"
                    f" not {sock!r}"
                )
            yield from super().recv(sock)
            return
        sock.inbox.fill()
        while sock.inbox.discard_until(self._lfilter or _everything):
            yield from super().recv(sock)

"""A session for sniff() that takes whole batches."""

from collections.abc import Callable, Iterator
from typing import Any

from scapy.packet import Packet
from scapy.sessions import DefaultSession
from scapy.supersocket import SuperSocket

from .sockets import L2RawMmsgSocket


def _everything(_: bytes) -> bool:
    return True


class BatchSession(DefaultSession):
    """Hands sniff() every packet of a batch for one wait in select().

        sniff(session=BatchSession(lambda frame: frame[23] == 17), ...)

    `lfilter`, unlike sniff()'s own, sees the bytes of a frame before it is
    dissected: one that it rejects costs no Packet, and is not counted.
    Anything it raises ends the sniff of that socket, as of sniff()'s own.

    What the sniff leaves of a batch, the next one on the same socket gets.
    Sockets of other makes give one packet at a time, all of them dissected:
    ValueError for an `lfilter` there.

    Mixes with other sessions: `supersession=`, or as the first base of a
    class, `class BatchIPSession(BatchSession, IPSession)`.
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
                raise ValueError(f"{sock!r} has no frames before dissection")
            yield from super().recv(sock)
            return
        sock.fill()
        while sock.discard_until(self._lfilter or _everything):
            yield from super().recv(sock)

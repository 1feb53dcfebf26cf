"""Sends frames merged into super-frames, and counts the frames.

An Outlet knows only the frames of a load. This sender keeps, beside the load,
a batch in whose rows consecutive frames are merged, and translates:

    frames of the load  ->  rows of the merged batch  ->  sendmmsg()
    frames that were sent  <-  rows that the kernel took

A single frame is sent from the load itself. So if the kernel does not take a
super-frame, the Outlet tries its frames one by one, and only those that the
kernel refuses are errors.
"""

import errno
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from weakref import WeakSet

from .. import GSO_UDP_L4, RawSocket
from .loads import Load
from .merging import Merged, Merger
from .sender import REFUSALS, Sender

_HEADER: Final = 14  # bytes of an Ethernet header

# Kinds of interfaces whose frames have an Ethernet header.
_ARPHRD_ETHER: Final = 1
_ARPHRD_LOOPBACK: Final = 772

_without_udp: Final[WeakSet[RawSocket]] = WeakSet()
"""The sockets on which the kernel has refused a super-frame of UDP."""


class _Tally(NamedTuple):
    """How many rows and frames had been sent before a call of sendmmsg(). The
    call is to send the rows from `row` on; row i begins with the frame
    starts[i]."""

    rows: int
    frames: int
    starts: Sequence[int] = (0,)
    row: int = 0


class MergingSender(Sender):
    """A Sender that merges the frames of each call.

    once  the same loads are sent again and again, all frames at once: each is
          merged once
    warn  is called once for a socket, if the kernel takes no super-frames of
          UDP
    """

    def __init__(
        self,
        sock: RawSocket,
        stopped: Callable[[], bool],
        report: Callable[[int], object] | None,
        *,
        once: bool,
        warn: Callable[[str], object],
    ) -> None:
        super().__init__(sock, stopped)
        _check(sock)
        self._report_frames = report
        self._warn = warn
        self._merger = Merger()
        self._merger.udp = sock not in _without_udp
        self._merged: Merged | None = None  # of the load
        self._kept: dict[Load, Merged] | None = {} if once else None
        self._single_until = 0  # frames of the load that are not merged
        self._tally = _Tally(0, 0)

    def take(self, load: Load) -> None:
        super().take(load)
        self._merger.max_length = (self._sock.mtu or 0) + _HEADER
        self._merged, self._single_until = None, 0
        if self._kept is not None:
            if load not in self._kept:
                self._kept[load] = self._merger.merge_all(load)
            self._merged = self._kept[load]

    def _count_sent(self) -> int:
        more = super()._count_sent() - self._tally.rows
        _, frames, starts, row = self._tally
        return frames + starts[row + more] - starts[row]

    def send(self, first: int, last: int) -> int:
        starts, row, end = self._choose(first, last)
        rows, frames, *_ = self._tally
        self._tally = _Tally(rows, frames, starts, row)
        try:
            taken = super().send(row, end)
        except OSError as error:
            if (
                error.errno not in REFUSALS
                or starts[row + 1] - starts[row] == 1
            ):
                raise
            self._cut(row, starts[row + 1], error)
            return 0
        sent = starts[row + taken] - starts[row]
        self._tally = _Tally(rows + taken, frames + sent)
        if self._report_frames is not None:
            self._report_frames(sent)
        return sent

    def _choose(self, first: int, last: int) -> tuple[Sequence[int], int, int]:
        """Chooses the batch to send from for these frames of the load. Returns
        where its rows begin in the load, and the rows to send."""
        load = self.load
        if first < self._single_until:
            last = min(last, self._single_until)
        elif last - first > 1:
            merged = self._merged
            if merged is None or not (
                merged.starts[0] <= first < merged.starts[-1]
            ):
                merged = self._merged = self._merger.merge(load, first, last)
            starts = merged.starts
            row = bisect_left(starts, first)
            end = bisect_right(starts, last) - 1
            if starts[row] == first and row < end:
                self._batch = merged.batch
                return starts, row, end
            # Some frames of this row have been sent alone, or not all of them
            # are to be sent.
            last = min(last, starts[bisect_right(starts, first)])
        self._batch = load.batch
        return range(load.frames + 1), first, last

    def _cut(self, row: int, end: int, error: OSError) -> None:
        """Sends the frames of this super-frame, which end before `end`, as
        they are."""
        kind = self._batch.gso_types[row]
        if kind != GSO_UDP_L4 or error.errno != errno.EINVAL:
            self._single_until = end
            return
        # Linux before 6.2 does not have this type of super-frame
        # (include/linux/virtio_net.h:virtio_net_hdr_to_skb()).
        self._merger.udp, self._merged = False, None
        if self._kept is not None:
            self._kept.clear()
        if self._sock not in _without_udp:
            _without_udp.add(self._sock)
            self._warn(
                "the kernel refuses super-frames of UDP on"
                f" {self._sock.interface} (Linux 6.2 and later accept them):"
                " datagrams of UDP are sent one by one, and only TCP is merged"
            )


def _check(sock: RawSocket) -> None:
    if not sock.vnet_hdr:
        where = f'"{sock.interface}"' if sock.interface else "..."
        raise ValueError(
            "merge=True needs a packet socket with offload headers:"
            f" RawSocket({where}, protocol=0, vnet_hdr=True)"
        )
    if sock.link_type not in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK):
        kind = f"not link type {sock.link_type}"
        if sock.interface is None:
            kind = "and the socket is not bound to an interface"
        raise ValueError(
            f"merge=True needs an interface with Ethernet frames, {kind}"
        )

"""The far side of a veth pair, for contenders that only send: it counts every
frame and keeps one of each batch, at the same small cost for every sender. (A
frame that is kept costs the sender more than one that is thrown away, because
its memory is not free again at once; and a queue that keeps all is soon full.)
"""

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rawmmsg import PacketBatch, RawSocket, bpf
from rawmmsg.testing import Veth

from .contender import AgainError, GroundTruthError
from .link import HEADER, NUMBERS, PATIENCE

_KEPT_AT_ONCE: Final = 256

# The most that the kernel accounts for a frame of up to 1,500 bytes.
_MEMORY_OF_FRAME: Final = 2560

# The offset of a frame's number in its batch.
_NUMBER_AT: Final = len(HEADER) + NUMBERS.size - 4


class FarSide(contextlib.ExitStack):
    """Whatever arrives at `veth.b`. A context manager."""

    def __init__(self, veth: Veth) -> None:
        super().__init__()
        self._veth = veth
        self._sock = self.enter_context(
            RawSocket(veth.b, vlan=False, filter="less 0")
        )
        self._batch = PacketBatch(_KEPT_AT_ONCE)
        self._numbers = itertools.count(1)
        self._arrived = 0
        self._dropped = 0

    def expect(self, number: int | None) -> None:
        """Starts to count. Keeps the frames with this number in their batch,
        or all frames."""
        self._sock.attach_filter(
            ""
            if number is None
            else bpf.compile(f"ether[{_NUMBER_AT}:4] = {number}")
        )
        self._arrived, self._dropped = self._counts()

    def check(self, times: int, batch: int, kept: Sequence[bytes]) -> None:
        """Checks that `batch` frames have arrived `times` times since
        expect(), and that those to keep were `kept`, each time.

        Raises AgainError if the kernel's queue between the ends was full
        (net.core.netdev_max_backlog), which is not the sender's fault.
        """
        if self.has_dropped():
            raise AgainError
        arrived = self._counts()[0] - self._arrived
        if arrived != times * batch:
            raise GroundTruthError(
                f"{times * batch} frames sent, {arrived} arrived"
            )
        received = self._receive(times * len(kept))
        if received != list(kept) * times:
            raise GroundTruthError(
                f"of {times * len(kept)} frames to keep, {len(received)}"
                " arrived, or they were changed"
            )

    def timed(
        self,
        packets: Sequence[bytes],
        times: int,
        send: Callable[[], float | None],
        *,
        keep_all: bool = False,
    ) -> float:
        """Calls `send`, which sends the packets `times` times, and checks that
        they arrived unchanged: all of them, or one of each batch.

        Returns the nanoseconds that it took, or that `send` says it took.
        """
        kept = None if keep_all else next(self._numbers) % len(packets)
        self.expect(kept)
        begin = time.perf_counter_ns()
        try:
            said = send()
        except Exception as error:
            # Each sender has its own exception for ENOBUFS.
            if self.has_dropped():
                raise AgainError from error
            raise
        taken = time.perf_counter_ns() - begin
        sample = packets if kept is None else [packets[kept]]
        self.check(times, len(packets), sample)
        return taken if said is None else said

    def has_dropped(self) -> bool:
        """Whether that queue has been full since expect()."""
        return self._counts()[1] != self._dropped

    @property
    def capacity(self) -> int:
        """How many frames it can keep before they are checked."""
        room = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return room // _MEMORY_OF_FRAME

    def _receive(self, count: int) -> list[bytes]:
        """Waits for `count` frames; takes more if they are there already."""
        received: list[bytes] = []
        self._sock.settimeout(PATIENCE)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            while True:
                if len(received) >= count:
                    self._sock.settimeout(0)
                self._sock.recvmmsg_into(self._batch)
                received += self._batch.tolist()
        return received

    def _counts(self) -> tuple[int, int]:
        """Frames that arrived at the far side, and frames that the pair
        dropped, which it counts at the sending end
        (drivers/net/veth.c:veth_xmit())."""
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        rows = dict(line.split(":") for line in lines[2:])
        fields = {name.strip(): row.split() for name, row in rows.items()}
        return int(fields[self._veth.b][1]), int(fields[self._veth.a][11])

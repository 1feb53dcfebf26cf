"""The far side of a veth pair, for contenders that only send: it counts every
frame and keeps one of each batch, at the same small cost for every sender. (A
frame that is kept costs the sender more than one that is thrown away, because
its memory is not free again at once; and a queue that keeps all is soon full.)
Super-frames are counted as they arrive, and cut again where they are kept.
"""

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket, bpf
from rawmmsg.testing import Veth

from .contender import AgainError, GroundTruthError
from .link import HEADER, NUMBERS, PATIENCE

_KEPT_AT_ONCE: Final = 256

# The most that the kernel accounts for a frame of up to 1,500 bytes, and for
# a super-frame in addition to its bytes.
_MEMORY_OF_FRAME: Final = 2560
_MEMORY_OF_SUPER_FRAME: Final = 4096


class FarSide(contextlib.ExitStack):
    """Whatever arrives at `veth.b`. The frames have a header of so many bytes
    and then their numbers. With `vnet_hdr` it receives super-frames, too. A
    context manager."""

    def __init__(
        self,
        veth: Veth,
        header: int = len(HEADER),
        *,
        vnet_hdr: bool = False,
        rcvbuf: int | None = None,
    ) -> None:
        super().__init__()
        self._veth = veth
        self._header = header
        self._sock = self.enter_context(
            RawSocket(
                veth.b,
                vlan=False,
                vnet_hdr=vnet_hdr,
                filter="less 0",
                rcvbuf=rcvbuf,
            )
        )
        self._batch = PacketBatch(_KEPT_AT_ONCE)
        self._super_frames = (
            PacketBatch(_KEPT_AT_ONCE, SUPER_FRAME) if vnet_hdr else None
        )
        self._numbers = itertools.count(1)
        self._before = self._counts()

    def expect(self, number: int | None) -> None:
        """Starts to count. Keeps the frames with this number in their batch,
        or all frames."""
        at = self._header + NUMBERS.size - 4
        self._sock.attach_filter(
            "" if number is None else bpf.compile(f"ether[{at}:4] = {number}")
        )
        self._before = self._counts()

    def check(self, frames: int, size: int, kept: Sequence[bytes]) -> None:
        """Checks that so many frames and bytes have arrived since expect(),
        and that those to keep were `kept`, in order.

        Raises AgainError if the kernel's queue between the ends was full
        (net.core.netdev_max_backlog), which is not the sender's fault.
        """
        if self.has_dropped():
            raise AgainError
        arrived = self.arrived()
        if arrived != (frames, size):
            raise GroundTruthError(
                f"{frames} frames of {size} bytes sent, {arrived[0]} of"
                f" {arrived[1]} bytes arrived"
            )
        received = self._receive(len(kept))
        if received != list(kept):
            raise GroundTruthError(
                f"of {len(kept)} frames to keep, {len(received)}"
                " arrived, or they were changed"
            )

    def timed(
        self,
        packets: Sequence[bytes],
        times: int,
        send: Callable[[], float | None],
        *,
        joined: int = 1,
        keep_all: bool = False,
    ) -> float:
        """Calls `send`, which sends the packets `times` times, with up to
        `joined` of them in a super-frame, and checks that they arrived
        unchanged: all of them, or one (super-)frame of each batch.

        Returns the nanoseconds that it took, or that `send` says it took.
        """
        frames = -(-len(packets) // joined)
        first = next(self._numbers) % frames * joined
        self.expect(None if keep_all else first)
        begin = time.perf_counter_ns()
        try:
            said = send()
        except Exception as error:
            # Each sender has its own exception for ENOBUFS.
            if self.has_dropped():
                raise AgainError from error
            raise
        taken = time.perf_counter_ns() - begin
        # A super-frame has the header of its first packet.
        size = sum(map(len, packets)) - self._header * (len(packets) - frames)
        kept = packets if keep_all else packets[first : first + joined]
        self.check(times * frames, times * size, [*kept] * times)
        return taken if said is None else said

    def arrived(self) -> tuple[int, int]:
        """The frames and bytes that have arrived since expect()."""
        now, before = self._counts(), self._before
        return now[0] - before[0], now[1] - before[1]

    def has_dropped(self) -> bool:
        """Whether that queue has been full since expect()."""
        return self._counts()[2] != self._before[2]

    @property
    def capacity(self) -> int:
        """How many frames it can keep before they are checked."""
        return self._room // _MEMORY_OF_FRAME

    def super_frames(self, size: int) -> int:
        """How many super-frames of this size it can keep."""
        return self._room // (size + _MEMORY_OF_SUPER_FRAME)

    @property
    def _room(self) -> int:
        return self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def _receive(self, count: int) -> list[bytes]:
        """Waits for `count` frames; takes more if they are there already."""
        received: list[bytes] = []
        self._sock.settimeout(PATIENCE)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            while True:
                if len(received) >= count:
                    self._sock.settimeout(0)
                received += self._received()
        return received

    def _received(self) -> list[bytes]:
        """One call's frames; super-frames have been cut."""
        if self._super_frames is None:
            self._sock.recvmmsg_into(self._batch)
            return self._batch.tolist()
        self._sock.recvmmsg_into(self._super_frames)
        frames: list[bytes] = []
        at = (0, 0)
        while at[0] < len(self._super_frames):
            at = self._super_frames.segment_into(self._batch, *at)
            frames += self._batch.tolist()
        return frames

    def _counts(self) -> tuple[int, int, int]:
        """Frames and bytes that arrived at the far side, and frames that the
        pair dropped, which it counts at the sending end
        (drivers/net/veth.c:veth_xmit())."""
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        rows = dict(line.split(":") for line in lines[2:])
        fields = {name.strip(): row.split() for name, row in rows.items()}
        size, frames = map(int, fields[self._veth.b][:2])
        return frames, size, int(fields[self._veth.a][11])

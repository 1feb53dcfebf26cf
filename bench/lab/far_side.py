"""The far side of a veth pair, for those who only send: it counts every frame
and receives a sample, at the same small price for whoever sends.

Frames that somebody keeps cost the sender more than those that are thrown
away, for their memory is not at once there again; and a queue of them is soon
full. So the far side keeps one frame of each batch.
"""

import contextlib
import socket
import struct
from pathlib import Path
from typing import Final, Self

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

from .contender import GroundTruthError
from .link import HEADER, NUMBERS, PATIENCE

_KEPT_AT_ONCE: Final = 256

# What the kernel accounts for a frame of up to 1,500 bytes, at most.
_MEMORY_OF_FRAME: Final = 2560

# <linux/bpf_common.h>, <linux/filter.h>: struct sock_filter
_INSTRUCTION: Final = struct.Struct("HBBI")
_LOAD_WORD: Final = 0x20
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_ALL_BYTES: Final = 0x40000

# Where a frame has its number in the batch.
_NUMBER_AT: Final = len(HEADER) + NUMBERS.size - 4


class FarSide:
    """What arrives at `veth.b`. A context manager."""

    def __init__(self, veth: Veth) -> None:
        self._veth = veth
        self._sock = RawSocket(veth.b, vlan=False, filter=_nothing())
        self._batch = PacketBatch(_KEPT_AT_ONCE)
        self._arrived = 0
        self._dropped = 0

    def expect(self, number: int | None) -> None:
        """From now on: counts, and keeps the frames of this number in their
        batch, or all of them."""
        self._sock.attach_filter(
            _everything() if number is None else _numbered(number)
        )
        self._arrived, self._dropped = self._counts()

    def check(self, rounds: int, batch: int, kept: list[bytes]) -> bool:
        """Asserts that `batch` frames have come `rounds` times since expect(),
        and that those to be kept were `kept`, each time.

        False where the kernel's own queue between the ends was full
        (net.core.netdev_max_backlog), which is no fault of who sends.
        """
        if self.has_dropped():
            return False
        arrived, _ = self._counts()
        if arrived - self._arrived != rounds * batch:
            raise GroundTruthError(
                f"{rounds * batch} frames sent, {arrived - self._arrived} came"
            )
        received = self._receive(rounds * len(kept))
        if received != kept * rounds:
            raise GroundTruthError(
                f"of {rounds * len(kept)} frames that were to be kept,"
                f" {len(received)} came, or not as they were sent"
            )
        return True

    def has_dropped(self) -> bool:
        """Whether that queue was full since expect()."""
        _, dropped = self._counts()
        return dropped != self._dropped

    @property
    def capacity(self) -> int:
        """Frames that it can keep before they are checked."""
        room = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return room // _MEMORY_OF_FRAME

    def close(self) -> None:
        self._sock.close()

    def _receive(self, count: int) -> list[bytes]:
        """Waits for `count` frames; more of them only where they are there
        already."""
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
        """Frames that came to the far side; and that the pair dropped on
        their way, which it counts where they were sent
        (drivers/net/veth.c:veth_xmit())."""
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        rows = dict(line.split(":") for line in lines[2:])
        fields = {name.strip(): row.split() for name, row in rows.items()}
        return int(fields[self._veth.b][1]), int(fields[self._veth.a][11])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _nothing() -> bytes:
    return _INSTRUCTION.pack(_RETURN, 0, 0, 0)


def _everything() -> bytes:
    return _INSTRUCTION.pack(_RETURN, 0, 0, _ALL_BYTES)


def _numbered(number: int) -> bytes:
    return b"".join(
        [
            _INSTRUCTION.pack(_LOAD_WORD, 0, 0, _NUMBER_AT),
            _INSTRUCTION.pack(_JUMP_IF_EQUAL, 0, 1, number),
            _everything(),
            _nothing(),
        ]
    )

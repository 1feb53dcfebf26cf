"""The memory of a guest, by vhost-user."""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from ..._rawmmsg import PacketBatch, _GuestRings
from ...vhost import ConnectingServer, Feature, ListeningServer, Server
from .. import filters
from ..drops import Dropped
from .paths import Access, OwnPath, check_path
from .port import Port

__all__ = ["GuestOptions", "VhostUser"]

# What a guest takes is limited by its buffers. 65,535 bytes are the longest IP
# packet.
_LONGEST_PACKET: Final = 65535

_TAKES_MERGED: Final = Feature.GUEST_TSO4 | Feature.GUEST_TSO6

_RINGS: Final = (
    (0, "frames to the guest are dropped"),
    (1, "the guest's frames are not read any more"),
)


def _keep_quiet(_: str) -> None:
    """Prints nothing."""


@dataclass(frozen=True)
class GuestOptions:
    """`report` is called with a problem, `notice` with other news.
    `trust_memory`: accept memory that another program could shrink. `batch`:
    frames of one system call."""

    report: Callable[[str], object] = _keep_quiet
    notice: Callable[[str], object] = _keep_quiet
    trust_memory: bool = False
    batch: int = 64


class VhostUser(Port):
    """vhost-user:PATH: front ends connect to PATH, or, if `connects`, we
    connect to the front end that listens there."""

    def __init__(
        self,
        name: str,
        path: str,
        connects: bool,
        access: Access,
        options: GuestOptions,
    ) -> None:
        super().__init__(name)
        check_path(name, path)
        self.path = path
        self.connects = connects
        self._options = options
        self._opened = ExitStack()
        self._own_path = OwnPath(path, access)
        self._is_broken = [False, False]
        self._is_closing = False
        self._no_frames = PacketBatch(1, 1)
        self.rings: _GuestRings
        self._server: Server

    def open(self, expression: str | None) -> None:
        program = filters.for_datagrams(expression)
        self.rings = _GuestRings(batch=self._options.batch, filter=program)
        with ExitStack() as opened:
            self._server = self._serve(opened)
            self._opened = opened.pop_all()
        self.recvmmsg_into = self.rings.recvmmsg_into
        self.sendmmsg = self.rings.sendmmsg

    def _serve(self, opened: ExitStack) -> Server:
        trust = self._options.trust_memory
        if self.connects:
            connecting = ConnectingServer(
                self.path,
                self.rings,
                self._report,
                notice=self._notice,
                trust_memory=trust,
            )
            opened.callback(connecting.close)
            return connecting
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening = ListeningServer(
            listener,
            self.rings,
            self._report,
            notice=self._notice,
            trust_memory=trust,
        )
        opened.callback(listening.close)
        self._own_path.bind(listener)
        # Before the listener is closed: then another file could get the
        # number of its inode.
        opened.callback(self._own_path.unlink)
        listener.listen()
        return listening

    def close(self) -> None:
        self._is_closing = True
        self._opened.close()

    def _report(self, text: str) -> None:
        self._options.report(f"{self.name}: {text}")

    def _notice(self, text: str) -> None:
        if not self._is_closing:
            self._options.notice(f"{self.name}: {text}")

    def is_same(self, other: Port) -> bool:
        return isinstance(other, VhostUser) and (
            os.path.realpath(self.path) == os.path.realpath(other.path)
        )

    def missing(self) -> str | None:
        if self._server.session is not None:
            return None
        return self._server.missing()

    def tend(self) -> bool:
        for index, consequence in _RINGS:
            why = self.rings.broken(index)
            was_broken = self._is_broken[index]
            self._is_broken[index] = why is not None
            if why is not None and not was_broken:
                self._server.report(
                    f"{why}; {consequence} until its network card or the"
                    " virtual machine is started again"
                )
        return self._server.tend()

    # What kind of port it is

    @property
    def is_guest(self) -> bool:
        return True

    @property
    def has_offloads(self) -> bool:
        return True

    @property
    def takes_super_frames(self) -> bool:
        return True

    @property
    def mtu(self) -> int:
        """0 for a guest that takes no super-frames: nothing is merged for
        it."""
        session = self._server.session
        if session is None or not session.features & _TAKES_MERGED:
            return 0
        return session.mtu or _LONGEST_PACKET

    # Waiting

    @property
    def readers(self) -> Mapping[int, Callable[[], bool]]:
        return self._server.readers

    def look_again(self) -> bool:
        return self.rings.ask_for_kick(1)

    def room_descriptor(self) -> int:
        return -1

    def bytes_queued(self) -> int:
        return 0

    # Counters

    @property
    def received(self) -> int:
        return self._count("received")

    @property
    def bytes_received(self) -> int:
        return self._count("received_bytes")

    @property
    def bytes_taken(self) -> int:
        """Bytes of frames that were received from a socket for the guest."""
        return self._count("taken_bytes")

    @property
    def batches(self) -> int:
        return self._count("batches")

    @property
    def sent(self) -> int:
        return self._count("sent")

    @property
    def cut(self) -> int:
        return self._count("cut")

    def _count(self, name: str) -> int:
        return self.rings.statistics()[name]

    def dropped_received(self) -> Dropped:
        counts = self.rings.statistics()
        return Dropped(
            too_long=counts["too_long"],
            malformed=counts["malformed"],
            link_down=counts["disabled"],
        )

    def dropped_sent(self) -> Dropped:
        counts = self.rings.statistics()
        return Dropped(
            too_long=counts["no_room"],
            malformed=counts["bad"],
            link_down=counts["missed"],
        )

    def send_held(self) -> None:
        """Sends frames that `sendmmsg` has taken, but that wait for
        buffers."""
        self.rings.sendmmsg(self._no_frames)

    def finish(self) -> None:
        self.rings.stop(0)

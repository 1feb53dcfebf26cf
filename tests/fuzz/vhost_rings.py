"""What a port does with a guest's rings: it moves frames between them and a
packet socket, or a batch. And rings that only look at what a session says."""

import errno
import random
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from support.datagrams import TCP, UDP, Datagram, add, columns, data
from support.front_end import RecordedRings
from vhost_guest import Guest

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket, bpf
from rawmmsg._rawmmsg import _GuestRings
from rawmmsg.testing import veth_pair
from rawmmsg.vhost import MappedRegion

_FILTERS: Final = (None, None, "ip", "ip[ip[0] - 60] = 0x45", "greater 100")
_REFUSED: Final = (
    *(errno.EAGAIN, errno.EINVAL, errno.EMSGSIZE, errno.ENOBUFS),
    *(errno.EFAULT, errno.EIO, errno.ENOMEM),
)
"""Errors about a frame."""
_CAPACITY: Final = 16


class Recorded(RecordedRings):
    """Rings that reject some addresses and tables."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self._draw = draw

    def set_memory(self, regions: Sequence[MappedRegion]) -> None:
        if not regions:
            self.reason = ""
        super().set_memory(regions)

    def work(self) -> None:
        self.has_buffers = self._draw.random() < 0.5
        self.reason = "a reason" * (not self._draw.randrange(20))

    def rest(self) -> None:
        """From now on, no kick is for a buffer."""
        self.has_buffers = False
        self.reason = ""

    def check(self) -> None:
        """No guest is connected."""
        assert not self.running
        assert not self.memory

    def check_guest(self, guests: Sequence[Guest]) -> None:
        """A good guest is connected."""
        assert self.running == {0, 1}


class Port:
    """Rings with an interface."""

    def __init__(self, draw: random.Random, opened: ExitStack) -> None:
        self._draw = draw
        expression = draw.choice(_FILTERS)
        self._filtered = expression is not None
        self.rings = _GuestRings(
            draw.choice([1, 2, 16, 64]),
            None if expression is None else bytes(bpf.compile(expression)),
        )
        pair = opened.enter_context(veth_pair())
        self._sock = RawSocket(
            pair.a,
            vnet_hdr=12 if draw.randrange(2) else True,
            ignore_outgoing=True,
        )
        self._peer = RawSocket(pair.b, vnet_hdr=True, protocol=0)
        for sock in (self._sock, self._peer):
            opened.enter_context(sock)
            sock.setblocking(False)
        self._batch = PacketBatch(_CAPACITY, SUPER_FRAME)

    def work(self) -> None:
        """One call of a random method."""
        try:
            self._draw.choice(
                [
                    self._send,
                    self._send,
                    self._receive,
                    self._receive,
                    self._copy,
                    self._put,
                    self._arrive,
                    self._ask,
                ]
            )()
        except OSError as error:
            assert error.errno in _REFUSED, error
        except ValueError as error:
            # An offload header that does not fit its frame.
            assert str(error).startswith("packet "), error

    def rest(self) -> None:
        """Nothing to do: kicks are for buffers only if there are any."""

    def check_guest(self, guests: Sequence[Guest]) -> None:
        """A good guest is connected: frames go in both directions."""
        receiver, sender = guests
        sender.add_good()
        sent = self.rings.statistics()
        assert self.rings.send(self._sock) == 1 or self._filtered
        assert self.rings.pending == 0
        receiver.add_good()
        self._batch.clear()
        self._batch.append(bytes(60))
        assert self.rings.sendmmsg(self._batch) == 1
        assert self.rings.statistics()["sent"] == sent["sent"] + 1
        assert self.rings.broken(0) is self.rings.broken(1) is None

    def check(self) -> None:
        """Nothing is held when no guest is connected."""
        assert not self.rings.pending
        assert not self.rings.is_full
        for index in range(2):
            assert not self.rings.is_ready(index)
            assert self.rings.broken(index) is None
        self._check_counters()

    def _send(self) -> None:
        try:
            self.rings.send(self._sock)
        except OSError as error:
            before = self.rings.pending
            assert before, "an error without a frame"
            if error.errno != errno.EAGAIN:
                self.rings.refuse()
                assert self.rings.pending == before - 1
            raise

    def _receive(self) -> None:
        received = self.rings.receive(self._sock)
        assert received or self.rings.is_full or self.rings.broken(0)

    def _copy(self) -> None:
        """From the guest to a batch, and perhaps to the guest again."""
        count = self.rings.recvmmsg_into(self._batch)
        assert len(self._batch) == count
        if self._draw.randrange(2):
            self._give()

    def _put(self) -> None:
        self._fill()
        self._give()

    def _arrive(self) -> None:
        """Frames arrive at the interface."""
        self._fill()
        self._peer.sendmmsg(self._batch)

    def _ask(self) -> None:
        for index in range(2):
            more = self.rings.ask_for_kick(index)
            assert not (more and self.rings.broken(index))
        self._check_counters()

    def _give(self) -> None:
        start = self._draw.randrange(len(self._batch) + 1)
        self.rings.sendmmsg(self._batch, start)

    def _fill(self) -> None:
        """Frames that are often right."""
        draw = self._draw
        self._batch.clear()
        for _ in range(draw.randrange(_CAPACITY + 1)):
            size = draw.choice([1, 100, 1400, 9000, 60000])
            datagram = Datagram(
                data(size), draw.choice([TCP, UDP]), draw.choice([4, 6])
            )
            segment = draw.choice([0, 1400, size // 40 + 1])
            add(self._batch, datagram, segment if segment < size else 0)
        if draw.randrange(4) or not len(self._batch):
            return
        i = draw.randrange(len(self._batch))
        name = draw.choice([*columns(self._batch)])
        value = draw.choice([0, 1, 2, 3, 14, 34, 255])
        columns(self._batch)[name][i] = value
        self._batch.lengths[i] = draw.choice([0, 1, 13, 14, 60, SUPER_FRAME])

    def _check_counters(self) -> None:
        counters = self.rings.statistics()
        for name, value in counters.items():
            # A frame may be cut into one segment.
            assert 0 <= value < 2**40, f"{name}: {value}"
        lost = ("malformed", "too_long", "disabled")
        assert counters["received"] >= sum(counters[name] for name in lost)

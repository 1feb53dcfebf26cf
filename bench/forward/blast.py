"""Small frames sent as fast as possible through a switch that has a CPU of its
own.

    ends ------- veth pairs ------- ports of the switch

The sender stays ahead of the switch, whose queues are full, so the frames that
arrive at the far end tell how many the switch can forward.
"""

import contextlib
import ctypes
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import veth_pair

from ..lab import cpus, native
from ..lab.contender import AgainError, GroundTruthError, Ready, Slice
from ..lab.link import NUMBERS, Frames
from .hosts import PATIENCE
from .switches import Pids, Switch

BATCH: Final = 64
# Seconds until the queues are full, and the switch knows the stations.
WARM_UP: Final = 0.02
# Seconds without a frame after which none is left in the switch.
_CALM: Final = 0.02

_MOST_TIMES: Final = 1024

_ETHERTYPE: Final = b"\x88\xb5"  # for local experiments
# One frame in 64 is kept: at another index of the batch each time.
_KEPT: Final = "(ether[20:2] >> 6) & 63 = ether[21] & 63"


def station(side: int, number: int = 0) -> bytes:
    """A locally administered address."""
    return bytes((2, 0, side, 0, 0, number))


_marks = itertools.count(1)  # each stream has its own in all its frames

# Its last four bytes are replaced.
_STRANGER: Final = bytes((6, 0, 0, 0, 0, 0))


class _Stream(ctypes.Structure):
    """struct stream"""

    _fields_ = (
        ("first", ctypes.c_void_p),
        ("stride", ctypes.c_size_t),
        ("size", ctypes.c_size_t),
        ("sent", ctypes.c_uint64),
        ("interval_ns", ctypes.c_uint64),
        ("fd", ctypes.c_int),
        ("frames", ctypes.c_uint),
        ("has_new_sources", ctypes.c_int),
        ("first_source", ctypes.c_uint32),
    )


class Stream:
    """Numbered frames of `size` bytes that are sent by `sock`, a batch of
    `count` a call: frame i from station i of the side `source` to station i of
    the side `sink`, of `stations` stations.

    `per_second`: so many calls, or as many as possible. `first_source`: each
    frame comes from another station, numbered from here on.
    """

    def __init__(
        self,
        sock: RawSocket,
        size: int,
        sides: tuple[int, int],
        *,
        stations: int = 1,
        count: int = BATCH,
        per_second: float | None = None,
        first_source: int | None = None,
    ) -> None:
        source, sink = sides
        self.stations = stations
        self.last_kept = 0  # the number of the last frame that was compared
        self.mark = next(_marks) << 16
        body = bytes(i & 0xFF for i in range(size - 14 - NUMBERS.size))

        def make(_: int, i: int) -> bytes:
            which = i % stations
            sender = (
                station(source, which) if first_source is None else _STRANGER
            )
            header = station(sink, which) + sender + _ETHERTYPE
            return header + NUMBERS.pack(0, self.mark | i) + body

        self._frames = Frames(count, size, make=make)
        self.packets = self._frames.packets
        self.raw = _Stream(
            *(self._frames.address(self._frames.out), self._frames.stride),
            *(size, 0, int(1e9 / per_second) if per_second else 0),
            *(
                sock.fileno(),
                count,
                first_source is not None,
                first_source or 0,
            ),
        )

    @property
    def sent(self) -> int:
        """Frames sent until now."""
        return int(self.raw.sent)


def run(streams: Sequence[Stream], seconds: float) -> float:
    """Sends; returns the seconds that it took."""
    raw = (_Stream * len(streams))(*(one.raw for one in streams))
    taken = ctypes.c_uint64()
    ns = ctypes.c_uint64(int(seconds * 1e9))
    send = native.library("forward/blast.c").blast_run
    done = send(raw, len(streams), ns, ctypes.byref(taken))
    native.succeeded(done, "forward/blast.c")
    for one, after in zip(streams, raw, strict=True):
        one.raw.sent = after.sent
    return taken.value / 1e9


class End(contextlib.ExitStack):
    """The end of a link: it counts what arrives, and keeps one frame in 64. A
    context manager."""

    def __init__(self, interface: str) -> None:
        super().__init__()
        self.interface = interface
        # protocol=0: it does not receive what it sends
        self.tx = self.enter_context(RawSocket(interface, protocol=0))
        self._rx = self.enter_context(
            RawSocket(interface, filter=_KEPT, ignore_outgoing=True)
        )
        self._rx.setblocking(False)
        self._batch = PacketBatch(256)

    def arrived(self) -> int:
        """Frames that have arrived until now."""
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        rows = dict(line.split(":") for line in lines[2:])
        fields = {name.strip(): row.split() for name, row in rows.items()}
        return int(fields[self.interface][1])

    def check(self, stream: Stream) -> None:
        """Checks that the frames kept since the last call are those of the
        stream, unchanged and in order."""
        for frame in self._kept():
            number, index = NUMBERS.unpack_from(frame, 14)
            index ^= stream.mark
            if index >= len(stream.packets):
                continue  # of another stream
            expected = stream.packets[index]
            if not stream.last_kept < number <= stream.sent:
                raise GroundTruthError(
                    f"frame {number} came after frame {stream.last_kept}; "
                    f"{stream.sent} frames were sent"
                )
            if frame[:14] + frame[22:] != expected[:14] + expected[22:]:
                raise GroundTruthError(f"frame {number} was changed")
            stream.last_kept = number

    def _kept(self) -> list[bytes]:
        frames: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                self._rx.recvmmsg_into(self._batch)
                frames += self._batch.tolist()
        return frames


@dataclass(frozen=True)
class Place:
    """The CPUs of the sender and of the switches, the size of the frames, and
    how long they are sent. All switches run at once, each between links of its
    own; those that have nothing to do sleep."""

    stack: contextlib.ExitStack
    senders_cpu: int
    switches_cpu: int
    size: int
    seconds: float


@dataclass
class Flow:
    """A stream between two ends."""

    stream: Stream
    source: End
    sink: End

    def introduce(self) -> None:
        """Tells the switch where the stations are: each one at the sink sends
        to one at the source."""
        answers = [
            packet[6:12] + packet[:6] + packet[12:]
            for packet in self.stream.packets[: self.stream.stations]
        ]
        wanted, times = self.source.arrived() + len(answers), 1
        deadline = time.monotonic() + PATIENCE
        # More and more, because a switch that has just started may lose some,
        # and vde_pcapplug waits for many.
        while self.source.arrived() < wanted:
            if time.monotonic() > deadline:
                raise GroundTruthError("the switch forwards nothing")
            self.sink.tx.sendmmsg_all(answers * times)
            times = min(2 * times, _MOST_TIMES)
            time.sleep(_CALM)


@dataclass
class Loaded:
    """A switch between links."""

    place: Place
    switch: Switch
    links: int = 2
    taps: Sequence[str] = ()  # of the switch, which are the ends
    pids: Pids = field(init=False)
    ends: Sequence[End] = field(init=False)

    def __post_init__(self) -> None:
        keep = self.place.stack.enter_context
        ends = ports = list(self.taps)
        if not self.taps:
            pairs = [keep(veth_pair()) for _ in range(self.links)]
            ends, ports = [one.a for one in pairs], [one.b for one in pairs]
        with cpus.pinned(self.place.switches_cpu):
            self.pids = keep(self.switch(*ports))
        self.ends = [keep(End(one)) for one in ends]

    def flow(self, source: int, sink: int, stations: int = 1) -> Flow:
        """Frames from the end with this number to another one."""
        a, b = self.ends[source], self.ends[sink]
        sides = source, sink
        size = self.place.size
        return Flow(Stream(a.tx, size, sides, stations=stations), a, b)

    def run(self, flows: Sequence[Flow], *others: Stream) -> Slice:
        """Million frames of the flows that are forwarded per second, while
        the other streams are sent, too."""
        for flow in flows:
            flow.introduce()
        result: list[Slice] = []

        def send(_: object) -> None:
            streams = [*(flow.stream for flow in flows), *others]
            run(streams, WARM_UP)
            before = self._counts(flows, others)
            seconds = run(streams, self.place.seconds)
            after = self._counts(flows, others)
            sent, arrived, used = (
                new - old for new, old in zip(after, before, strict=True)
            )
            extra = {"sent, Mpps": sent / seconds / 1e6}
            if self.pids:
                extra["switch's CPU, ns"] = used / max(arrived, 1)
            rate = arrived / seconds / 1e6
            result.append(Slice(rate, seconds * 1e9, extra))

        with cpus.elsewhere(self.place.senders_cpu, send):
            pass
        self._calm_down(flows)
        for flow in flows:
            flow.sink.check(flow.stream)
        if not result[0].figure:
            raise AgainError  # vde_pcapplug stops forwarding at times
        return result[0]

    def _counts(
        self, flows: Sequence[Flow], others: Sequence[Stream]
    ) -> tuple[int, int, int]:
        """Frames of the flows sent, and arrived; nanoseconds of the CPU. All
        frames of the other streams count as arrived at each sink, so that too
        few, rather than too many, frames of the flows are counted."""
        flooded = len(flows) * sum(one.sent for one in others)
        return (
            sum(flow.stream.sent for flow in flows),
            sum(flow.sink.arrived() for flow in flows) - flooded,
            sum(cpus.used_ns(pid) for pid in self.pids),
        )

    def _calm_down(self, flows: Sequence[Flow]) -> None:
        """Waits until no frame is on its way."""
        deadline = time.monotonic() + PATIENCE
        now, before = [flow.sink.arrived() for flow in flows], [-1]
        while now != before:
            time.sleep(_CALM)
            now, before = [flow.sink.arrived() for flow in flows], now
            if time.monotonic() > deadline:
                raise GroundTruthError("frames still come out of the switch")


def through(
    switch: Switch, *, taps: Sequence[str] = ()
) -> Callable[[Place], Ready]:
    """Makes a switch of two ports ready to be loaded in one direction."""

    def prepare(place: Place) -> Ready:
        loaded = Loaded(place, switch, taps=taps)
        flows = [loaded.flow(0, 1)]
        return Ready(lambda _: loaded.run(flows))

    return prepare

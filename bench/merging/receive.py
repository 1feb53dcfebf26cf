"""Contenders that receive UDP datagrams, which their sender has merged or not.
At the end of a slice all of them have the datagrams of the last batch as plain
frames in the memory of the batch, where the slice checks them."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from rawmmsg import SUPER_FRAME, PacketBatch

from ..lab.contender import Contender, Ready, Slice, control
from ..lab.link import AUXDATA, Frames, Link
from ..loop.sides import CLoop, Loop, PythonLoop
from ..loop.sides import Place as Meeting
from .frames import Datagrams, joined
from .sides import AT_ONCE, send_merged


@dataclass(frozen=True)
class Place:
    """A link for plain frames and one for super-frames. Both carry the same
    datagrams."""

    plain: Meeting
    merged: Meeting


@contextlib.contextmanager
def place(batch: int, size: int) -> Iterator[Place]:
    frames = Frames(batch, size, room=size, make=Datagrams(size))
    with Link() as plain, Link(vnet_hdr=True) as merged:
        yield Place(Meeting(plain, frames), Meeting(merged, frames))


def _ready(made: Loop, meeting: Meeting) -> Ready:
    """Times only receiving, in Mpps."""
    meeting.link.require_room(meeting.frames)
    batch = meeting.frames.batch

    def run(times: int) -> Slice:
        parts = made.parts(times)
        taken = sum(parts[name] for name in ("tx, ns", "rx, ns"))
        extra = {"sending, ns": parts["tx, ns"]}
        return Slice(1e3 / parts["rx, ns"], taken * batch * times, extra)

    return Ready(run, batch)


def _in_c(place: Place) -> Ready:
    made = CLoop(place.plain, "loop/side.c:calls", AUXDATA)
    return _ready(made, place.plain)


def _rawmmsg(place: Place) -> Ready:
    link, frames = place.plain.link, place.plain.frames
    into, size = frames.into, frames.batch
    take, send = link.rx.recvmmsg_into, link.tx.sendmmsg_all

    def receive() -> None:
        done = 0
        while done < size:
            done += take(into)

    made = PythonLoop(
        *(place.plain, AUXDATA, partial(send, frames.out), receive),
        lambda: into.lengths[: len(into)],
    )
    return _ready(made, place.plain)


def _cut(place: Place) -> Ready:
    """Receives super-frames, and cuts them."""
    link, frames = place.merged.link, place.merged.frames
    into, size = frames.into, frames.batch
    super_frames = PacketBatch(AT_ONCE, SUPER_FRAME)
    take, cut = link.rx.recvmmsg_into, super_frames.segment_into
    send = send_merged(frames, link.tx)

    def receive() -> None:
        done = 0
        while done < size:
            count = take(super_frames)
            frame = segment = 0
            while frame < count:
                frame, segment = cut(into, frame, segment)
                done += len(into)

    made = PythonLoop(
        *(place.merged, AUXDATA, partial(send, 1), receive),
        lambda: into.lengths[: len(into)],
    )
    made.arrivals = -(-size // joined(frames.size))
    return _ready(made, place.merged)


_PLAIN: Final = Contender("rawmmsg", _rawmmsg)

CONTENDERS: Final[Sequence[Contender[Place]]] = (
    _PLAIN,
    control(_PLAIN, None),
    Contender("C recvmmsg", _in_c, _PLAIN.name),
    Contender("rawmmsg, merged and cut", _cut, _PLAIN.name),
)

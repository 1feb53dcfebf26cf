"""Which kind of direction two ports need."""

from .batched import Batched
from .batches import Stacks, make_stacks
from .direction import Direction
from .guests import (
    BatchedFromGuest,
    BatchedToGuest,
    BetweenGuests,
    FromGuest,
    ToGuest,
)
from .merging import Merging
from .ports import Port, SocketPort, StreamSocket, VhostUser
from .streams import FromStream, StreamToGuest

__all__ = ["make_directions"]


def make_directions(
    a: Port, b: Port, batch: int | None, merging: Merging | None
) -> tuple[Direction, Direction]:
    """Returns the directions from `a` to `b`, and from `b` to `a`.

    `batch`: how many frames to receive at once; None: it depends on them.
    `merging`: what to merge; None: nothing.
    """
    direct = _direct(a, b), _direct(b, a)
    if direct[0] is not None and direct[1] is not None:
        return direct[0], direct[1]
    from_a, from_b = make_stacks(a, b, batch)
    return _batched(a, b, from_a, merging), _batched(b, a, from_b, merging)


def _direct(source: Port, sink: Port) -> Direction | None:
    """Returns a direction that does not need a batch, if there is one."""
    if isinstance(source, VhostUser) and isinstance(sink, SocketPort):
        return FromGuest(source, sink) if sink.is_interface else None
    if isinstance(source, SocketPort) and isinstance(sink, VhostUser):
        return ToGuest(source, sink) if source.is_interface else None
    return None


def _batched(
    source: Port, sink: Port, stacks: Stacks, merging: Merging | None
) -> Direction:
    if isinstance(source, VhostUser):
        if isinstance(sink, VhostUser):
            return BetweenGuests(source, sink, stacks)
        return BatchedFromGuest(source, sink, stacks)
    if isinstance(source, StreamSocket):
        if isinstance(sink, VhostUser):
            return StreamToGuest(source, sink, stacks, merging)
        return FromStream(source, sink, stacks, merging)
    if isinstance(sink, VhostUser):
        return BatchedToGuest(source, sink, stacks, merging)
    return Batched(source, sink, stacks, merging)

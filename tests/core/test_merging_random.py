"""merge_into(): random mixed flows, many of whose frames differ in one place,
are merged exactly as the rules say.

tests/fuzz/merging.py does the same with more frames and more of the
arguments."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from support.datagrams import (
    ACK,
    CWR,
    ECE,
    FIN,
    KINDS,
    PSH,
    SCTP,
    SHAPES,
    TAGS,
    Datagram,
    add,
)
from support.flows import changed, cut_again, edited, large_target
from support.frames import same_frames
from support.merge_model import ANY_FLOW, merge, see

from rawmmsg import SUPER_FRAME, PacketBatch

FLAGS = (
    ACK | PSH,
    ACK | FIN,
    ACK | CWR,
    ACK | ECE,
    ACK | 2,
    ACK | 32,
    0,
    0xD0,
)
FRAMES = 150
"""In each batch."""


def vary(rng: random.Random, datagram: Datagram) -> Datagram:
    """Changes a field."""
    size = len(datagram.payload)
    other: list[Callable[[], Datagram]] = [
        lambda: replace(datagram, flags=rng.choice(FLAGS)),
        lambda: replace(
            datagram, ident=(datagram.ident + rng.choice([-1, 1, 7])) % 2**16
        ),
        lambda: replace(
            datagram,
            sequence=(datagram.sequence + rng.choice([-size, 1, 9])) % 2**32,
        ),
        lambda: replace(
            datagram, payload=rng.randbytes(rng.randrange(size + 3))
        ),
        lambda: replace(datagram, tags=rng.choice([*TAGS.values()])),
        lambda: replace(datagram, protocol=rng.choice([6, 17, SCTP])),
        lambda: replace(datagram, options=bytes([1] * 4)),
        lambda: replace(datagram, tcp_options=bytes([1] * 4)),
    ]
    return rng.choice(other)()


def spoil(rng: random.Random, datagram: Datagram, frame: bytes) -> bytes:
    """Changes bytes of the frame. Where only its headers are changed, its
    checksums stay right."""
    place = rng.randrange(min(len(frame), 90))
    value = bytes([frame[place] ^ 1 << rng.randrange(8)])
    repairable = not datagram.tags and not datagram.extensions
    match rng.randrange(5):
        case 0:
            return edited(frame, place, value)
        case 1:
            return frame + bytes(rng.randrange(1, 9))
        case 2:
            return frame[: rng.randrange(len(frame))]
        case _:
            # The addresses, TOS, DF and TTL or what IPv6 has for them.
            header = [15, 20, 22] if datagram.version == 4 else [15, 16, 21]
            fields = [*range(12), *header]
            if repairable and datagram.protocol != SCTP:
                place = rng.choice(fields)
                value = bytes([frame[place] ^ 1 << rng.randrange(8)])
                return changed(frame, place, value)
            return edited(frame, -1 + len(frame), value)


def random_frames(rng: random.Random) -> Iterator[tuple[Datagram, bytes]]:
    """Frames of some flows, in bursts."""
    flows = [
        replace(
            rng.choice([*KINDS.values(), *SHAPES.values()]),
            tags=rng.choice([*TAGS.values()] + [()] * 6),
            payload=bytes(rng.choice([1, 2, 33, 64, 300])),
            ident=rng.choice([5, 0xFFF8]),
            sequence=rng.choice([5, 0xFFFFFF00]),
        )
        for _ in range(rng.randrange(1, 5))
    ]
    oddity = rng.choice([0.02, 0.1, 0.3])
    while True:
        i = rng.randrange(len(flows))
        for _ in range(rng.choice([1, 2, 10, 40])):
            sent = replace(
                flows[i], payload=rng.randbytes(len(flows[i].payload))
            )
            if rng.random() < oddity:
                sent = vary(rng, sent)
            frame = sent.build()
            if rng.random() < oddity:
                frame = spoil(rng, sent, frame)
            yield sent, frame
            flows[i] = replace(
                flows[i],
                ident=(sent.ident + 1) % 2**16,
                sequence=(sent.sequence + len(sent.payload)) % 2**32,
            )


def random_batch(rng: random.Random) -> tuple[PacketBatch, list[bytes]]:
    """A batch, and its frames with complete checksums. In some batches a part
    of them is still without."""
    batch = PacketBatch(FRAMES, 2048)
    frames: list[bytes] = []
    without = rng.choice([0, 0, 0.3])
    for datagram, frame in random_frames(rng):
        if len(batch) == FRAMES:
            break
        plain = datagram.build()
        if (
            frame == plain
            and plain[datagram.transport_offset :][16:18] != b"\0\0"
            and rng.random() < without
            and datagram.protocol != SCTP
        ):
            add(batch, datagram)
        else:
            batch.append(frame)
        frames.append(frame)
    return batch, frames


def is_in_order(frames: list[bytes], cut: list[bytes], flows: int) -> None:
    """Asserts that each flow has its order, and that no frame has overtaken
    one that may belong to any flow."""
    if flows == 1:
        same_frames(cut, frames)
        return
    assert sorted(cut) == sorted(frames)
    kinds = {see(frame).flow for frame in frames} - {ANY_FLOW}
    for kind in kinds:
        same_frames(
            [one for one in cut if see(one).flow in (kind, ANY_FLOW)],
            [one for one in frames if see(one).flow in (kind, ANY_FLOW)],
        )


@pytest.mark.parametrize("seed", range(8))
def test_random_flows_are_merged_as_the_rules_say(
    seed: int, scaled: Callable[[int], int]
) -> None:
    merged = 0
    for number in range(scaled(5)):
        rng = random.Random(f"{seed} {number}")
        batch, frames = random_batch(rng)
        flows = rng.choice([1, 1, 2, 3, 8])
        segments = rng.choice([1, 3, 64, 64, 128])
        room = rng.choice([2048, 9000, SUPER_FRAME])
        target = large_target(FRAMES)
        if room != SUPER_FRAME:
            target = PacketBatch(FRAMES, room)
        wanted = merge(frames, room, flows, segments)
        end = batch.merge_into(target, flows=flows, segments=segments)
        assert end == FRAMES
        cut = cut_again(target)
        same_frames(cut, [one for piece in wanted for one in piece.frames])
        for i, piece in enumerate(wanted):
            assert (target.gso_types[i] == 0) == (len(piece.members) == 1)
            merged += len(piece.members) > 1
        assert len(target) == len(wanted)
        is_in_order(frames, cut, flows)
    assert merged > 0, "nothing was merged"

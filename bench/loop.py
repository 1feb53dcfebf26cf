"""Loop cost: one thread sends a batch over a veth pair and receives it back.

One CPU does it all, the kernel's part on either end included, so the time is
the whole cost of a packet.
"""

import argparse
import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from rawmmsg import PacketBatch, RawSocket

from . import limit
from .link import Frames, GroundTruthError, Link
from .slices import CLOCKS, Claim, interleave, pinned, table

# Sends and receives a batch so many times; returns the lengths of what the
# last call received.
Run: TypeAlias = Callable[[int], Sequence[int]]

# Makes a side ready for the frames; the stack ends with the measurement.
Start: TypeAlias = Callable[[Link, Frames, contextlib.ExitStack], Run]

# Where the claims below are made.
CLAIMED_BATCH: Final = 64

# A slice whose last batch came in parts cannot be checked: it is run again.
MOST_TRIES: Final = 100


@dataclass(frozen=True)
class Side:
    """One way to do the work."""

    name: str
    start: Start
    auxdata: bool = False  # what the receiving socket is set to for it
    claim: Claim | None = None
    claimed_size: int | None = None  # of frames; None: all


def open_limit(link: Link, frames: Frames, auxdata: bool) -> limit.Loop:
    """The same work in C, on the same sockets and memory."""
    return limit.Loop(
        tx=link.tx.fileno(),
        rx=link.rx.fileno(),
        batch=frames.batch,
        out=frames.address(frames.out),
        size=frames.size,
        into=frames.address(frames.into),
        room=frames.room,
        stride=frames.stride,
        auxdata=auxdata,
    )


def in_c(auxdata: bool) -> Start:
    """The limit."""

    def start(link: Link, frames: Frames, stack: contextlib.ExitStack) -> Run:
        return stack.enter_context(open_limit(link, frames, auxdata)).run

    return start


def with_rawmmsg(
    socket: Callable[[Link], RawSocket],
    packets: Callable[[Frames], PacketBatch | list[bytes]],
) -> Start:
    """rawmmsg with one of its sockets, and what it sends from."""

    def start(link: Link, frames: Frames, _: contextlib.ExitStack) -> Run:
        size = frames.batch
        out, into = packets(frames), frames.into
        send, receive = link.tx.sendmmsg, socket(link).recvmmsg_into

        def run(rounds: int) -> Sequence[int]:
            for _ in range(rounds):
                done = send(out)
                while done < size:
                    done += send(out, done)
                done = receive(into)
                while done < size:
                    done += receive(into)
            return into.lengths[: len(into)]

        return run

    return start


def with_stdlib(link: Link, frames: Frames, _: contextlib.ExitStack) -> Run:
    """The socket module, one packet a call, into the same memory."""
    packets, views = frames.packets, frames.into_views
    send, receive = link.tx_stdlib.send, link.rx_stdlib.recv_into

    def run(rounds: int) -> Sequence[int]:
        lengths: list[int] = []
        for _ in range(rounds):
            for packet in packets:
                send(packet)
            lengths = [receive(view) for view in views]
        return lengths

    return run


# The control is the limit once more, with memory of its own.
SIDES: Final = (
    Side("C, auxdata", in_c(auxdata=True), auxdata=True),
    Side(
        "C, auxdata, control",
        in_c(auxdata=True),
        auxdata=True,
        claim=Claim("C, auxdata", at_least=0.99, at_most=1.01),
    ),
    Side(
        "rawmmsg",
        with_rawmmsg(lambda link: link.rx, lambda frames: frames.out),
        auxdata=True,
        claim=Claim("C, auxdata", at_most=1.03),
    ),
    Side(
        "rawmmsg, from a list",
        with_rawmmsg(lambda link: link.rx, lambda frames: frames.packets),
        auxdata=True,
        claim=Claim("C, auxdata"),
    ),
    Side("C, bare", in_c(auxdata=False)),
    Side(
        "C, bare, control",
        in_c(auxdata=False),
        claim=Claim("C, bare", at_least=0.99, at_most=1.01),
    ),
    Side(
        "rawmmsg, vlan=False",
        with_rawmmsg(lambda link: link.rx_bare, lambda frames: frames.out),
        claim=Claim("C, bare", at_most=1.03),
    ),
    Side(
        "stdlib",
        with_stdlib,
        claim=Claim("rawmmsg", at_least=1.4),
        claimed_size=64,
    ),
)


def for_frames(side: Side, size: int, batch: int) -> Side:
    """The side, compared with another but not judged where that is not part of
    its claim."""
    claimed = batch == CLAIMED_BATCH and side.claimed_size in (None, size)
    if side.claim is None or claimed:
        return side
    return replace(side, claim=Claim(side.claim.against))


class Slicer:
    """Runs a side's slices: equal work each, checked each time."""

    def __init__(self, link: Link, clock: Callable[[], int]) -> None:
        self._link = link
        self._clock = clock
        self.rounds = 1  # of sending and receiving, in a slice

    def time(self, side: Side, run: Run, frames: Frames) -> int:
        """The time of one slice."""
        for _ in range(MOST_TRIES):
            frames.number()
            self._link.set_auxdata(side.auxdata)
            self._link.reset()
            begin = self._clock()
            lengths = run(self.rounds)
            end = self._clock()
            self._link.check(self.rounds * frames.batch)
            if frames.is_whole(lengths):
                frames.check(lengths)
                return end - begin
        raise GroundTruthError("no batch comes in one piece")

    def calibrate(
        self, side: Side, run: Run, frames: Frames, slice_ns: int
    ) -> None:
        """Finds how many rounds of `side` take so long."""
        self.rounds = 1
        # The best of three, for another process may have had the CPU.
        while (
            taken := min(self.time(side, run, frames) for _ in range(3))
        ) < slice_ns // 4:
            self.rounds *= 2
        self.rounds = max(1, self.rounds * slice_ns // taken)


def measure(
    link: Link,
    sides: Sequence[tuple[Side, Frames]],
    *,
    slices: int,
    slice_ns: int,
    clock: str,
) -> tuple[int, dict[str, list[float]]]:
    """The rounds of a slice, which are as many as the first side does in
    `slice_ns`, and the ns per packet of each side, slice by slice."""
    slicer = Slicer(link, CLOCKS[clock])

    def timer(side: Side, run: Run, frames: Frames) -> Callable[[], float]:
        def one_slice() -> float:
            taken = slicer.time(side, run, frames)
            return taken / (slicer.rounds * frames.batch)

        return one_slice

    with contextlib.ExitStack() as stack:
        ready = [
            (side, side.start(link, frames, stack), frames)
            for side, frames in sides
        ]
        for contender in ready:
            slicer.time(*contender)  # warms up
        slicer.calibrate(*ready[0], slice_ns)
        timers = {contender[0].name: timer(*contender) for contender in ready}
        return slicer.rounds, interleave(timers, slices)


def add_frame_arguments(
    parser: argparse.ArgumentParser, batch: Sequence[int]
) -> None:
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        default=batch,
        help=f"frames per batch ({' '.join(map(str, batch))})",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=[64, 1500],
        help="bytes per frame (64 1500)",
    )


def compare(
    options: argparse.Namespace,
    sides_of: Callable[[int, int], Sequence[tuple[Side, Frames]]],
) -> None:
    """Measures and prints a table for each size of frame and of batch, with
    the sides that sides_of(size, batch) gives."""
    with pinned(options.cpu) as cpu, Link() as link:
        for size, batch in itertools.product(options.size, options.batch):
            sides = sides_of(size, batch)
            rounds, times = measure(
                link,
                sides,
                slices=options.slices,
                slice_ns=int(options.slice_ms * 1e6),
                clock=options.clock,
            )
            print(
                f"\n{size}-byte frames, batches of {batch}: {options.slices}"
                f" slices of {rounds} rounds a side, {options.clock} clock,"
                f" CPU {cpu}"
            )
            claims = {side.name: side.claim for side, _ in sides if side.claim}
            print(table(times, claims), flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_frame_arguments(parser, batch=[64])


def run(options: argparse.Namespace) -> None:
    def sides_of(size: int, batch: int) -> list[tuple[Side, Frames]]:
        frames = Frames(batch, size)
        return [(for_frames(side, size, batch), frames) for side in SIDES]

    compare(options, sides_of)

"""What bench/ sends, receives and echoes: every contender moves every frame,
and a frame that is lost, duplicated or changed is found."""

import contextlib
import ctypes
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.child import tool

from bench.capture import measure as capture
from bench.capture.sides import Flood, Place, Receipt, Receiver
from bench.checksums import sides as checksums
from bench.checksums.frames import Maker
from bench.lab import cpus, far_side
from bench.lab.contender import (
    Contender,
    GroundTruthError,
    Ready,
    UnavailableError,
)
from bench.lab.far_side import FarSide
from bench.lab.link import Ends, Frames, Link
from bench.lab.packets import SCTP, TCP, UDP
from bench.latency import measure as latency
from bench.latency import sides as latency_sides
from bench.latency import through
from bench.send import measure as send
from bench.send import sides as send_sides
from bench.superframes import sides as superframes
from bench.superframes.frames import PLAIN, SUPER, Kind
from rawmmsg import RawSocket
from rawmmsg.testing import Veth, veth_pair

# As many as the smallest receive buffer holds.
COUNT = 128
SIZE = 100


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def names(contenders: Iterable[Contender[Any]]) -> list[str]:
    return [one.name for one in contenders]


def prepared(
    contenders: Iterable[Contender[Any]], name: str, place: object
) -> Ready | None:
    """A contender by its name; None if it says what to install or to do."""
    tool("gcc")
    (one,) = (one for one in contenders if one.name == name)
    try:
        return one.prepare(place)
    except UnavailableError as error:
        assert error.missing.what
        assert error.missing.install
        return None


# Capture


@pytest.fixture
def slices(stack: contextlib.ExitStack) -> Callable[[str], Receiver | None]:
    """Makes a receiver by its name, ready for frames."""

    def make(name: str) -> Receiver | None:
        place = Place(stack.enter_context(Link()), SIZE, 0.0, 0)
        ready = prepared(capture.CONTENDERS, name, place)
        if ready is None:
            return None
        made: Receiver = ready.run.__self__  # type: ignore[attr-defined]
        made.begin()
        return made

    return make


@pytest.fixture
def baseline(slices: Callable[[str], Receiver | None]) -> Receiver:
    made = slices("C")
    assert made is not None
    return made


def numbered(made: Receiver, numbers: Iterable[int]) -> list[bytearray]:
    """Frames as the flood sends them."""
    frames = []
    for number in numbers:
        frame = bytearray(made.frames.packets[0])
        struct.pack_into("!Q", frame, 14, number)
        frames.append(frame)
    return frames


def received(made: Receiver, frames: list[bytearray]) -> Receipt:
    """The receipt for these frames, after they have been sent."""
    receipt = Receipt()
    made.ends.tx.sendmmsg_all(frames)
    deadline = time.monotonic() + 30
    made.receive(ctypes.c_int(1), receipt)
    while receipt.frames < len(frames) and time.monotonic() < deadline:
        made.receive(ctypes.c_int(1), receipt)
    return receipt


@pytest.mark.parametrize("name", names(capture.CONTENDERS))
def test_receiver_takes_every_frame_in_order(
    slices: Callable[[str], Receiver | None], name: str
) -> None:
    made = slices(name)
    if made is None:
        return
    for _ in range(2):
        receipt = received(made, numbered(made, range(1, COUNT + 1)))
        assert receipt.frames == COUNT
        assert (receipt.disordered, receipt.changed) == (0, 0)
        assert 0 < receipt.last_ns <= time.monotonic_ns()
        assert receipt.cpu_ns > 0


@pytest.mark.parametrize("name", names(capture.CONTENDERS))
def test_receiver_finds_a_duplicated_frame(
    slices: Callable[[str], Receiver | None], name: str
) -> None:
    made = slices(name)
    if made is None:
        return
    receipt = received(made, numbered(made, [1, 2, 3, 3, 4]))
    assert (receipt.frames, receipt.disordered) == (5, 1)


@pytest.mark.parametrize("name", names(capture.CONTENDERS))
def test_receiver_finds_a_changed_frame(
    slices: Callable[[str], Receiver | None], name: str
) -> None:
    made = slices(name)
    if made is None:
        return
    frames = numbered(made, range(1, 65))
    frames[-1][-1] ^= 1
    receipt = received(made, frames)
    assert (receipt.frames, receipt.changed) == (64, 1)


def test_capture_finds_a_frame_that_never_arrived(
    baseline: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.capture.sides.PATIENCE", 0.1)
    receipt = received(baseline, numbered(baseline, [1, 2, 4]))
    with pytest.raises(GroundTruthError, match="4 frames sent, 3 received"):
        baseline.check(Flood(sent=4), receipt)


def test_capture_accepts_frames_that_the_kernel_dropped(
    baseline: Receiver,
) -> None:
    rx = baseline.place.link.rx
    room = rx.getsockopt(1, 8)  # SOL_SOCKET, SO_RCVBUF
    rx.setsockopt(1, 8, 4096)
    assert rx.getsockopt(1, 8) < room
    baseline.ends.tx.sendmmsg_all(numbered(baseline, range(1, COUNT + 1)))
    receipt = Receipt()
    baseline.receive(ctypes.c_int(1), receipt)
    assert 0 < receipt.frames < COUNT
    baseline.check(Flood(sent=COUNT), receipt)


def test_capture_finds_a_frame_out_of_order(
    baseline: Receiver,
) -> None:
    receipt = received(baseline, numbered(baseline, [2, 1]))
    with pytest.raises(GroundTruthError, match="1 out of order"):
        baseline.check(Flood(sent=2), receipt)


# Sending


@pytest.fixture
def far(stack: contextlib.ExitStack) -> tuple[Ends, FarSide, Frames]:
    """Ends, what is beyond them, and four frames."""
    ends = stack.enter_context(Ends())
    return ends, stack.enter_context(FarSide(ends.veth)), Frames(4, SIZE)


Far = tuple[Ends, FarSide, Frames]


def test_far_side_accepts_what_was_sent(far: Far) -> None:
    ends, side, frames = far
    side.expect(None)
    ends.tx.sendmmsg_all(frames.packets)
    side.check(4, 4 * SIZE, frames.packets)


def test_far_side_takes_a_sample(far: Far) -> None:
    ends, side, frames = far
    for kept in range(4):
        side.expect(kept)
        for _ in range(3):
            ends.tx.sendmmsg_all(frames.packets)
        side.check(12, 12 * SIZE, [frames.packets[kept]] * 3)


@pytest.mark.parametrize("sent", [0, 3, 5])
def test_far_side_finds_a_frame_too_few_or_too_many(
    far: Far, sent: int
) -> None:
    ends, side, frames = far
    side.expect(2)
    ends.tx.sendmmsg_all((frames.packets * 2)[:sent])
    with pytest.raises(GroundTruthError, match=f"4 frames .* sent, {sent} of"):
        side.check(4, 4 * SIZE, [frames.packets[2]])


@pytest.mark.parametrize("at", [25, SIZE - 1])
def test_far_side_finds_a_changed_frame(
    far: Far, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its body; or in its number, so that one is missing in the sample."""
    ends, side, frames = far
    monkeypatch.setattr(far_side, "PATIENCE", 0.1)
    changed = bytearray(frames.packets[2])
    changed[at] ^= 1
    side.expect(2)
    ends.tx.sendmmsg_all([*frames.packets[:2], changed, frames.packets[3]])
    with pytest.raises(GroundTruthError, match="of 1 frames to keep"):
        side.check(4, 4 * SIZE, [frames.packets[2]])


@pytest.mark.parametrize("name", names(send.IN_PROCESS))
def test_sender_sends_every_frame_in_order(
    stack: contextlib.ExitStack, name: str
) -> None:
    """Of a batch, and then of two, for which a ring begins anew."""
    place = stack.enter_context(send_sides.Place(64, SIZE))
    ready = prepared(send.IN_PROCESS, name, place)
    if ready is None:
        return
    for times in (1, 2, 1):
        assert ready.run(times).figure > 0


def test_program_that_fails_is_named(
    stack: contextlib.ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    program = tmp_path / "tcpreplay"
    program.write_text("#!/bin/sh\necho you may not >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    place = stack.enter_context(send_sides.Place(4, SIZE))
    ready = send_sides.tcpreplay()(place)
    with pytest.raises(UnavailableError, match=r"tcpreplay.*you may not"):
        ready.run(1)


# Latency


@pytest.mark.parametrize("name", names(latency.CONTENDERS))
def test_ping_finds_a_frame_that_is_not_its_own(
    stack: contextlib.ExitStack, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[Veth] = []

    @contextlib.contextmanager
    def mirror(cpu: int) -> Iterator[Veth]:
        with original(cpu) as veth:
            ends.append(veth)
            yield veth

    original = latency_sides.mirror
    monkeypatch.setattr(latency_sides, "mirror", mirror)
    place = latency_sides.Place(stack, cpus.last(), SIZE)
    ready = prepared(latency.CONTENDERS, name, place)
    if ready is None:
        return
    assert ready.run(3).figure > 0
    with RawSocket(ends[0].b, protocol=0) as sock:
        sock.send(bytes(SIZE))
    with pytest.raises(GroundTruthError):
        ready.run(1)


@pytest.mark.parametrize("name", names(latency.FORWARDERS))
def test_round_trip_through_a_forwarder_finds_a_frame_of_another_sender(
    stack: contextlib.ExitStack, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[Veth] = []

    @contextlib.contextmanager
    def make_pair() -> Iterator[Veth]:
        with veth_pair() as veth:
            ends.append(veth)
            yield veth

    monkeypatch.setattr(through, "veth_pair", make_pair)
    place = through.Place(stack, cpus.last(), SIZE, trips=3)
    ready = prepared(latency.FORWARDERS, name, place)
    if ready is None:
        return
    assert ready.run(1).figure > 0
    with RawSocket(ends[0].b, protocol=0) as sock:
        sock.send(bytes(SIZE))
    with pytest.raises(GroundTruthError):
        ready.run(1)


# Super-frames


class Altered(superframes.PythonLoop):
    """A loop that changes a frame or its header after it has arrived."""

    alter: ClassVar[Callable[["Altered"], None] | None] = None

    def run(self, times: int) -> None:
        super().run(times)
        if Altered.alter is not None:
            Altered.alter(self)


def last_byte(loop: Altered) -> None:
    loop.frames.into_views[0][-1] ^= 1


def length(loop: Altered) -> None:
    loop.frames.into.lengths[0] -= 1


def segment_size(loop: Altered) -> None:
    sizes = loop.frames.into.gso_sizes
    assert sizes is not None
    sizes[0] = 1


@pytest.mark.parametrize("kind", [SUPER, PLAIN], ids=lambda kind: kind.name)
@pytest.mark.parametrize("alter", [last_byte, length, segment_size])
def test_super_frame_that_is_changed_is_found(
    stack: contextlib.ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    alter: Callable[[Altered], None],
    kind: Kind,
) -> None:
    if alter is segment_size and kind is PLAIN:
        return  # it has no header
    place = stack.enter_context(superframes.Place(batch=2))
    loop = Altered(place, kind)
    assert loop.time(1) > 0
    monkeypatch.setattr(Altered, "alter", alter)
    with pytest.raises(GroundTruthError, match=r"frame.? \[?0"):
        loop.time(1)


def test_receive_buffer_that_is_too_small_is_named(
    stack: contextlib.ExitStack,
) -> None:
    place = stack.enter_context(superframes.Place(batch=100_000))
    with pytest.raises(UnavailableError, match=r"net\.core\.rmem_max="):
        place.sockets(SUPER)


# Checksums


class Changed(checksums.Computing):
    """Computes, and then changes a byte."""

    byte: ClassVar[int | None] = None

    def run(self, times: int) -> None:
        super().run(times)
        if self.byte is not None:
            self.frames.out_views[-1][self.byte] ^= 1


@pytest.mark.parametrize("protocol", [UDP, TCP, SCTP])
@pytest.mark.parametrize("size", [64, 1500])
def test_checksum_that_is_not_right_is_found(
    monkeypatch: pytest.MonkeyPatch, protocol: int, size: int
) -> None:
    changed = Changed(checksums.Place(Maker(protocol, size), 3))
    assert changed.time(2) > 0
    for byte in (24, 44, size - 1):
        monkeypatch.setattr(Changed, "byte", byte)
        with pytest.raises(GroundTruthError, match="frame 2"):
            changed.time(1)


def test_checksums_that_were_not_computed_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tool("gcc")
    place = checksums.Place(Maker(UDP, 64), 3)
    for make in (checksums.Computing, checksums.Native, checksums.Verifying):
        work = make(place)
        assert work.time(1) > 0
        monkeypatch.setattr(work, "run", lambda _: None)
        with pytest.raises(GroundTruthError):
            work.time(1)

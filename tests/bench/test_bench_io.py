"""What bench/ sends, captures and echoes: every side moves every frame, and
one that is lost, doubled or changed is found."""

import contextlib
import ctypes
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.child import tool

from rawmmsg import RawSocket

# As many as the smallest receive buffer holds.
COUNT = 128
SIZE = 100

RECEIVERS = (
    "C",
    "C, control",
    "C, stamps",
    "C, bare",
    "rawmmsg",
    "rawmmsg, stamps",
    "stdlib",
    "TPACKET_V2",
    "TPACKET_V2, copied",
    "TPACKET_V3",
    "TPACKET_V3, copied",
    "libpcap",
    "libpcap, copied",
    "libpcap, buffered",
    "AF_XDP",
)
SENDERS = (
    "C sendmmsg",
    "C sendmmsg, control",
    "rawmmsg",
    "rawmmsg, list",
    "rawmmsg, qdisc_bypass",
    "TX ring (C)",
    "TX ring (C), in place",
    "libpcap inject (C)",
    "libpcap inject (C), deaf",
    "pcapy-ng",
    "cypcap, deaf",
    "stdlib",
)
PINGS = (
    "C recvmmsg",
    "C recvmmsg, control",
    "C recv",
    "rawmmsg",
    "rawmmsg, send and recv_into",
    "stdlib",
    "libpcap (C)",
)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def made(bench: Any, start: Callable[[], Any]) -> Any:
    """What `start` makes; None where it says what to install or to do."""
    try:
        return start()
    except bench("framework").Unavailable as error:
        assert error.missing.what
        assert error.missing.install
        return None


# Capture


@pytest.fixture
def receiver(bench: Any, stack: contextlib.ExitStack) -> Callable[[str], Any]:
    """Makes a receiver by its name, ready."""

    def make(name: str) -> Any:
        link, ways = bench("network.link"), bench("sides.directions")
        shared = ways.SharedLink(stack.enter_context(link.Link()))
        frames = link.Frames(64, SIZE)
        start = bench("measurements.capture").CONTENDERS[name]
        receiver = made(bench, lambda: start(shared, frames, stack))
        if receiver is not None:
            receiver.prepare()
        return receiver

    return make


def numbered(receiver: Any, numbers: Iterable[int]) -> list[bytearray]:
    """Frames as the flood sends them."""
    frames = []
    for number in numbers:
        frame = bytearray(receiver.frames.packets[0])
        struct.pack_into("!Q", frame, 14, number)
        frames.append(frame)
    return frames


def received(bench: Any, receiver: Any, frames: list[bytearray]) -> Any:
    """The receipt of so many frames, once they have been sent."""
    receipt = bench("sides.receivers").Receipt()
    over = ctypes.c_int(1)
    receiver.ends.tx.sendmmsg_all(frames)
    receiver.run(over, False, receipt)
    deadline = time.monotonic() + 30
    while receipt.frames < len(frames) and time.monotonic() < deadline:
        receiver.run(over, True, receipt)
    return receipt


def test_every_receiver_is_tested(bench: Any) -> None:
    assert tuple(bench("measurements.capture").CONTENDERS) == RECEIVERS


@pytest.mark.parametrize("name", RECEIVERS)
def test_receiver_takes_every_frame_in_order(
    bench: Any, receiver: Any, name: str
) -> None:
    side = receiver(name)
    if side is None:
        return
    receipt = received(bench, side, numbered(side, range(1, COUNT + 1)))
    assert receipt.frames == COUNT
    assert (receipt.disordered, receipt.changed) == (0, 0)
    assert 0 < receipt.last_ns <= time.monotonic_ns()
    assert receipt.cpu_ns > 0
    again = received(bench, side, numbered(side, range(1, COUNT + 1)))
    assert (again.frames, again.disordered) == (COUNT, 0)


@pytest.mark.parametrize("name", RECEIVERS)
def test_receiver_finds_a_frame_that_comes_twice(
    bench: Any, receiver: Any, name: str
) -> None:
    side = receiver(name)
    if side is None:
        return
    receipt = received(bench, side, numbered(side, [1, 2, 3, 3, 4]))
    assert (receipt.frames, receipt.disordered) == (5, 1)


@pytest.mark.parametrize("name", RECEIVERS)
def test_receiver_finds_a_changed_frame(
    bench: Any, receiver: Any, name: str
) -> None:
    side = receiver(name)
    if side is None:
        return
    frames = numbered(side, range(1, 65))
    frames[-1][-1] ^= 1
    receipt = received(bench, side, frames)
    assert (receipt.frames, receipt.changed) == (64, 1)


def test_capture_finds_a_frame_that_never_came(
    bench: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("gcc")
    capture, side = bench("measurements.capture"), receiver("C")
    monkeypatch.setattr(capture, "PATIENCE", 0.1)
    contest = capture.Round(side, 0.0, 0)
    contest.prepare()
    receipt = received(bench, side, numbered(side, [1, 2, 4]))
    with pytest.raises(
        bench("framework").GroundTruthError, match="4 frames sent, 3 rec"
    ):
        contest.check(capture.Flood(sent=4), receipt, ctypes.c_int(1))


def test_capture_takes_what_the_kernel_says_it_dropped(
    bench: Any, receiver: Any
) -> None:
    tool("gcc")
    capture, side = bench("measurements.capture"), receiver("C")
    contest = capture.Round(side, 0.0, 0)
    room = side.ends.rx.getsockopt(1, 8)  # SOL_SOCKET, SO_RCVBUF
    side.ends.rx.setsockopt(1, 8, 4096)
    assert side.ends.rx.getsockopt(1, 8) < room
    contest.prepare()
    side.ends.tx.sendmmsg_all(numbered(side, range(1, COUNT + 1)))
    receipt = bench("sides.receivers").Receipt()
    side.run(ctypes.c_int(1), False, receipt)
    assert 0 < receipt.frames < COUNT
    contest.check(capture.Flood(sent=COUNT), receipt, ctypes.c_int(1))


def test_capture_finds_a_frame_out_of_order(bench: Any, receiver: Any) -> None:
    tool("gcc")
    capture, side = bench("measurements.capture"), receiver("C")
    contest = capture.Round(side, 0.0, 0)
    contest.prepare()
    receipt = received(bench, side, numbered(side, [2, 1]))
    with pytest.raises(
        bench("framework").GroundTruthError, match="1 out of order"
    ):
        contest.check(capture.Flood(sent=2), receipt, ctypes.c_int(1))


# Sending


@pytest.fixture
def far_side(
    bench: Any,
    stack: contextlib.ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Any, Any, Any]:
    """Ends, what is beyond them, and four frames."""
    module, link = bench("network.far_side"), bench("network.link")
    ends = stack.enter_context(link.Ends())
    return (
        ends,
        stack.enter_context(module.FarSide(ends.veth)),
        link.Frames(4, SIZE),
    )


def test_far_side_takes_what_was_sent(far_side: Any) -> None:
    ends, far, frames = far_side
    far.expect(None)
    ends.tx.sendmmsg_all(frames.packets)
    assert far.check(1, 4, frames.packets)


def test_far_side_takes_a_sample(far_side: Any) -> None:
    ends, far, frames = far_side
    for kept in range(4):
        far.expect(kept)
        for _ in range(3):
            ends.tx.sendmmsg_all(frames.packets)
        assert far.check(3, 4, [frames.packets[kept]])


@pytest.mark.parametrize("sent", [0, 3, 5])
def test_far_side_finds_a_frame_too_few_or_too_many(
    bench: Any, far_side: Any, sent: int
) -> None:
    ends, far, frames = far_side
    far.expect(2)
    ends.tx.sendmmsg_all((frames.packets * 2)[:sent])
    with pytest.raises(
        bench("framework").GroundTruthError, match=f"4 frames sent, {sent} ca"
    ):
        far.check(1, 4, [frames.packets[2]])


@pytest.mark.parametrize("at", [25, SIZE - 1])
def test_far_side_finds_a_changed_frame(
    bench: Any, far_side: Any, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its body; or in its number, so that one is missing in the sample."""
    ends, far, frames = far_side
    monkeypatch.setattr(bench("network.far_side"), "PATIENCE", 0.1)
    changed = bytearray(frames.packets[2])
    changed[at] ^= 1
    far.expect(2)
    ends.tx.sendmmsg_all([*frames.packets[:2], changed, frames.packets[3]])
    with pytest.raises(
        bench("framework").GroundTruthError, match="1 frames that were to be"
    ):
        far.check(1, 4, [frames.packets[2]])


def test_every_sender_is_tested(bench: Any) -> None:
    names = [
        contender.name for contender in bench("measurements.send").IN_PROCESS
    ]
    assert tuple(names) == SENDERS


@pytest.mark.parametrize("name", SENDERS)
def test_sender_sends_every_frame_in_order(
    bench: Any, stack: contextlib.ExitStack, name: str
) -> None:
    """Twice a batch, and the next, for which a ring begins anew."""
    link, send = bench("network.link"), bench("measurements.send")
    shared = stack.enter_context(link.Ends())
    frames = link.Frames(64, SIZE)
    (start,) = (c.start for c in send.IN_PROCESS if c.name == name)
    sender = made(bench, lambda: start(shared, frames, stack))
    if sender is None:
        return
    far = stack.enter_context(
        bench("network.far_side").FarSide(sender.ends.veth)
    )
    for rounds in (2, 1):
        frames.number()
        sender.prepare()
        far.expect(None)
        assert sender.run(rounds) is None
        assert far.check(rounds, 64, frames.packets)


def test_a_program_that_fails_is_named(
    bench: Any,
    stack: contextlib.ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    program = tmp_path / "tcpreplay"
    program.write_text("#!/bin/sh\necho you may not >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    link = bench("network.link")
    ends = stack.enter_context(link.Ends())
    frames = link.Frames(4, SIZE)
    sender = bench("sides.sending_programs").tcpreplay(ends, frames, stack)
    sender.prepare()
    with pytest.raises(
        bench("framework").Unavailable, match=r"tcpreplay.*you may not"
    ):
        sender.run(1)


# Latency


def test_every_ping_is_tested(bench: Any) -> None:
    assert tuple(bench("measurements.latency").CONTENDERS) == PINGS


@pytest.mark.parametrize("name", PINGS)
def test_ping_finds_a_frame_that_is_not_its_own(
    bench: Any, stack: contextlib.ExitStack, name: str
) -> None:
    latency = bench("measurements.latency")
    mirror = stack.enter_context(latency.Mirror(bench("tools.cpus").last()))
    frames = bench("network.link").Frames(1, SIZE)
    start = latency.CONTENDERS[name]
    run = made(bench, lambda: start(mirror, frames, stack))
    if run is None:
        return
    taken = run(3)
    assert len(taken) == 3
    assert all(taken)
    with RawSocket(mirror.veth.b, protocol=0) as sock:
        sock.send(bytes(SIZE))
    with pytest.raises(bench("framework").GroundTruthError):
        run(1)

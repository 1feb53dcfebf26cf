"""sendp_batch: a frame that something drops on its way out, and a queue that
is full. The kernel says ENOBUFS of both."""

import errno
import logging
import os
from collections.abc import Callable, Iterator
from select import select
from typing import Any, Final

import pytest
from scapy.error import log_runtime
from support.calls import Call, eventually
from support.frames import numbered, receive
from support.linux import drop_frames_of, ip, tc, tx_dropped

from rawmmsg import RawSocket
from rawmmsg.scapy import sendp_batch
from rawmmsg.testing import Veth

DROPPED_SIZE: Final = 700
MOST_RETRIES: Final = 12
"""For each refused frame: they take some milliseconds. A second of patience is
more than 200."""

QUEUE: Final = 20  # frames that a tap has room for
TO_TAP: Final = [numbered(i) for i in range(150)]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No warning of refused frames on standard error."""
    level = log_runtime.level
    log_runtime.setLevel(logging.ERROR)
    yield
    log_runtime.setLevel(level)


def far_mtu(veth: Veth) -> int:
    ip("link", "set", veth.a, "mtu", "9000")
    return 3_000


def egress_filter(veth: Veth) -> int:
    drop_frames_of(veth.a, DROPPED_SIZE)
    return DROPPED_SIZE


REFUSALS = pytest.mark.parametrize("refuse", [far_mtu, egress_filter])
PACES = pytest.mark.parametrize(
    "pace", [{}, {"pps": 20_000}, {"inter": 0.001}], ids=str
)


def with_refused(count: int, places: set[int], size: int) -> list[bytes]:
    return [numbered(i, size if i in places else 64) for i in range(count)]


@REFUSALS
@PACES
@pytest.mark.parametrize(
    "places",
    [{0}, {50}, {98}, {99}, {0, 99}, {50, 51, 52}, {97, 98, 99}],
    ids=str,
)
def test_refused_frame_costs_no_other(
    veth: Veth,
    refuse: Callable[[Veth], int],
    places: set[int],
    pace: dict[str, Any],
) -> None:
    size = refuse(veth)
    frames = with_refused(100, places, size)
    passing = [frame for frame in frames if len(frame) != size]
    with RawSocket(veth.b) as receiver:
        result = sendp_batch(frames, veth.a, **pace)
        assert receive(receiver, len(passing)) == passing
    assert (result.frames, result.errors) == (len(passing), len(places))
    assert result.bytes == sum(map(len, passing))
    assert result.refusal is not None
    assert result.refusal.errno == errno.ENOBUFS
    assert result.retries <= MOST_RETRIES * len(places)


@REFUSALS
@pytest.mark.parametrize("pace", [{}, {"pps": 20_000}], ids=str)
def test_refused_frame_that_is_alone(
    veth: Veth, refuse: Callable[[Veth], int], pace: dict[str, Any]
) -> None:
    """None of our frames waits in a queue: that must do."""
    result = sendp_batch(numbered(1, refuse(veth)), veth.a, **pace)
    assert (result.frames, result.errors) == (0, 1)
    assert result.retries <= MOST_RETRIES


@REFUSALS
def test_refused_frames_of_a_generator_and_of_a_loop(
    veth: Veth, refuse: Callable[[Veth], int]
) -> None:
    frames = with_refused(20, {3, 19}, refuse(veth))
    result = sendp_batch(iter(frames), veth.a)
    assert (result.frames, result.errors) == (18, 2)
    result = sendp_batch(frames, veth.a, loop=10)
    assert (result.frames, result.errors) == (180, 20)


def test_every_frame_refused_is_no_full_queue(veth: Veth) -> None:
    """One second of patience, for the first, and not for each."""
    frames = [numbered(i, far_mtu(veth)) for i in range(200)]
    result = sendp_batch(frames, veth.a)
    assert (result.frames, result.errors) == (0, 200)
    assert result.retries < 1_000


def test_100_refused_among_3_000(veth: Veth) -> None:
    size = far_mtu(veth)
    places = set(range(7, 3_000, 30))
    frames = with_refused(3_000, places, size)
    passing = [frame for frame in frames if len(frame) != size]
    with RawSocket(veth.b) as receiver:
        result = sendp_batch(frames, veth.a)
        assert receive(receiver, len(passing)) == passing
    assert (result.frames, result.errors) == (2_900, 100)


def read_when_full(descriptor: int, name: str) -> list[bytes]:
    """Reads TO_TAP from a tap, and each time not before the sender has been
    told often that the tap is full; the frames that all fit in come at once.
    """
    frames: list[bytes] = []
    os.set_blocking(descriptor, False)
    while len(frames) < len(TO_TAP):
        often = tx_dropped(name) + 40
        rest = len(TO_TAP) - len(frames)

        def ready(often: int = often, rest: int = rest) -> bool:
            fits = rest <= QUEUE and select([descriptor], [], [], 0)[0]
            return bool(fits) or tx_dropped(name) >= often

        eventually(ready, "the sender does not try a full tap again")
        try:
            while True:
                frame = os.read(descriptor, 2048)
                frames += [frame] if frame in TO_TAP else []
        except BlockingIOError:
            pass
    return frames


@pytest.mark.parametrize(
    "pace", [{}, {"pps": 50_000}, {"inter": 0.001}], ids=str
)
def test_full_tap_is_waited_for(
    tap: tuple[int, str], pace: dict[str, Any]
) -> None:
    """None of the frames in it is counted as waiting, yet each that it has no
    room for is tried until it has. One that is tried ahead of the others can
    overtake them, if room is made at that moment."""
    descriptor, name = tap
    ip("link", "set", name, "txqueuelen", str(QUEUE))
    tc("qdisc", "replace", "dev", name, "root", "noqueue")
    with Call(read_when_full, descriptor, name) as call:
        result = sendp_batch(TO_TAP, name, **pace)
        assert (result.frames, result.errors) == (len(TO_TAP), 0)
        assert sorted(call.result()) == sorted(TO_TAP)


def test_queue_that_stays_full_costs_no_frame_after_a_refused_one(
    veth: Veth,
) -> None:
    """tc-tbf(8) at 8 bit/s: frames wait in the queue, which has room."""
    size = egress_filter(veth)
    shape = "rate 8bit burst 2000 limit 100000"
    tc(*f"qdisc add dev {veth.a} root tbf {shape}".split())
    frames = with_refused(100, {70}, size)
    result = sendp_batch(frames, veth.a)
    assert (result.frames, result.errors) == (99, 1)

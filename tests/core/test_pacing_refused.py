"""Paced sending: a frame that something drops on its way out, and a full
queue. The kernel reports ENOBUFS for both."""

import errno
import os
from collections.abc import Callable
from select import select
from typing import Any, Final

import pytest
from support.calls import Call, eventually
from support.frames import numbered, receive
from support.linux import drop_frames_of, ip, tc, tx_dropped
from support.pacing import paced

from rawmmsg import RawSocket
from rawmmsg.testing import Veth

DROPPED_SIZE: Final = 700
MOST_RETRIES: Final = 12
"""The most retries for each refused frame, which take some milliseconds. If
the sender took the queue for full, it would make more than 200."""

QUEUE: Final = 20  # how many frames fit into a tap
TO_TAP: Final = [numbered(i) for i in range(150)]


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
def test_refused_frame_loses_no_other(
    veth: Veth,
    refuse: Callable[[Veth], int],
    places: set[int],
    pace: dict[str, Any],
) -> None:
    size = refuse(veth)
    frames = with_refused(100, places, size)
    passing = [frame for frame in frames if len(frame) != size]
    with RawSocket(veth.b) as receiver:
        result = paced(frames, veth.a, **pace)
        assert receive(receiver, len(passing)) == passing
    assert (result.frames, result.errors) == (len(passing), len(places))
    assert result.bytes == sum(map(len, passing))
    assert result.refusal is not None
    assert result.refusal.errno == errno.ENOBUFS
    assert result.retries <= MOST_RETRIES * len(places)


@REFUSALS
@pytest.mark.parametrize("pace", [{}, {"pps": 20_000}], ids=str)
def test_refused_frame_without_others_is_counted(
    veth: Veth, refuse: Callable[[Veth], int], pace: dict[str, Any]
) -> None:
    """No other frame waits in the queue, so the queue cannot be full."""
    result = paced([numbered(1, refuse(veth))], veth.a, **pace)
    assert (result.frames, result.errors) == (0, 1)
    assert result.retries <= MOST_RETRIES


@REFUSALS
def test_refused_frames_of_a_generator_and_of_a_loop(
    veth: Veth, refuse: Callable[[Veth], int]
) -> None:
    frames = with_refused(20, {3, 19}, refuse(veth))
    result = paced(iter(frames), veth.a)
    assert (result.frames, result.errors) == (18, 2)
    result = paced(frames, veth.a, loop=10)
    assert (result.frames, result.errors) == (180, 20)


def test_all_frames_refused_is_not_a_full_queue(veth: Veth) -> None:
    """The second for a full queue passes once, not again for each frame."""
    frames = [numbered(i, far_mtu(veth)) for i in range(200)]
    result = paced(frames, veth.a)
    assert (result.frames, result.errors) == (0, 200)
    assert result.retries < 1_000


def test_100_refused_among_3_000(veth: Veth) -> None:
    size = far_mtu(veth)
    places = set(range(7, 3_000, 30))
    frames = with_refused(3_000, places, size)
    passing = [frame for frame in frames if len(frame) != size]
    with RawSocket(veth.b) as receiver:
        result = paced(frames, veth.a)
        assert receive(receiver, len(passing)) == passing
    assert (result.frames, result.errors) == (2_900, 100)


def read_when_full(descriptor: int, name: str) -> list[bytes]:
    """Reads TO_TAP from a tap, each time after the sender has often found the
    tap full. If all remaining frames fit in, they are read at once."""
    frames: list[bytes] = []
    os.set_blocking(descriptor, False)
    while len(frames) < len(TO_TAP):
        often = tx_dropped(name) + 40
        rest = len(TO_TAP) - len(frames)

        def ready(often: int = often, rest: int = rest) -> bool:
            fits = rest <= QUEUE and select([descriptor], [], [], 0)[0]
            return bool(fits) or tx_dropped(name) >= often

        eventually(ready, "the sender did not try the full tap again")
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
    """The kernel counts none of the frames in it as waiting, yet a frame that
    finds no room is tried until there is room. A frame that is tried ahead of
    others can overtake them, if room is made at that moment."""
    descriptor, name = tap
    ip("link", "set", name, "txqueuelen", str(QUEUE))
    tc("qdisc", "replace", "dev", name, "root", "noqueue")
    with Call(read_when_full, descriptor, name) as call:
        result = paced(TO_TAP, name, **pace)
        assert (result.frames, result.errors) == (len(TO_TAP), 0)
        assert sorted(call.result()) == sorted(TO_TAP)


def test_queue_that_stays_full_loses_no_frame_after_a_refused_one(
    veth: Veth,
) -> None:
    """With tc-tbf(8) at 100 bit/s, frames wait in a queue that has room."""
    size = egress_filter(veth)
    shape = "rate 100bit burst 2000 limit 100000"
    tc(*f"qdisc add dev {veth.a} root tbf {shape}".split())
    frames = with_refused(100, {70}, size)
    result = paced(frames, veth.a)
    assert (result.frames, result.errors) == (99, 1)


def test_full_queue_is_tried_again_and_counted(veth: Veth) -> None:
    """A queue of about 20 frames, which empties at 2 Mbit/s: far more slowly
    than any machine fills it."""
    shape = "rate 2mbit burst 2000 limit 2000"
    tc(*f"qdisc add dev {veth.a} root tbf {shape}".split())
    given = [numbered(i) for i in range(500)]
    with (
        RawSocket(veth.b) as receiver,
        Call(receive, receiver, 500) as received,
    ):
        result = paced(given, veth.a)
        # Two CPUs empty the queue, and not always in order.
        assert sorted(received.result()) == given
    assert (result.frames, result.errors) == (500, 0)
    assert result.retries > 0

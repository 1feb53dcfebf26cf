"""Paced sending: its rate, whatever the list, by a clock of the test's own."""

import time
from types import SimpleNamespace
from typing import Any, Final

import pytest
from support import WAIT
from support.frames import numbered, until_stamped
from support.pacing import paced

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.pacing import loads, outlet, pace, sender, sending
from rawmmsg.pacing.pace import TICK, Pacer
from rawmmsg.testing import Veth

SIZE: Final = 64
LISTS: Final = (1, 2, 3, 5, 16, 1000)
PACES: Final = (1, 10, 1_000, 5_000, 20_000, 100_000)


class Clock:
    """Its time passes only when a caller sleeps (60 us longer than asked for)
    or reads it (1 us)."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps = 0

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += seconds + 60e-6


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    time = SimpleNamespace(monotonic=made.monotonic, sleep=made.sleep)
    for module in (loads, outlet, pace, sending):
        monkeypatch.setattr(module, "time", time)
    return made


def pace_options(axis: str, pps: int) -> dict[str, Any]:
    values = {"pps": pps, "mbps": pps * SIZE * 8 / 1e6, "inter": 1 / pps}
    return {axis: values[axis]}


@pytest.mark.parametrize("axis", ["pps", "mbps", "inter"])
@pytest.mark.parametrize("pps", PACES)
@pytest.mark.parametrize("count", LISTS)
def test_list_of_any_length_is_looped_at_the_pace(
    pair: Veth, clock: Clock, count: int, pps: int, axis: str
) -> None:
    """Within 1 %, over two seconds or 200 frames."""
    loop = max(2, -(-max(200, min(2 * pps, 30_000)) // count))
    frames = [numbered(number, SIZE) for number in range(count)]
    result = paced(frames, pair.a, loop=loop, **pace_options(axis, pps))
    assert result.frames == count * loop
    ideal = (result.frames - 1) / pps
    assert result.seconds == pytest.approx(ideal, rel=0.01, abs=0.0003)


@pytest.mark.parametrize(("count", "rate"), [(1, 0), (2, 20), (7, 20)])
def test_rate_of_few_frames_is_the_pace(
    pair: Veth, clock: Clock, count: int, rate: float
) -> None:
    """One frame alone has no rate."""
    frames = [numbered(number, SIZE) for number in range(count)]
    assert paced(frames, pair.a, pps=20).rate == pytest.approx(rate, rel=0.01)


def test_endless_loop_of_one_frame_keeps_the_pace(
    pair: Veth, clock: Clock
) -> None:
    class Stop:
        def is_set(self) -> bool:
            return clock.now > begin + 2

    begin = clock.now
    result = paced(
        [numbered(1, SIZE)],
        pair.a,
        loop=0,
        pps=20_000,
        stop=Stop(),
    )
    assert result.frames == pytest.approx(40_000, rel=0.01)


def test_pace_goes_on_from_pass_to_pass(pair: Veth) -> None:
    result = paced([numbered(1)], pair.a, pps=200, loop=21)
    assert 0.0999 <= result.seconds < WAIT


def test_frames_are_spread(pair: Veth) -> None:
    """The kernel's stamps say that they do not all come in one burst."""
    batch = PacketBatch()
    with (
        RawSocket(pair.b, timestamps="software") as sock,
        RawSocket(pair.a, protocol=0) as sender,
    ):
        until_stamped(sender, sock, numbered(1))
        sock.settimeout(WAIT)
        paced([numbered(i) for i in range(50)], pair.a, pps=500)
        assert sock.recvmmsg_into(batch) == 50
        times = list(batch.timestamps_ns[:50])
    assert times[25] - times[0] >= 0.045e9
    assert times[49] - times[0] >= 0.09e9


def test_pacer_catches_up_at_twice_the_rate() -> None:
    rate = 10_000
    positions = range(10_001)
    pacer = Pacer(rate, lambda: False)
    assert pacer.wait(0)
    first = start = pacer.due(positions, 0, 0.0)
    time.sleep(0.1)  # as a busy machine does
    assert pacer.wait(positions[first])
    begin = time.monotonic()
    for _ in range(20):
        last = pacer.due(positions, first, 0.0)
        assert 1 < last - first <= 2 * TICK * rate + 1, "a burst"
        first = last
        assert pacer.wait(positions[first])
    rate_then = (first - start) / (time.monotonic() - begin)
    assert rate_then <= 2.01 * rate


@pytest.mark.parametrize("loop", [1, 2, 3, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize("count", [1, 3, 600])
def test_list_is_sent_as_often_as_asked(
    pair: Veth, count: int, loop: int
) -> None:
    """A short list is repeated within its batch."""
    frames = [numbered(number, SIZE) for number in range(count)]
    result = paced(frames, pair.a, loop=loop)
    assert (result.frames, result.bytes) == (count * loop, count * loop * SIZE)


def test_one_looped_frame_takes_as_few_calls_as_a_thousand(
    pair: Veth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a pace, the cost of a frame is its share of a call."""
    senders: list[sender.Sender] = []

    class Kept(sender.Sender):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            senders.append(self)

    monkeypatch.setattr(sending, "Sender", Kept)
    paced([numbered(1)], pair.a, loop=4096)
    paced([numbered(i) for i in range(1024)], pair.a, loop=4)
    one, thousand = (kept._sock.statistics() for kept in senders)
    assert one.packets_sent == thousand.packets_sent == 4096
    assert one.batches_sent <= 2 * thousand.batches_sent

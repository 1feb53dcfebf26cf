"""Paced sending: what a generator has yielded is sent while it waits or
works."""

import errno
import signal
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from support.calls import Call, eventually, interrupted, packets_sent
from support.frames import numbered, pending, receive
from support.pacing import paced

from rawmmsg import RawSocket
from rawmmsg.pacing import relay as relay_module
from rawmmsg.pacing.loads import MOST_BYTES, MOST_FRAMES
from rawmmsg.pacing.relay import Relay
from rawmmsg.testing import Veth

PACES = pytest.mark.parametrize(
    "pace", [{}, {"pps": 1e4}, {"mbps": 10.0}, {"inter": 1e-3}], ids=str
)


def no_thread_is_left() -> None:
    eventually(
        lambda: "rawmmsg-send" not in {t.name for t in threading.enumerate()},
        "a thread is left",
    )


@PACES
def test_generator_may_wait_for_the_answer(
    pair: Veth, receiver: RawSocket, pace: dict[str, Any]
) -> None:
    """It gets an answer to each request, and runs in the caller's thread."""

    def requests() -> Iterator[bytes]:
        for i in range(20):
            yield numbered(i)
            assert receive(receiver, 1) == [numbered(i)]
            threads.add(threading.current_thread())

    threads: set[threading.Thread] = set()
    assert paced(requests(), pair.a, **pace).frames == 20
    assert threads == {threading.current_thread()}
    no_thread_is_left()


def test_generator_takes_little_memory(pair: Veth) -> None:
    size, number = 1_400, 60_000

    def packets() -> Iterator[bytes]:
        for _ in range(number):
            yield bytes(size)

    paced([bytes(60)], pair.a)
    tracemalloc.start()
    try:
        result = paced(packets(), pair.a)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.bytes == size * number
    assert peak < result.bytes / 8, "more than a few batches are in memory"


@PACES
def test_each_burst_leaves_before_the_next(
    pair: Veth, receiver: RawSocket, pace: dict[str, Any]
) -> None:
    def bursts() -> Iterator[bytes]:
        for i in range(10):
            burst = [numbered(8 * i + k) for k in range(8)]
            yield from burst
            assert receive(receiver, 8) == burst

    assert paced(bursts(), pair.a, **pace).frames == 80


def test_buffer_may_be_used_again_when_it_was_yielded(
    pair: Veth, receiver: RawSocket
) -> None:
    def packets() -> Iterator[bytearray]:
        buffer = bytearray(64)
        for i in range(500):
            buffer[:] = numbered(i)
            yield buffer

    paced(packets(), pair.a)
    assert pending(receiver) == [numbered(i) for i in range(500)]


def test_generator_does_not_run_far_ahead_of_a_slow_pace(pair: Veth) -> None:
    yielded = 0

    def packets() -> Iterator[bytes]:
        nonlocal yielded
        for i in range(1000):
            yielded += 1
            yield numbered(i)

    stop = threading.Event()
    options: dict[str, Any] = {"pps": 2, "stop": stop}
    with Call(lambda: paced(packets(), pair.a, **options)) as call:
        eventually(lambda: yielded >= 2, "nothing is yielded")
        stop.set()
        result = call.result()
    assert yielded <= result.frames + 4
    no_thread_is_left()


def test_generator_ends_where_sending_fails(veth: Veth) -> None:
    ended = False

    def packets() -> Iterator[bytes]:
        nonlocal ended
        try:
            i = 0
            while True:
                yield numbered(i)
                if i == 10:
                    veth.down("a")
                i += 1
        finally:
            ended = True

    with pytest.raises(OSError) as caught:
        paced(packets(), veth.a)
    assert caught.value.errno == errno.ENETDOWN
    assert packets_sent(caught.value) >= 0
    no_thread_is_left()
    del caught
    assert ended, "the generator was not closed"


@pytest.mark.parametrize("pace", [{}, {"pps": 0.01}], ids=str)
def test_ctrl_c_ends_it_while_the_generator_waits(
    pair: Veth, receiver: RawSocket, pace: dict[str, Any]
) -> None:
    def packets() -> Iterator[bytes]:
        yield numbered(1)
        assert receive(receiver, 1) == [numbered(1)]
        signal.raise_signal(signal.SIGINT)
        yield numbered(2)
        raise AssertionError("the generator continues")

    with pytest.raises(KeyboardInterrupt) as caught:
        paced(packets(), pair.a, **pace)
    assert packets_sent(caught.value) == 1
    no_thread_is_left()


def test_ctrl_c_ends_it_while_the_pace_is_waited_for(
    pair: Veth, receiver: RawSocket
) -> None:
    """Everything is yielded, and the second frame is due in 100 s."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        assert receive(receiver, 1) == [numbered(1)]
        signal.pthread_kill(main, signal.SIGINT)

    with Call(interrupt), pytest.raises(KeyboardInterrupt) as caught:
        paced(iter([numbered(1), numbered(2)]), pair.a, pps=0.01)
    assert packets_sent(caught.value) == 1
    no_thread_is_left()


def test_ctrl_c_while_the_thread_starts_does_not_wait_for_ever(
    pair: Veth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler can raise in Thread.start() when the thread exists already,
    but has not run anything: threading then ends it with a KeyError."""

    class Lost:
        def __init__(self, **options: Any) -> None:
            self.lives = 3

        def start(self) -> None:
            raise KeyboardInterrupt

        def is_alive(self) -> bool:
            self.lives -= 1
            return self.lives > 0

    monkeypatch.setattr("rawmmsg.pacing.streaming.threading.Thread", Lost)
    with pytest.raises(KeyboardInterrupt) as caught:
        paced(iter([numbered(1)]), pair.a)
    assert packets_sent(caught.value) == 0


def test_fast_generator_is_sent_in_full_batches(
    pair: Veth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a batch is sent, the next one fills."""
    relay = Relay(1024, lambda: False)
    with Call(put_all, relay, 3000):
        sizes: list[int] = []
        while sum(sizes) < 3000:
            eventually(lambda: len(relay._frames) in (1024, 952), "not full")
            sizes.append(len(relay.take()[0]))
    assert sizes == [1024, 1024, 952]
    assert MOST_FRAMES == 1024


def put_all(relay: Relay, count: int) -> None:
    for i in range(count):
        assert relay.put(numbered(i), 0.0)
    relay.close()


def test_relay_holds_a_bounded_number_of_bytes() -> None:
    relay = Relay(1024, lambda: False)
    frame = bytes(MOST_BYTES // 4)
    with Call(lambda: [relay.put(frame, 0.0) for _ in range(10)]):
        eventually(lambda: len(relay._frames) == 4, "it is not filled")
        sizes = [len(relay.take()[0])]
        while sum(sizes) < 10:
            sizes.append(len(relay.take()[0]))
    assert max(sizes) <= 4


def test_closed_relay_takes_no_more_frames() -> None:
    relay = Relay(1, lambda: False)
    assert relay.put(b"1", 1.0)
    with Call(relay.put, b"2", 2.0) as call:
        relay.close()
        assert call.result() is False
    assert relay.take() == ([b"1"], [1.0])
    assert relay.take() == ([], [])


def test_relay_stops_waiting_when_stopped() -> None:
    stop = threading.Event()
    relay = Relay(1, stop.is_set)
    with Call(relay.take) as call:
        stop.set()
        assert call.result() == ([], [])


@pytest.mark.parametrize("waiting", [0, 1], ids=["with room", "full"])
def test_ctrl_c_between_any_two_steps_does_no_harm_to_the_relay(
    monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    """put() ends, and so does the sender after it. If the relay is full, put()
    is interrupted in its first waits, which take no time in this test."""
    monkeypatch.setattr(relay_module, "NAP", 0.0)
    for step in range(1, 400):
        relay = Relay(1, lambda: False)
        for _ in range(waiting):
            relay.put(b"1", 1.0)
        if not interrupted(lambda: relay.put(b"2", 2.0), step):  # noqa: B023
            assert not waiting, "put() does not wait"
            break
        with Call(relay.close) as call:
            call.result()
        with Call(relay.take) as call:
            frames, times = call.result()
        assert len(frames) == len(times) >= waiting
        assert relay.take() == ([], [])
    assert step > 20, "put() was not interrupted"

"""pacing.send(): what it takes, how it ends, and what it leaves alone."""

import errno
import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy
import pytest
from support import WAIT
from support.calls import Call, drain, eventually, packets_sent
from support.child import run_python
from support.datagrams import Datagram, super_frame
from support.frames import (
    datagram_pair,
    numbered,
    pending,
    receive,
    same_frames,
)
from support.pacing import arrived, interrupting, paced

from rawmmsg import PacketBatch, RawSocket, pacing
from rawmmsg.testing import Veth

FRAMES: Final = [numbered(i) for i in range(5)]
PACES = pytest.mark.parametrize("pace", [{}, {"pps": 2e4}], ids=str)


def batch_of(*frames: bytes) -> PacketBatch:
    batch = PacketBatch(len(frames), max(map(len, frames)))
    batch.extend(frames)
    return batch


def rows() -> Any:
    joined = numpy.frombuffer(b"".join(FRAMES), numpy.uint8)
    return joined.reshape(len(FRAMES), -1)


GIVEN: Final[dict[str, Callable[[], Any]]] = {
    "list": lambda: FRAMES,
    "tuple": lambda: tuple(FRAMES),
    "generator": lambda: iter(FRAMES),
    "numpy rows": rows,
    "batch": lambda: batch_of(*FRAMES),
    "batch over the caller's memory": lambda: own_memory(rows().copy()),
    "gathered": lambda: [(frame[:14], frame[14:]) for frame in FRAMES],
    "other buffers": lambda: [
        *(bytearray(FRAMES[0]), memoryview(FRAMES[1]), array("H", FRAMES[2])),
        *FRAMES[3:],
    ],
}


def own_memory(memory: Any) -> PacketBatch:
    batch = PacketBatch(buffer=memory)
    batch.lengths[:] = array("I", [len(row) for row in memory])
    batch.set_count(len(memory))
    return batch


@pytest.mark.parametrize("options", [{}, {"pps": 1e5}, {"loop": 3}], ids=str)
@pytest.mark.parametrize("name", GIVEN)
def test_packets_arrive_as_they_were_given(
    pair: Veth, receiver: RawSocket, name: str, options: dict[str, Any]
) -> None:
    result = paced(GIVEN[name](), pair.a, **options)
    expected = FRAMES * options.get("loop", 1)
    same_frames(pending(receiver), expected)
    assert result.frames == len(expected)
    assert result.bytes == sum(map(len, expected))
    assert (result.retries, result.errors, result.refusal) == (0, 0, None)


@pytest.mark.parametrize("make", [list, iter])
@pytest.mark.parametrize("pace", [{}, {"pps": 2e5}], ids=str)
def test_more_than_a_batch_keeps_its_order(
    pair: Veth, make: Callable[..., Any], pace: dict[str, Any]
) -> None:
    """Checked where batches meet: a small receive buffer does not hold all
    frames."""
    number = "ether[20:2]"
    seams = f"{number} & 1023 >= 1000 or {number} & 1023 < 24"
    given = [numbered(i) for i in range(2_500)]
    kept = [packet for i, packet in enumerate(given) if (i + 24) % 1024 < 48]
    before = arrived(pair.b)[0]
    with RawSocket(pair.b, filter=seams) as receiver:
        assert paced(make(given), pair.a, **pace).frames == 2_500
        assert pending(receiver) == kept
    assert arrived(pair.b)[0] - before == 2_500


@pytest.mark.parametrize("loop", [0, 1, 5])
@pytest.mark.parametrize("empty", [list, PacketBatch, lambda: iter([])])
def test_nothing_to_send_ends_at_once(
    pair: Veth, loop: int, empty: Callable[[], Any]
) -> None:
    result = paced(empty(), pair.a, loop=loop)
    assert (result.frames, result.bytes, result.rate) == (0, 0, 0.0)


def test_batch_is_left_as_it_was(pair: Veth) -> None:
    """A batch that was received, with its columns."""
    batch = PacketBatch()
    with RawSocket(pair.b) as sock:
        paced(FRAMES, pair.a)
        sock.recvmmsg_into(batch)
    before = batch.tolist(), list(batch.wire_lengths[:5])
    for options in ({}, {"pps": 1e5}, {"loop": 700}):
        paced(batch, pair.a, **options)
    assert (batch.tolist(), list(batch.wire_lengths[:5])) == before


@pytest.mark.parametrize("loop", [1, 3])
def test_super_frame_keeps_its_offload_header(veth: Veth, loop: int) -> None:
    batch = super_frame(Datagram(payload=bytes(3000)), gso_size=1000)
    received = PacketBatch(8, batch.frame_size)
    got: list[tuple[int, int]] = []
    with (
        RawSocket(veth.a, protocol=0, vnet_hdr=True) as sender,
        RawSocket(veth.b, vnet_hdr=True) as receiver,
    ):
        receiver.settimeout(WAIT)
        assert pacing.send(sender, batch, loop=loop, pps=1e5).errors == 0
        while len(got) < loop:
            receiver.recvmmsg_into(received)
            got += zip(map(len, received), received.gso_sizes, strict=False)
    assert got == [(len(batch[0]), 1000)] * loop


# How it ends


@PACES
def test_stop_gives_an_exact_result(pair: Veth, pace: dict[str, Any]) -> None:
    before = arrived(pair.b)
    stop = threading.Event()
    packets = [numbered(i, 64 + i) for i in range(100)]
    with Call(
        lambda: paced(packets, pair.a, loop=0, stop=stop, **pace)
    ) as call:
        eventually(
            lambda: arrived(pair.b)[0] > before[0] + 500, "nothing was sent"
        )
        stop.set()
    result = call.result()
    after = arrived(pair.b)
    assert result.frames == after[0] - before[0]
    assert result.bytes == after[1] - before[1]


def test_thread_stops_a_long_pause(pair: Veth, receiver: RawSocket) -> None:
    stop = threading.Event()
    with Call(
        lambda: paced([numbered(1)] * 2, pair.a, inter=3600, stop=stop)
    ) as call:
        assert receive(receiver, 1) == [numbered(1)]
        stop.set()
    assert call.result().frames == 1


def test_stop_set_before_sends_nothing(
    pair: Veth, receiver: RawSocket
) -> None:
    stop = threading.Event()
    stop.set()
    assert paced([numbered(1)], pair.a, stop=stop).frames == 0
    assert pending(receiver) == []


@PACES
def test_ctrl_c_raises_and_tells_what_was_sent(
    pair: Veth, pace: dict[str, Any]
) -> None:
    before = arrived(pair.b)[0]
    with (
        interrupting(pair.b, 500),
        pytest.raises(KeyboardInterrupt) as caught,
    ):
        paced(FRAMES, pair.a, loop=0, **pace)
    assert packets_sent(caught.value) == arrived(pair.b)[0] - before >= 500


def test_result_is_of_this_call_alone(
    pair: Veth, sender: RawSocket, receiver: RawSocket
) -> None:
    sender.sendmmsg_all(FRAMES)
    for count in (1, 3):
        result = pacing.send(sender, FRAMES[:count])
        assert result.frames == count
        assert result.bytes == sum(map(len, FRAMES[:count]))
    assert len(pending(receiver)) == 9


def test_refused_packets_are_skipped_and_counted(
    pair: Veth, receiver: RawSocket
) -> None:
    packets = [numbered(0), numbered(1, 1515), b"short", numbered(2)]
    result = paced(packets, pair.a, loop=2)
    assert pending(receiver) == [numbered(0), numbered(2)] * 2
    assert (result.frames, result.errors) == (4, 4)
    assert result.refusal is not None
    assert result.refusal.errno == errno.EMSGSIZE


def test_link_that_goes_down_is_an_error(veth: Veth) -> None:
    with Call(lambda: paced(FRAMES, veth.a, loop=0, pps=1e4)) as call:
        eventually(lambda: arrived(veth.b)[0] > 0, "nothing was sent")
        veth.down("a")
    error = call.error()
    assert isinstance(error, OSError)
    assert error.errno == errno.ENETDOWN
    assert packets_sent(error) >= arrived(veth.b)[0] > 0


def test_closed_socket_is_an_error(pair: Veth, sender: RawSocket) -> None:
    with Call(lambda: pacing.send(sender, FRAMES, loop=0, pps=1e4)) as call:
        eventually(lambda: sender.statistics().packets_sent > 9, "no start")
        sender.close()
    error = call.error()
    assert isinstance(error, OSError)
    assert error.errno == errno.EBADF
    with pytest.raises(OSError, match="the socket was closed"):
        pacing.send(sender, FRAMES)


def test_error_of_an_iterable_comes_after_its_packets(
    pair: Veth, receiver: RawSocket
) -> None:
    packets: list[Any] = [*FRAMES, None]
    with pytest.raises(TypeError, match="not NoneType") as caught:
        paced(iter(packets), pair.a)
    assert pending(receiver) == FRAMES
    assert packets_sent(caught.value) == len(FRAMES)


# The user's socket


@pytest.mark.parametrize("timeout", [None, 0.0, 5.0])
def test_timeout_stays_and_another_thread_may_receive(
    pair: Veth, timeout: float | None
) -> None:
    with RawSocket(pair.a) as sock, Call(receive, sock, 1) as call:
        eventually(lambda: sock.gettimeout() == WAIT, "receives")
        if timeout is None:
            pacing.send(sock, FRAMES, pps=50)
            assert call.pending, "the receiver was disturbed"
        paced([numbered(7)], pair.b)
        assert call.result() == [numbered(7)]
        sock.settimeout(timeout)
        assert pacing.send(sock, FRAMES).frames == 5
        assert sock.gettimeout() == timeout


@pytest.mark.parametrize("timeout", [None, 0.0, 0.001])
def test_busy_device_is_waited_for(timeout: float | None) -> None:
    """A peer with a full queue, for longer than the timeout."""
    peer, sock = datagram_pair()
    packets = [numbered(i) for i in range(3000)]
    with peer, sock:
        sock.settimeout(timeout)
        with Call(pacing.send, sock, packets) as call:
            call.wait(0.2)
            assert call.pending, "the peer has room for all"
            got: list[bytes] = []
            while len(got) < len(packets):
                got += drain(peer)
        assert call.result().frames == len(packets)
    same_frames(got, packets)


@pytest.mark.parametrize("timeout", [None, 0.0])
def test_stop_ends_the_wait_for_a_busy_device(timeout: float | None) -> None:
    peer, sock = datagram_pair()
    stop = threading.Event()
    with peer, sock:
        sock.settimeout(timeout)
        with Call(
            lambda: pacing.send(sock, FRAMES, loop=0, stop=stop)
        ) as call:
            call.wait(0.1)
            assert call.pending
            stop.set()
            assert call.result().frames == len(drain(peer)) > 0


# Arguments


REFUSED: Final[dict[str, tuple[dict[str, Any], type[Exception], str]]] = {
    "two paces": ({"pps": 1, "mbps": 1}, ValueError, "not pps and mbps"),
    "no pace": ({"pps": 0}, ValueError, "pps must be a positive"),
    "negative": ({"mbps": -1}, ValueError, "mbps must be a positive"),
    "not a number": ({"inter": float("nan")}, ValueError, "inter must be"),
    "endless": ({"pps": float("inf")}, ValueError, "pps must be a positive"),
    "loop": ({"loop": -1}, ValueError, "loop must be 0"),
    "bytes": ({"packets": b"one"}, TypeError, r"not bytes; .* \[packet\]"),
    "str": ({"packets": "text"}, TypeError, "not str"),
    "int": ({"packets": 5}, TypeError, "not int"),
    "list of int": ({"packets": [5]}, TypeError, "not int"),
    "list of str": ({"packets": ["text"]}, TypeError, "not str"),
    "tuple of str": (
        {"packets": [("text",)]},
        TypeError,
        "not a tuple with str",
    ),
    "numpy bytes": (
        {"packets": numpy.frombuffer(FRAMES[0], "u1")},
        TypeError,
        r"not ndarray; .* \[packet\]",
    ),
    "half a loop": ({"loop": 1.5}, TypeError, "'float' object cannot be"),
    "float loop": ({"loop": 1.0}, TypeError, "'float' object cannot be"),
    "str as pace": ({"pps": "100"}, TypeError, "pps must be a number"),
    "no Event": ({"stop": True}, TypeError, "stop must be an Event"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused(
    pair: Veth, receiver: RawSocket, name: str
) -> None:
    options, kind, words = REFUSED[name]
    packets = options.get("packets", FRAMES)
    options = {k: v for k, v in options.items() if k != "packets"}
    with pytest.raises(kind, match=words):
        paced(packets, pair.a, **options)
    assert pending(receiver) == []


@pytest.mark.no_network
@pytest.mark.parametrize("sock", [None, "eth1"])
def test_what_is_not_a_socket_is_refused(sock: Any) -> None:
    with pytest.raises(TypeError, match="sock must be a RawSocket"):
        pacing.send(sock, FRAMES)


@pytest.mark.parametrize(
    "pace", [{"pps": Decimal(20_000)}, {"inter": Decimal("0.0001")}], ids=str
)
def test_a_pace_of_any_kind_of_number(
    pair: Veth, receiver: RawSocket, pace: dict[str, Any]
) -> None:
    paced(FRAMES, pair.a, loop=numpy.int64(2), **pace)
    assert receive(receiver, 2 * len(FRAMES)) == 2 * FRAMES


def test_a_loop_without_end_can_be_stopped(pair: Veth) -> None:
    stop = threading.Event()
    with Call(lambda: paced(FRAMES, pair.a, loop=10**30, stop=stop)) as call:
        assert call.pending
        stop.set()
        assert call.result().frames >= 0


def test_an_error_that_takes_no_attributes_is_raised_as_it_is(
    pair: Veth,
) -> None:
    @dataclass(frozen=True)
    class FrozenError(Exception):
        number: int

    def packets() -> Iterator[bytes]:
        yield FRAMES[0]
        raise FrozenError(5)

    with pytest.raises(FrozenError):
        paced(packets(), pair.a)


@pytest.mark.no_network
def test_pacing_does_not_import_scapy() -> None:
    run_python(
        "import sys, rawmmsg\n"
        "rawmmsg.pacing.send\n"
        "assert 'scapy' not in sys.modules\n"
    )

"""sendmmsg(), sendmmsg_all() and send(): accepted packets, errors, and full
queues."""

import errno
import select
import socket
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy
import pytest
from support import WAIT
from support.calls import Call, eventually, packets_sent, raises
from support.frames import (
    HEADER_SIZE,
    datagram_pair,
    frame,
    number_of,
    numbered,
    pending,
    receive,
)
from support.linux import ip, tc

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

# Packets in one of the forms that sendmmsg() and sendmmsg_all() accept.
Packets = Any


def frames(count: int, size: int = 64) -> list[bytes]:
    return [numbered(i, size) for i in range(count)]


def batch_of(packets: Sequence[bytes]) -> PacketBatch:
    batch = PacketBatch(max(1, len(packets)), 2048)
    batch.extend(packets)
    return batch


SHAPES: Final[dict[str, Callable[[Sequence[bytes]], Packets]]] = {
    "batch": batch_of,
    "list": list,
    "tuple": tuple,
    "list of bytearrays": lambda packets: [*map(bytearray, packets)],
    "list of memoryviews": lambda packets: [memoryview(p) for p in packets],
    "list of gathers": lambda packets: [(p[:14], p[14:]) for p in packets],
    "list of both": lambda packets: [
        (p,) if i % 2 else p for i, p in enumerate(packets)
    ],
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Callable[..., Packets]:
    """A form in which packets can be given."""
    return SHAPES[request.param]


# Accepted packets


def test_packets_arrive_as_they_were_given(
    sender: RawSocket, receiver: RawSocket, shape: Callable[..., Packets]
) -> None:
    given = frames(20, 100)
    assert sender.sendmmsg(shape(given)) == 20
    sender.sendmmsg_all(shape(given))
    assert receive(receiver, 40) == given * 2


def test_start_skips_the_packets_before_it(
    sender: RawSocket, receiver: RawSocket, shape: Callable[..., Packets]
) -> None:
    given = frames(5)
    packets = shape(given)
    assert sender.sendmmsg(packets, start=3) == 2
    assert sender.sendmmsg(packets, 4) == 1
    assert sender.sendmmsg(packets, start=5) == 0
    assert receive(receiver, 3) == [given[3], given[4], given[4]]


def test_start_outside_the_packets_is_refused(
    sender: RawSocket, receiver: RawSocket, shape: Callable[..., Packets]
) -> None:
    for start in (-1, 6, 2**40, -(2**40)):
        with pytest.raises(ValueError, match="start must be 0 to 5"):
            sender.sendmmsg(shape(frames(5)), start=start)
    assert pending(receiver) == []


def test_sending_no_packets_returns_0(
    sender: RawSocket, shape: Callable[..., Packets]
) -> None:
    assert sender.sendmmsg(shape([])) == 0
    sender.sendmmsg_all(shape([]))
    assert sender.statistics().batches_sent == 0


def test_sendmmsg_sends_at_most_1024_packets(
    sender: RawSocket, shape: Callable[..., Packets]
) -> None:
    """Only its return value says so."""
    for total, expected in (
        (1_024, [1_024]),
        (1_025, [1_024, 1]),
        (2_500, [1_024, 1_024, 452]),
    ):
        packets = shape([numbered(1)] * total)
        counts: list[int] = []
        while sum(counts) < total:
            counts.append(sender.sendmmsg(packets, start=sum(counts)))
        assert counts == expected


def test_sendmmsg_all_makes_as_few_calls_as_the_kernel_allows(
    sender: RawSocket, shape: Callable[..., Packets]
) -> None:
    sender.sendmmsg_all(shape([numbered(1)] * 2_500))
    statistics = sender.statistics()
    assert (statistics.packets_sent, statistics.batches_sent) == (2_500, 3)
    assert statistics.send_retries == 0


def test_sendmmsg_all_of_more_than_1024_packets_keeps_the_order(
    shape: Callable[..., Packets],
) -> None:
    peer, sock = datagram_pair()
    count = 1_500
    with peer, sock:
        with Call(lambda: [peer.recv(2048) for _ in range(count)]) as call:
            sock.sendmmsg_all(shape(frames(count)))
        assert [*map(number_of, call.result())] == [*range(count)]


def test_sendmmsg_all_sends_a_batch_of_more_than_1024_packets(
    sender: RawSocket, receiver: RawSocket
) -> None:
    batch = PacketBatch(1_100, 64)
    rows = numpy.asarray(batch)
    rows[:] = numpy.frombuffer(frame(bytes(50)), "u1")
    numpy.asarray(batch.lengths)[:] = 64
    batch.set_count(1_100)
    sender.sendmmsg_all(batch)
    assert sender.statistics().packets_sent == 1_100


def test_length_written_into_the_column_is_used(
    sender: RawSocket, receiver: RawSocket
) -> None:
    batch = batch_of(frames(3, 100))
    batch.lengths[1] = 60
    sender.sendmmsg_all(batch)
    given = frames(3, 100)
    assert receive(receiver, 3) == [given[0], given[1][:60], given[2]]


@pytest.mark.parametrize("length", [2_049, 2**32 - 1])
def test_length_beyond_the_frame_is_refused(
    sender: RawSocket, receiver: RawSocket, length: int
) -> None:
    batch = batch_of(frames(3))
    batch.lengths[1] = length
    for send in (sender.sendmmsg, sender.sendmmsg_all):
        with pytest.raises(
            ValueError, match=r"lengths\[1\] is \d+, more than"
        ):
            send(batch)
    assert pending(receiver) == [], "packets before it were sent"
    # Only packets that are sent are checked.
    assert sender.sendmmsg(batch, start=2) == 1


def test_received_batch_can_be_sent_on(
    sender: RawSocket, receiver: RawSocket
) -> None:
    """As by a forwarder, and then used for the next receive."""
    batch = PacketBatch(8, 2048)
    for _ in range(3):
        sender.sendmmsg_all(frames(5, 200))
        receiver.settimeout(WAIT)
        count = receiver.recvmmsg_into(batch)
        receiver.sendmmsg_all(batch)
        assert batch.tolist() == frames(5, 200)[:count]
        pending(receiver)


def test_gathered_parts_are_joined(
    sender: RawSocket, receiver: RawSocket
) -> None:
    """Parts may be empty, and any type that is a buffer."""
    whole = frame(bytes(range(100)))
    parts = (
        whole[:6],
        b"",
        bytearray(whole[6:12]),
        memoryview(whole)[12:40],
        array("H", whole[40:50]),
        numpy.frombuffer(whole[50:], "u1"),
    )
    assert sender.sendmmsg([parts, whole]) == 2
    assert receive(receiver, 2) == [whole, whole]


def test_gathered_packet_has_at_most_as_many_parts_as_the_kernel_accepts(
    sender: RawSocket, receiver: RawSocket
) -> None:
    whole = frame(bytes(1_010))
    parts = tuple(whole[i : i + 1] for i in range(len(whole)))
    assert len(parts) == 1_024
    sender.sendmmsg_all([parts])
    assert receive(receiver, 1) == [whole]
    with pytest.raises(ValueError, match=r"packet 1 has 1025 parts"):
        sender.sendmmsg_all([parts, (*parts, b"x")])
    assert pending(receiver) == []


def test_sequences_of_any_type_are_accepted(
    sender: RawSocket, receiver: RawSocket
) -> None:
    class Numbers(Sequence[bytes]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: Any) -> Any:
            return numbered(index)

    sender.sendmmsg_all(Numbers())
    rows = numpy.frombuffer(b"".join(frames(3)), "u1").reshape(3, 64)
    sender.sendmmsg_all(list(rows))
    sender.sendmmsg_all(rows)
    assert receive(receiver, 9) == frames(3) * 3


def test_rows_of_an_array_are_packets(
    sender: RawSocket, receiver: RawSocket
) -> None:
    given = [numbered(i) for i in range(2_000)]
    rows = numpy.frombuffer(b"".join(given), "u1").reshape(2_000, 64)
    assert sender.sendmmsg(rows, 10, 13) == 3
    assert sender.sendmmsg(rows, stop=2) == 2
    assert receive(receiver, 5) == given[10:13] + given[:2]
    sender.sendmmsg_all(rows)
    assert receive(receiver, 2_000) == given
    # Rows further apart than they are long, and of larger items.
    sender.sendmmsg_all(rows[:3, :60])
    sender.sendmmsg_all(rows[:3].view("<u4"))
    assert receive(receiver, 6) == [p[:60] for p in given[:3]] + given[:3]


def test_array_that_holds_no_rows_of_bytes_is_refused(
    sender: RawSocket,
) -> None:
    rows = numpy.zeros((3, 128), "u1")
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        sender.sendmmsg(rows[:, ::2])
    with pytest.raises(TypeError):
        sender.sendmmsg_all(numpy.zeros((), "u1"))
    with raises(errno.EINVAL, "packet 0: 1 byte, shorter"):
        sender.sendmmsg(numpy.zeros(3, "u1"))


def test_send_takes_any_buffer(sender: RawSocket, receiver: RawSocket) -> None:
    for packet in (
        numbered(1),
        bytearray(numbered(1)),
        numpy.frombuffer(numbered(1), "<u8"),
    ):
        assert sender.send(packet) == 64
    assert receive(receiver, 3) == [numbered(1)] * 3


NO_PACKETS: Final[dict[str, Any]] = {
    "bytes": numbered(0),
    "bytearray": bytearray(numbered(0)),
    "empty bytes": b"",
    "empty bytearray": bytearray(),
    "str": "text",
    "empty str": "",
    "None": None,
    "int": 7,
    "dict": {b"a": 1},
    "set": {numbered(0)},
    "memoryview": memoryview(numbered(0)),
    "list of int": [7],
    "list of str": ["text"],
    "list of None": [None],
    "list of lists": [[numbered(0)]],
    "tuple of str": [("text",)],
    "tuple of tuples": [((numbered(0),),)],
}


@pytest.mark.parametrize("what", NO_PACKETS)
def test_other_objects_are_a_type_error(
    sender: RawSocket, receiver: RawSocket, what: str
) -> None:
    """A single bytes object is refused too, because one packet is not a
    sequence of packets."""
    for send in (sender.sendmmsg, sender.sendmmsg_all):
        with pytest.raises(TypeError):
            send(NO_PACKETS[what])
    assert pending(receiver) == []


def test_generator_is_refused_and_not_started(sender: RawSocket) -> None:
    """Packets that it has yielded could not be sent again with `start`."""
    packets = (numbered(i) for i in range(3))
    for send in (sender.sendmmsg, sender.sendmmsg_all):
        with pytest.raises(TypeError, match="sequence of buffers"):
            send(packets)  # type: ignore[arg-type]
    assert next(packets) == numbered(0)


def test_invalid_element_sends_no_packet_of_the_call(
    sender: RawSocket, receiver: RawSocket
) -> None:
    with pytest.raises(TypeError):
        sender.sendmmsg([numbered(0), 7])  # type: ignore[list-item]
    assert pending(receiver) == []


def test_every_error_of_sendmmsg_all_has_packets_sent(
    sender: RawSocket,
) -> None:
    packets: list[Any] = [numbered(0)] * 1_024 + [7]
    with pytest.raises(TypeError) as caught:
        sender.sendmmsg_all(packets)
    assert packets_sent(caught.value) == 1_024
    with pytest.raises(TypeError) as caught:
        sender.sendmmsg_all(7)  # type: ignore[arg-type]
    assert packets_sent(caught.value) == 0


def test_buffers_are_released_after_the_call(sender: RawSocket) -> None:
    packet = bytearray(numbered(0))
    sender.sendmmsg([packet, (packet, packet)])
    sender.sendmmsg_all([packet])
    sender.send(packet)
    with pytest.raises(TypeError):
        sender.sendmmsg_all([packet, 7])  # type: ignore[list-item]
    with raises(errno.EINVAL, "packet 1: 5 bytes, shorter"):
        sender.sendmmsg_all([packet, b"short"])
    packet.append(0)


# start and stop


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("stop", [*range(4), None])
def test_range_is_that_of_a_slice(
    sender: RawSocket,
    receiver: RawSocket,
    shape: Callable[..., Packets],
    start: int,
    stop: int | None,
) -> None:
    given = frames(3)
    packets = shape(given)
    if stop is not None and stop < start:
        with pytest.raises(ValueError, match=f"stop must be {start} .* to 3"):
            sender.sendmmsg(packets, start, stop)
    else:
        sent = given[start:stop]
        assert sender.sendmmsg(packets, start, stop) == len(sent)
        assert receive(receiver, len(sent)) == sent
    assert pending(receiver) == []


def test_range_is_at_most_1024_packets(sender: RawSocket) -> None:
    packets = [numbered(0)] * 2_000
    assert sender.sendmmsg(packets, stop=1_500) == 1_024
    assert sender.sendmmsg(packets, 1_024, stop=1_500) == 476


def test_packets_outside_the_range_are_not_checked(
    sender: RawSocket, receiver: RawSocket
) -> None:
    packets: Any = [None, numbered(1), None]
    assert sender.sendmmsg(packets, 1, 2) == 1
    batch = PacketBatch(3, 64)
    batch.extend(frames(3, 60))
    batch.lengths[0] = batch.lengths[2] = 65
    assert sender.sendmmsg(batch, start=1, stop=2) == 1
    assert receive(receiver, 2) == [numbered(1), frames(3, 60)[1]]


def test_range_applies_to_addresses_too(
    pair: Veth, receiver: RawSocket
) -> None:
    """There is one address for each packet of the sequence, including those
    that are not sent."""
    with RawSocket(protocol=0x88B5) as sock:
        addresses: Any = [(pair.a, 0)] * 2 + ["wrong"]
        packets = frames(3)
        assert sock.sendmmsg(packets, 1, 2, addresses=addresses) == 1
        with pytest.raises(ValueError, match="each of 3 packets, not 1"):
            sock.sendmmsg(packets, 1, 2, addresses=addresses[:1])
    assert receive(receiver, 1) == packets[1:2]


# Packets that the kernel refuses


TAGGED = numbered(0)[:12] + b"\x81\x00\x00\x05" + numbered(0)[12:]


def with_size(size: int, packet: bytes) -> bytes:
    return packet + bytes(size - len(packet))


REFUSED: Final = {
    "shorter than the header": (bytes(HEADER_SIZE - 1), errno.EINVAL),
    "empty": (b"", errno.EINVAL),
    "longer than the MTU": (with_size(1_515, numbered(0)), errno.EMSGSIZE),
    "far longer": (with_size(100_000, numbered(0)), errno.EMSGSIZE),
    "tagged and longer": (with_size(1_519, TAGGED), errno.EMSGSIZE),
}
# Texts of the errors.
TEXTS: Final = {
    errno.EINVAL: r"bytes, shorter than the link header \(14\)",
    errno.EMSGSIZE: "bytes, the MTU of .* allows 1,514",
}
TAKEN: Final = {
    "as long as the MTU": with_size(1_514, numbered(0)),
    "tagged, four bytes more": with_size(1_518, TAGGED),
    "a header only": numbered(0)[:HEADER_SIZE],
}


@pytest.mark.parametrize("method", ["send", "sendmmsg", "sendmmsg_all"])
def test_frame_that_the_kernel_refuses_raises_its_errno(
    sender: RawSocket, receiver: RawSocket, method: str
) -> None:
    for packet, number in REFUSED.values():
        which = "the packet" if method == "send" else "packet 0"
        text = f"{which}: {len(packet):,} {TEXTS[number]}"
        with raises(number, text) as caught:
            getattr(sender, method)(packet if method == "send" else [packet])
        assert caught.value.filename == sender.interface
    assert pending(receiver) == []


def test_error_states_the_length_without_the_offload_header(
    pair: Veth,
) -> None:
    with RawSocket(pair.a, protocol=0, vnet_hdr=12) as sock:
        with raises(errno.EINVAL, "packet 0: 5 bytes, shorter"):
            sock.sendmmsg([b"short"])
        with raises(errno.EMSGSIZE, "packet 0: 2,000 bytes, the MTU"):
            sock.sendmmsg([(bytes(1_000), bytes(1_000))])


def test_error_names_a_packet_without_a_link_header(pair: Veth) -> None:
    with RawSocket(pair.a, protocol=0, type=socket.SOCK_DGRAM) as sock:
        with raises(errno.EMSGSIZE, "packet 0: 1,501 .* allows 1,500"):
            address = (pair.a, 0x88B5, 0, 1, bytes(6))
            sock.sendmmsg([bytes(1_501)], addresses=[address])


def test_error_on_a_socket_of_all_interfaces_names_the_length(
    pair: Veth,
) -> None:
    """The interface is the one in the address."""
    with RawSocket(protocol=0x88B5) as sock:
        with raises(errno.EINVAL, r"packet 0 \(5 bytes\): Invalid argument"):
            sock.sendmmsg([b"short"], addresses=[(pair.a, 0)])


def test_error_on_other_sockets_names_packet_and_length() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with other, RawSocket(fileno=one.detach()) as sock:
        with raises(errno.EMSGSIZE, r"packet 0 \(16,777,216 bytes\): Mess"):
            sock.sendmmsg([bytes(1 << 24)])
        other.close()
        with raises(errno.ENOTCONN, r"the packet \(1 byte\): Transport"):
            sock.send(b"a")


def test_frame_of_the_maximum_length_is_sent(
    sender: RawSocket, receiver: RawSocket
) -> None:
    for what, packet in TAKEN.items():
        assert sender.send(packet) == len(packet), what
        assert receive(receiver, 1) == [packet], what


def test_invalid_packet_in_the_middle_is_an_error_of_the_next_call(
    sender: RawSocket, receiver: RawSocket, shape: Callable[..., Packets]
) -> None:
    """The kernel returns the number of packets before it instead of the
    error."""
    good = frames(5)
    for bad, number in REFUSED.values():
        # Cut to the frames of the batch.
        packets = shape([*good[:2], bad[:2_048], *good[2:]])
        assert sender.sendmmsg(packets) == 2
        with raises(number, f"packet 2: .* {TEXTS[number]}"):
            sender.sendmmsg(packets, start=2)
        assert sender.sendmmsg(packets, start=3) == 3
        assert receive(receiver, 5) == good
    assert sender.statistics().packets_sent == 5 * len(REFUSED)


def test_sendmmsg_all_names_the_invalid_packet(
    sender: RawSocket, receiver: RawSocket, shape: Callable[..., Packets]
) -> None:
    good = frames(5)
    packets = shape([*good[:2], bytes(5), *good[2:]])
    with raises(errno.EINVAL, f"packet 2: 5 {TEXTS[errno.EINVAL]}") as caught:
        sender.sendmmsg_all(packets)
    assert packets_sent(caught.value) == 2
    assert receive(receiver, 2) == good[:2]
    assert pending(receiver) == [], "packets after the invalid one were sent"


def test_index_in_the_error_counts_across_system_calls(
    sender: RawSocket,
) -> None:
    packets = [numbered(0)] * 2_000
    packets[1_500] = b"short"
    with raises(errno.EINVAL, "packet 1500: 5 bytes, ") as caught:
        sender.sendmmsg_all(packets)
    assert packets_sent(caught.value) == 1_500


def test_every_other_socket_gets_a_copy_of_sent_packets(
    pair: Veth, sender: RawSocket
) -> None:
    """Every socket that listens for all protocols on the interface, except the
    sender. This is why send-only sockets use protocol=0."""
    with RawSocket(pair.a) as one, RawSocket(pair.a) as two:
        one.send(numbered(1))
        sender.send(numbered(2))
        assert receive(two, 2) == [numbered(1), numbered(2)]
        assert receive(one, 1) == [numbered(2)]
        assert pending(one) == pending(two) == []


# Full queues


BIG: Final = numbered(0, 1_000)
Throttle: TypeAlias = Callable[[str, int], None]


@pytest.fixture
def throttle(pair: Veth) -> Iterator[Throttle]:
    """Puts a token bucket filter, tc-tbf(8), in front of the sender: a rate,
    and the bytes that may queue."""

    def throttle(rate: str, limit: int) -> None:
        tc(
            *("qdisc", "replace", "dev", pair.a, "root"),
            *("tbf", "burst", "2000", "rate", rate, "limit", str(limit)),
        )

    yield throttle
    tc("qdisc", "delete", "dev", pair.a, "root")


@pytest.fixture
def stopped(throttle: Throttle, sender: RawSocket) -> RawSocket:
    """A sender with a full queue, which empties too slowly to matter."""
    throttle("8bit", 3_000)
    with raises(errno.ENOBUFS):
        for _ in range(100):
            sender.send(BIG)
    return sender


def test_full_queue_is_an_immediate_error_of_sendmmsg_and_send(
    stopped: RawSocket,
) -> None:
    """Even on a blocking socket: they do not try again."""
    for _ in range(3):
        with raises(errno.ENOBUFS):
            stopped.sendmmsg([BIG])
        with raises(errno.ENOBUFS):
            stopped.send(BIG)
    assert stopped.statistics().send_retries == 0


def test_poll_reports_a_socket_with_a_full_queue_as_writable(
    stopped: RawSocket,
) -> None:
    """This is why sendmmsg_all() pauses instead of polling."""
    poll = select.poll()
    poll.register(stopped.fileno(), select.POLLOUT)
    with raises(errno.ENOBUFS):
        stopped.send(BIG)
    assert poll.poll(0) == [(stopped.fileno(), select.POLLOUT)]


def test_sendmmsg_returns_the_count_when_the_queue_fills_up(
    throttle: Throttle, sender: RawSocket, receiver: RawSocket
) -> None:
    throttle("8bit", 3_000)
    count = sender.sendmmsg([BIG] * 20)
    assert 0 < count < 20
    with raises(errno.ENOBUFS):
        sender.sendmmsg([BIG] * 20, start=count)
    assert sender.statistics().packets_sent == count


def test_sendmmsg_all_waits_for_a_full_queue_until_the_timeout(
    stopped: RawSocket,
) -> None:
    sent = stopped.statistics().packets_sent
    stopped.settimeout(0.2)
    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        stopped.sendmmsg_all([BIG] * 5)
    assert time.monotonic() - began >= 0.2, "the call timed out early"
    assert packets_sent(caught.value) == 0
    statistics = stopped.statistics()
    assert statistics.send_retries > 0, "the retries were not counted"
    assert statistics.packets_sent == sent


def test_sendmmsg_all_without_a_timeout_raises_after_a_second(
    stopped: RawSocket,
) -> None:
    began = time.monotonic()
    with raises(errno.ENOBUFS) as caught:
        stopped.sendmmsg_all([BIG] * 5)
    assert 1.0 <= time.monotonic() - began < WAIT
    assert packets_sent(caught.value) == 0
    # The pauses grow. Without them there would be a hundred thousand retries.
    assert 0 < stopped.statistics().send_retries < 1_000


def test_nonblocking_sendmmsg_all_does_not_retry(
    stopped: RawSocket,
) -> None:
    stopped.setblocking(False)
    with raises(errno.ENOBUFS) as caught:
        stopped.sendmmsg_all([BIG])
    assert packets_sent(caught.value) == 0
    assert stopped.statistics().send_retries == 0


def test_error_of_a_full_queue_has_packets_sent(
    throttle: Throttle, sender: RawSocket
) -> None:
    throttle("8bit", 3_000)
    sender.settimeout(0.05)
    with pytest.raises(TimeoutError) as caught:
        sender.sendmmsg_all([BIG] * 20)
    statistics = sender.statistics()
    assert 0 < packets_sent(caught.value) == statistics.packets_sent < 20


def test_close_ends_the_pause_after_a_full_queue(stopped: RawSocket) -> None:
    with Call(stopped.sendmmsg_all, [BIG]) as call:
        call.until_blocked()
        stopped.close()
    error = call.error()
    assert isinstance(error, OSError)
    assert error.errno == errno.EBADF
    assert packets_sent(error) == 0


def test_sendmmsg_all_over_a_slow_queue_delivers_everything_in_order(
    throttle: Throttle,
    sender: RawSocket,
    receiver: RawSocket,
    shape: Callable[..., Packets],
) -> None:
    """Nearly every packet finds the queue full."""
    throttle("20mbit", 3_000)
    given = frames(200, 1_000)
    sender.sendmmsg_all(shape(given))
    assert receive(receiver, 200) == given
    assert pending(receiver) == [], "a packet was sent twice"
    statistics = sender.statistics()
    assert statistics.packets_sent == 200
    assert statistics.send_retries > 0


def test_every_packet_sent_restarts_the_second_without_progress(
    throttle: Throttle, sender: RawSocket, receiver: RawSocket
) -> None:
    """A slow queue is not a stuck queue."""
    throttle("24kbit", 1_000)
    given = frames(8, 1_000)
    began = time.monotonic()
    sender.sendmmsg_all(given)
    assert time.monotonic() - began > 1.3, (
        "the queue was too fast for this test"
    )
    assert receive(receiver, 8) == given


def test_qdisc_bypass_skips_the_queue(pair: Veth, stopped: RawSocket) -> None:
    with (
        RawSocket(pair.a, protocol=0, qdisc_bypass=True) as bypass,
        RawSocket(pair.b) as receiver,
    ):
        bypass.sendmmsg_all(frames(50, 1_000))
        assert receive(receiver, 50) == frames(50, 1_000)


def test_calls_wait_for_room_in_the_send_buffer(
    pair: Veth, throttle: Throttle, receiver: RawSocket
) -> None:
    """In this case poll(2) reports when there is room, so all calls can wait
    in every mode, and nothing counts as a retry."""
    throttle("2mbit", 1_000_000)
    given = frames(50, 1_000)
    with RawSocket(pair.a, protocol=0, sndbuf=4_608) as sender:
        sent = 0
        while sent < 30:
            sent += sender.sendmmsg(given[:30], start=sent)
        sender.sendmmsg_all(given[30:])
        assert receive(receiver, 50) == given
        assert sender.statistics().send_retries == 0
    with RawSocket(pair.a, protocol=0, sndbuf=4_608) as sender:
        throttle("8bit", 1_000_000)
        sender.setblocking(False)
        with pytest.raises(BlockingIOError):
            sender.sendmmsg_all(given)
        sender.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sender.sendmmsg(given)


def test_sendmmsg_all_continues_after_a_short_count() -> None:
    """A datagram socket accepts only as many packets as fit its buffer."""
    peer, sock = datagram_pair()
    with peer, sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        room = sock.sendmmsg(frames(500))
        assert 0 < room < 250

        def drain() -> list[bytes]:
            """Reads no more than there is room for, until the next call has
            ended: it has to stop, as the first did."""
            received = [peer.recv(2048) for _ in range(room)]
            eventually(
                lambda: sock.statistics().batches_sent > 1,
                "sendmmsg_all() goes on when there is room",
            )
            return received + [peer.recv(2048) for _ in range(500 - room)]

        with Call(drain) as call:
            sock.sendmmsg_all(frames(500)[room:])
        assert call.result() == frames(500)
        statistics = sock.statistics()
        assert statistics.packets_sent == 500
        assert statistics.batches_sent > 2


def test_enobufs_names_full_queue_and_refused_packet(pair: Veth) -> None:
    """The kernel returns ENOBUFS for both. Only the caller can try another
    packet, so the error says how often this one was tried."""
    ip("link", "set", pair.a, "mtu", "9000")
    try:
        with RawSocket(pair.a, protocol=0) as sock:
            packets = [frame(bytes(46)), frame(bytes(3000)), frame(bytes(46))]
            sock.settimeout(0.05)
            with pytest.raises(
                TimeoutError, match=r"packet 1, tried \d+ times.* MTU"
            ) as caught:
                sock.sendmmsg_all(packets)
            assert caught.value.packets_sent == 1  # type: ignore[attr-defined]
            sock.settimeout(None)
            with pytest.raises(
                OSError, match=r"packet 1, tried \d+ times.* MTU"
            ) as refused:
                sock.sendmmsg_all(packets)
            assert refused.value.errno == errno.ENOBUFS
    finally:
        ip("link", "set", pair.a, "mtu", "1500")

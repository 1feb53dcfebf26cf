"""sendmmsg(), sendmmsg_all() and send(): accepted packets, and errors."""

import errno
import os
import socket
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy
import pytest
from support import WAIT
from support.calls import Call, packets_sent, raises
from support.datagrams import UDP, Datagram, super_frame
from support.frames import (
    HEADER_SIZE,
    LOCAL_EXPERIMENTAL,
    batch_of,
    datagram_pair,
    frame,
    number_of,
    numbered,
    numbered_frames,
    pending,
    receive,
)

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

# Accepted packets


def test_packets_arrive_as_they_were_given(
    sender: RawSocket, receiver: RawSocket, shape: Callable[..., Any]
) -> None:
    given = numbered_frames(20, 100)
    assert sender.sendmmsg(shape(given)) == 20
    sender.sendmmsg_all(shape(given))
    assert receive(receiver, 40) == given * 2


def test_start_skips_the_packets_before_it(
    sender: RawSocket, receiver: RawSocket, shape: Callable[..., Any]
) -> None:
    given = numbered_frames(5)
    packets = shape(given)
    assert sender.sendmmsg(packets, start=3) == 2
    assert sender.sendmmsg(packets, 4) == 1
    assert sender.sendmmsg(packets, start=5) == 0
    assert receive(receiver, 3) == [given[3], given[4], given[4]]


def test_start_outside_the_packets_is_refused(
    sender: RawSocket, receiver: RawSocket, shape: Callable[..., Any]
) -> None:
    for start in (-1, 6, 2**40, -(2**40)):
        with pytest.raises(ValueError, match="start must be 0 to 5"):
            sender.sendmmsg(shape(numbered_frames(5)), start=start)
    assert pending(receiver) == []


def test_sending_no_packets_returns_0(
    sender: RawSocket, shape: Callable[..., Any]
) -> None:
    assert sender.sendmmsg(shape([])) == 0
    sender.sendmmsg_all(shape([]))
    assert sender.statistics().batches_sent == 0


def test_sendmmsg_sends_at_most_1024_packets(
    sender: RawSocket, shape: Callable[..., Any]
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
    sender: RawSocket, shape: Callable[..., Any]
) -> None:
    sender.sendmmsg_all(shape([numbered(1)] * 2_500))
    statistics = sender.statistics()
    assert (statistics.packets_sent, statistics.batches_sent) == (2_500, 3)
    assert statistics.send_retries == 0


def test_sendmmsg_all_of_more_than_1024_packets_keeps_the_order(
    shape: Callable[..., Any],
) -> None:
    peer, sock = datagram_pair()
    count = 1_500
    with peer, sock:
        with Call(lambda: [peer.recv(2048) for _ in range(count)]) as call:
            sock.sendmmsg_all(shape(numbered_frames(count)))
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
    batch = batch_of(numbered_frames(3, 100))
    batch.lengths[1] = 60
    sender.sendmmsg_all(batch)
    given = numbered_frames(3, 100)
    assert receive(receiver, 3) == [given[0], given[1][:60], given[2]]


@pytest.mark.parametrize("length", [2_049, 2**32 - 1])
def test_length_beyond_the_frame_is_refused(
    sender: RawSocket, receiver: RawSocket, length: int
) -> None:
    batch = batch_of(numbered_frames(3))
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
        sender.sendmmsg_all(numbered_frames(5, 200))
        receiver.settimeout(WAIT)
        count = receiver.recvmmsg_into(batch)
        receiver.sendmmsg_all(batch)
        assert batch.tolist() == numbered_frames(5, 200)[:count]
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
    rows = numpy.frombuffer(b"".join(numbered_frames(3)), "u1").reshape(3, 64)
    sender.sendmmsg_all(list(rows))
    sender.sendmmsg_all(rows)
    assert receive(receiver, 9) == numbered_frames(3) * 3


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
    shape: Callable[..., Any],
    start: int,
    stop: int | None,
) -> None:
    given = numbered_frames(3)
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
    batch.extend(numbered_frames(3, 60))
    batch.lengths[0] = batch.lengths[2] = 65
    assert sender.sendmmsg(batch, start=1, stop=2) == 1
    assert receive(receiver, 2) == [numbered(1), numbered_frames(3, 60)[1]]


def test_range_applies_to_addresses_too(
    pair: Veth, receiver: RawSocket
) -> None:
    """There is one address for each packet of the sequence, including those
    that are not sent."""
    with RawSocket(protocol=LOCAL_EXPERIMENTAL) as sock:
        addresses: Any = [(pair.a, 0)] * 2 + ["wrong"]
        packets = numbered_frames(3)
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


def test_error_says_which_super_frames_of_udp_the_kernel_takes(
    pair: Veth,
) -> None:
    batch = super_frame(Datagram(bytes(129), UDP), 1)
    text = "packet 0: 171 bytes, a super-frame of UDP, which needs Linux 6.2"
    with RawSocket(pair.a, protocol=0, vnet_hdr=True) as sock:
        with raises(errno.EINVAL, text):
            sock.sendmmsg(batch)


def test_error_names_a_packet_without_a_link_header(pair: Veth) -> None:
    with RawSocket(pair.a, protocol=0, type=socket.SOCK_DGRAM) as sock:
        with raises(errno.EMSGSIZE, "packet 0: 1,501 .* allows 1,500"):
            address = (pair.a, LOCAL_EXPERIMENTAL, 0, 1, bytes(6))
            sock.sendmmsg([bytes(1_501)], addresses=[address])


def test_error_on_a_socket_of_all_interfaces_names_the_length(
    pair: Veth,
) -> None:
    """The interface is the one in the address."""
    with RawSocket(protocol=LOCAL_EXPERIMENTAL) as sock:
        with raises(errno.EINVAL, r"packet 0 \(5 bytes\): Invalid argument"):
            sock.sendmmsg([b"short"], addresses=[(pair.a, 0)])


def test_error_on_other_sockets_names_packet_and_length() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with other, RawSocket(fileno=one.detach()) as sock:
        with raises(errno.EMSGSIZE, r"packet 0 \(16,777,216 bytes\): Mess"):
            sock.sendmmsg([bytes(1 << 24)])
        other.close()
        reason = os.strerror(errno.ENOTCONN)
        with raises(errno.ENOTCONN, rf"the packet \(1 byte\): {reason}"):
            sock.send(b"a")


def test_frame_of_the_maximum_length_is_sent(
    sender: RawSocket, receiver: RawSocket
) -> None:
    for what, packet in TAKEN.items():
        assert sender.send(packet) == len(packet), what
        assert receive(receiver, 1) == [packet], what


def test_invalid_packet_in_the_middle_is_an_error_of_the_next_call(
    sender: RawSocket, receiver: RawSocket, shape: Callable[..., Any]
) -> None:
    """The kernel returns the number of packets before it instead of the
    error."""
    good = numbered_frames(5)
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
    sender: RawSocket, receiver: RawSocket, shape: Callable[..., Any]
) -> None:
    good = numbered_frames(5)
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

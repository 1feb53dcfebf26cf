"""pacing.send(merge=True): the same packets arrive, in fewer pieces, and the
result counts the packets."""

import errno
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
from support import WAIT
from support.calls import Call, eventually, interrupted, packets_sent
from support.datagrams import (
    ACK,
    DESTINATION,
    PSH,
    Datagram,
    Q,
    add,
    data,
)
from support.frames import numbered, same_frames
from support.linux import hardware_address, ip
from support.merging import HEADERS, UDP4, UDP6, Counted, Listener, flow
from support.pacing import interrupting

from rawmmsg import (
    SUPER_FRAME,
    PacketBatch,
    RawSocket,
    pacing,
)
from rawmmsg.testing import Veth

ARP: Final = numbered(1, ethertype=0x0806)


def mixture() -> list[bytes]:
    """Frames of several kinds, which can be merged only with neighbors."""
    tcp, udp = flow(Datagram(), 90, 100), flow(UDP4, 90)
    frames = [ARP, *tcp[:40], *udp[:70], ARP, numbered(2), *tcp[40:]]
    frames += [udp[i] for i in (70, 71, 73, 74, 72)]
    frames += [*flow(UDP6, 3), numbered(3, 1514), *flow(UDP4, 2, 1472)]
    last = replace(Datagram(), flags=ACK | PSH, payload=b"the last")
    return [*frames, last.build(), *flow(UDP4, 1), udp[0][:-1] + b"!"]


FLOWS: Final[dict[str, list[bytes]]] = {
    "tcp4": flow(Datagram(), 150, 100),
    "tcp6": flow(Datagram(version=6, tcp_options=bytes([1] * 12)), 150, 99),
    "udp4": flow(UDP4, 200),
    "udp6": flow(UDP6, 20, 1452),
    "tag": flow(replace(UDP4, tags=(Q,)), 20, 1472),
    "extension": flow(replace(UDP6, extensions=(DESTINATION,)), 200),
    "mixture": mixture(),
}


def batch_of(frames: list[bytes]) -> PacketBatch:
    batch = PacketBatch(len(frames), max(map(len, frames)))
    batch.extend(frames)
    return batch


FORMS: Final[dict[str, Callable[[list[bytes]], Any]]] = {
    "list": list,
    "generator": iter,
    "batch": batch_of,
    "gathered": lambda frames: [(one[:20], one[20:]) for one in frames],
    "batch of buffers": lambda frames: filled(
        PacketBatch(buffers=[bytearray(len(one)) for one in frames]), frames
    ),
}


def filled(batch: PacketBatch, frames: list[bytes]) -> PacketBatch:
    batch.extend(frames)
    return batch


# What arrives


@pytest.mark.parametrize("options", [{}, {"pps": 1e6}, {"loop": 2}], ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FLOWS)
def test_packets_arrive_as_they_were_given(
    vnet_sender: RawSocket,
    listener: Listener,
    name: str,
    form: str,
    options: dict[str, Any],
) -> None:
    given = FLOWS[name]
    expected = given * options.get("loop", 1)
    result = pacing.send(
        vnet_sender, FORMS[form](given), merge=True, **options
    )
    listener.wait_for(len(expected))
    same_frames(listener.frames, expected)
    assert (result.frames, result.errors) == (len(expected), 0)
    assert result.bytes == sum(map(len, expected))
    assert vnet_sender.statistics().packets_sent == len(listener.pieces)


@pytest.mark.parametrize("form", [list, batch_of])
def test_packets_of_a_flow_leave_in_one_piece(
    vnet_sender: RawSocket,
    listener: Listener,
    form: Callable[[list[bytes]], Any],
) -> None:
    pacing.send(vnet_sender, form(flow(UDP4, 150)), merge=True)
    listener.wait_for(150)
    assert listener.pieces == [64, 64, 22]


def test_packets_of_a_fast_generator_are_merged(
    vnet_sender: RawSocket,
) -> None:
    """Those that it yields while others are sent."""
    frames = flow(UDP4, 1000) * 20
    assert pacing.send(vnet_sender, iter(frames), merge=True).frames == 20_000
    assert vnet_sender.statistics().packets_sent < 20_000


def test_packets_that_other_kernels_would_merge_keep_their_ids(
    vnet_sender: RawSocket, listener: Listener
) -> None:
    """All of them have the same id, which a super-frame cannot have."""
    given = flow(UDP4, 1) * 10
    pacing.send(vnet_sender, given, merge=True)
    listener.wait_for(10)
    assert (listener.frames, listener.pieces) == (given, [1] * 10)


def test_equal_packets_without_ids_are_merged(
    vnet_sender: RawSocket, listener: Listener
) -> None:
    given = flow(UDP6, 1)
    pacing.send(vnet_sender, given, loop=130, merge=True)
    listener.wait_for(130)
    assert (listener.frames, listener.pieces) == (given * 130, [64, 64, 2])


def test_host_receives_each_datagram(veth: Veth) -> None:
    """A UDP socket, which knows nothing of super-frames."""
    ip("addr", "add", "10.9.0.2/24", "dev", veth.b)
    target = hardware_address(veth.b)
    frames = [target + one[6:] for one in flow(UDP4, 100)]
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host,
        RawSocket(veth.a, protocol=0, vnet_hdr=True) as vnet_sender,
    ):
        host.settimeout(WAIT)
        host.bind(("10.9.0.2", 9))
        assert pacing.send(vnet_sender, frames, merge=True).frames == 100
        got = [host.recv(2048) for _ in frames]
    assert vnet_sender.statistics().packets_sent == 2
    assert got == [one[HEADERS:] for one in frames]


@pytest.mark.parametrize("options", [{}, {"pps": 1e6}, {"loop": 2}], ids=str)
def test_super_frame_of_the_user_is_one_packet(
    vnet_sender: RawSocket, listener: Listener, options: dict[str, Any]
) -> None:
    """It is sent as it is, among packets that are merged."""
    big = replace(UDP4, payload=data(3000))
    given = PacketBatch(11, SUPER_FRAME)
    given.extend(flow(UDP4, 5))
    add(given, big, 1000)
    given.extend(flow(UDP4, 5))
    times = options.get("loop", 1)
    result = pacing.send(vnet_sender, given, merge=True, **options)
    assert (result.frames, result.errors) == (11 * times, 0)
    assert result.bytes == times * sum(map(len, given))
    listener.wait_for(13 * times)
    plain = flow(UDP4, 5)
    expected = [*plain, *big.segments(1000), *plain]
    same_frames(listener.frames, expected * times)


@pytest.mark.parametrize("options", [{}, {"pps": 1e6}, {"loop": 9}], ids=str)
def test_batch_is_left_as_it_was(
    pair: Veth, vnet_sender: RawSocket, options: dict[str, Any]
) -> None:
    """A batch that was received, with its columns."""
    batch = PacketBatch(20)
    with RawSocket(pair.b) as sock, RawSocket(pair.a, protocol=0) as sender:
        sender.sendmmsg_all(flow(UDP4, 20))
        sock.recvmmsg_into(batch)
    before = batch.tolist(), list(batch.wire_lengths)
    pacing.send(vnet_sender, batch, merge=True, **options)
    assert (batch.tolist(), list(batch.wire_lengths)) == before


def test_header_of_12_bytes(pair: Veth, listener: Listener) -> None:
    with RawSocket(pair.a, protocol=0, vnet_hdr=12) as vnet_sender:
        assert (
            pacing.send(vnet_sender, flow(UDP4, 30), merge=True).frames == 30
        )
    listener.wait_for(30)
    assert listener.pieces == [30]


# When packets are due


def test_packets_that_are_not_due_yet_stay(
    vnet_sender: RawSocket, listener: Listener
) -> None:
    """Of two, the second is due in an hour."""
    stop = threading.Event()
    with Call(
        lambda: pacing.send(
            vnet_sender, flow(UDP4, 2), inter=3600, stop=stop, merge=True
        )
    ) as call:
        listener.wait_for(1)
        stop.set()
    assert call.result().frames == 1
    assert listener.pieces == [1]


@pytest.mark.parametrize("form", [list, batch_of])
def test_packets_that_are_due_at_different_times_are_not_merged(
    vnet_sender: RawSocket,
    listener: Listener,
    form: Callable[[list[bytes]], Any],
) -> None:
    """At 2,000 a second, no two are due within 0.4 ms: a sender that is late
    sends them sooner, but not together."""
    pacing.send(
        vnet_sender, form(flow(UDP4, 30)), pps=2000, loop=3, merge=True
    )
    listener.wait_for(90)
    assert listener.pieces == [1] * 90


def test_packets_that_are_due_together_are_merged(
    vnet_sender: RawSocket, listener: Listener
) -> None:
    """The first is due at once, and 0.2 ms later 100 others are."""
    pacing.send(vnet_sender, flow(UDP4, 101), pps=1e9, merge=True)
    listener.wait_for(101)
    assert listener.pieces == [1, 64, 36]


def test_super_frame_holds_no_more_than_one_release(
    vnet_sender: RawSocket, listener: Listener
) -> None:
    """At most the packets of 0.4 ms leave together, however late it is."""
    pacing.send(vnet_sender, flow(UDP4, 200), pps=10_000, merge=True)
    listener.wait_for(200)
    assert max(listener.pieces) <= 5


# Work


def merges_of(call: Callable[[], object]) -> int:
    """How often the call merges."""
    count = 0

    def profile(frame: Any, event: str, function: Any) -> None:
        nonlocal count
        if event == "c_call" and function.__name__ == "merge_into":
            count += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("form", [list, batch_of])
def test_looped_list_is_merged_once(
    vnet_sender: RawSocket, form: Callable[[list[bytes]], Any]
) -> None:
    """Before it is sent for the first time."""
    frames = form(flow(UDP4, 1500))
    twice = merges_of(
        lambda: pacing.send(vnet_sender, frames, loop=2, merge=True)
    )
    often = merges_of(
        lambda: pacing.send(vnet_sender, frames, loop=50, merge=True)
    )
    assert often == twice > 0


# Counts


def endless(frames: list[bytes]) -> Iterator[bytes]:
    while True:
        yield from frames


STREAMS = pytest.mark.parametrize("streamed", [False, True])
PACES = pytest.mark.parametrize("pace", [{}, {"pps": 1e5}], ids=str)


@STREAMS
@PACES
def test_stop_gives_an_exact_result(
    pair: Veth, vnet_sender: RawSocket, pace: dict[str, Any], streamed: bool
) -> None:
    counted = Counted(pair.b)
    stop = threading.Event()
    frames = flow(UDP4, 100)
    options: dict[str, Any] = {"stop": stop, "merge": True, **pace}

    def send() -> pacing.SendResult:
        if streamed:
            return pacing.send(vnet_sender, endless(frames), **options)
        return pacing.send(vnet_sender, frames, loop=0, **options)

    with Call(send) as call:
        eventually(lambda: counted.frames > 500, "nothing was sent")
        stop.set()
    result = call.result()
    assert result.frames == counted.frames > 500
    assert result.bytes == 64 * result.frames


@STREAMS
@PACES
def test_ctrl_c_tells_what_was_sent(
    pair: Veth,
    vnet_sender: RawSocket,
    pace: dict[str, Any],
    streamed: bool,
    scaled: Callable[[int], int],
) -> None:
    """At whatever step it comes."""
    frames = flow(UDP4, 100)
    for i in range(scaled(5)):
        counted = Counted(pair.b)
        with (
            interrupting(pair.b, 20 * i + 1),
            pytest.raises(KeyboardInterrupt) as caught,
        ):
            if streamed:
                pacing.send(vnet_sender, endless(frames), merge=True, **pace)
            else:
                pacing.send(vnet_sender, frames, loop=0, merge=True, **pace)
        assert packets_sent(caught.value) == counted.frames > 0


@pytest.mark.parametrize("options", [{}, {"loop": 2}, {"pps": 1e9}], ids=str)
def test_ctrl_c_between_any_two_steps_keeps_the_count(
    pair: Veth, vnet_sender: RawSocket, options: dict[str, Any]
) -> None:
    """Before and after a system call, wherever the sender counts."""
    frames = [*flow(UDP4, 70), *flow(UDP4, 2)]
    counts: list[int] = []

    def send() -> None:
        try:
            pacing.send(vnet_sender, frames, merge=True, **options)
        except KeyboardInterrupt as error:
            # It has none if it comes before the call begins to send.
            counts.append(getattr(error, "packets_sent", 0))
            raise

    module = "rawmmsg.pacing.merging_sender"
    for step in range(1, 10_000):
        counted = Counted(pair.b)
        if not interrupted(send, step, module):
            break
        assert counts.pop() == counted.frames
    assert step > 200, "send() was not interrupted"


def test_error_of_an_iterable_tells_what_was_sent(
    vnet_sender: RawSocket,
) -> None:
    def packets() -> Iterator[Any]:
        yield from flow(UDP4, 50)
        yield None

    with pytest.raises(TypeError, match="not NoneType") as caught:
        pacing.send(vnet_sender, packets(), merge=True)
    assert packets_sent(caught.value) == 50


def test_link_that_goes_down_is_an_error(veth: Veth) -> None:
    counted = Counted(veth.b)
    with RawSocket(veth.a, protocol=0, vnet_hdr=True) as vnet_sender:
        with Call(
            lambda: pacing.send(
                vnet_sender, flow(UDP4, 100), loop=0, merge=True
            )
        ) as call:
            eventually(lambda: counted.frames > 0, "nothing was sent")
            veth.down("a")
        error = call.error()
    assert isinstance(error, OSError)
    assert error.errno == errno.ENETDOWN
    assert packets_sent(error) >= counted.frames > 0


def test_result_is_of_this_call_alone(vnet_sender: RawSocket) -> None:
    frames = flow(UDP4, 70)
    for count in (70, 1, 30):
        result = pacing.send(vnet_sender, frames[:count], merge=True)
        assert (result.frames, result.bytes) == (count, 64 * count)


# Arguments


@pytest.mark.no_network
def test_datagram_socket_cannot_merge() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, RawSocket(fileno=other.detach()) as sock:
        words = r"needs a packet socket .* offload headers.*vnet_hdr=True"
        with pytest.raises(ValueError, match=words):
            pacing.send(sock, flow(UDP4, 2), merge=True)


def test_socket_needs_offload_headers(
    pair: Veth, vnet_sender: RawSocket
) -> None:
    with RawSocket(pair.a, protocol=0) as plain:
        words = rf'RawSocket\("{pair.a}", protocol=0, vnet_hdr=True\)'
        with pytest.raises(ValueError, match=words):
            pacing.send(plain, flow(UDP4, 2), merge=True)
        assert plain.statistics().packets_sent == 0


def test_interface_needs_ethernet_frames(tun: tuple[int, str]) -> None:
    with RawSocket(tun[1], protocol=0, vnet_hdr=True) as sock:
        with pytest.raises(ValueError, match=r"Ethernet .* link type 65534"):
            pacing.send(sock, flow(UDP4, 2), merge=True)


def test_socket_needs_an_interface() -> None:
    with RawSocket(protocol=0x88B6, vnet_hdr=True) as sock:
        with pytest.raises(ValueError, match="not bound to an interface"):
            pacing.send(sock, flow(UDP4, 2), merge=True)


def test_closed_socket_is_an_error(vnet_sender: RawSocket) -> None:
    vnet_sender.close()
    with pytest.raises(OSError, match="the socket was closed") as caught:
        pacing.send(vnet_sender, flow(UDP4, 2), merge=True)
    assert packets_sent(caught.value) == 0

"""What the sockets promise to sniff(), apart from the packets themselves."""

import errno
import gc
import logging
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from scapy.automaton import ObjectPipe
from scapy.config import conf
from scapy.error import Scapy_Exception
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.sendrecv import AsyncSniffer, sniff
from support import WAIT
from support.calls import Call
from support.frames import frame, number_of, numbered, until_stamped
from support.linux import descriptors
from support.programs import keep_ethertype
from support.scapykit import A4, B4, TRAFFIC, send, to_peer, wire

from rawmmsg import RawSocket, bpf
from rawmmsg.scapy import (
    BatchSession,
    FilterError,
    L2RawMmsgListenSocket,
    L2RawMmsgSocket,
    L3RawMmsgSocket,
)
from rawmmsg.testing import Veth


def numbers(packets: Any) -> list[int]:
    return [number_of(packet.original) for packet in packets]


@contextmanager
def background(**options: Any) -> Iterator[AsyncSniffer]:
    """An AsyncSniffer that has started."""
    started = threading.Event()
    sniffer = AsyncSniffer(started_callback=started.set, **options)
    sniffer.start()
    assert started.wait(WAIT), "the sniffer did not start"
    try:
        yield sniffer
    finally:
        if sniffer.running:
            sniffer.stop()


# Several sockets


def test_sniff_on_a_list_of_sockets(veth_factory: Callable[..., Veth]) -> None:
    pairs = [veth_factory() for _ in range(3)]
    sockets = [L2RawMmsgListenSocket(iface=pair.a) for pair in pairs]
    try:
        for pair in pairs:
            send(pair.b, [numbered(i) for i in range(200)])
        found = sniff(opened_socket=sockets, count=600, timeout=WAIT)
    finally:
        for sock in sockets:
            sock.close()
    for index in range(3):
        of_one = [p for p in found if p.sniffed_on == f"socket{index}"]
        assert numbers(of_one) == list(range(200))


def test_sniff_on_labelled_sockets(veth_factory: Callable[..., Veth]) -> None:
    left, right = veth_factory(), veth_factory()
    with (
        L2RawMmsgListenSocket(iface=left.a) as one,
        L2RawMmsgSocket(iface=right.a) as other,
    ):
        send(left.b, [numbered(1)])
        send(right.b, [numbered(2)])
        found = sniff(
            opened_socket={one: "left", other: "right"}, count=2, timeout=WAIT
        )
    assert {p.sniffed_on: number_of(p.original) for p in found} == {
        "left": 1,
        "right": 2,
    }


def test_sniff_on_a_list_of_interfaces(
    veth_factory: Callable[..., Veth],
) -> None:
    left, right = veth_factory(), veth_factory()

    def feed() -> None:
        send(left.b, [numbered(1)])
        send(right.b, [numbered(2)])

    found = sniff(
        iface=[left.a, right.a],
        L2socket=L2RawMmsgListenSocket,
        count=2,
        timeout=WAIT,
        started_callback=feed,
    )
    assert {p.sniffed_on: number_of(p.original) for p in found} == {
        left.a: 1,
        right.a: 2,
    }


def test_socket_of_another_class_comes_first(
    veth_factory: Callable[..., Veth],
) -> None:
    """Its select() serves all sockets, and must notice the packets of a batch
    that are left."""
    left, right = veth_factory(), veth_factory()
    with (
        conf.L2listen(iface=left.a) as theirs,
        L2RawMmsgListenSocket(iface=right.a) as ours,
    ):
        send(right.b, [numbered(i) for i in range(200)])
        found = sniff(opened_socket=[theirs, ours], count=200, timeout=WAIT)
    assert numbers(found) == list(range(200))


def test_select_returns_what_can_be_read(
    veth_factory: Callable[..., Veth],
) -> None:
    idle, busy = veth_factory(), veth_factory()
    pipe = ObjectPipe[int]("test")
    with (
        L2RawMmsgSocket(iface=idle.a) as one,
        L2RawMmsgSocket(iface=busy.a) as other,
    ):
        sockets = [one, other, pipe]
        assert L2RawMmsgSocket.select(sockets, 0) == []
        pipe.send(1)
        assert L2RawMmsgSocket.select(sockets, WAIT) == [pipe]
        send(busy.b, [numbered(1), numbered(2)])
        assert L2RawMmsgSocket.select(sockets, WAIT) == [other, pipe]
        other.recv()
        assert L2RawMmsgSocket.select(sockets, 0) == [other], (
            "sockets that hold packets come first"
        )
    pipe.close()


def test_sniff_while_two_thousand_descriptors_are_open(veth: Veth) -> None:
    """select(2) takes none above 1,023."""
    least = 2100
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = before
    if soft < least:
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, max(hard, least)))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(2000)]
    try:
        found = sniff(
            iface=veth.a,
            L2socket=L2RawMmsgListenSocket,
            count=200,
            timeout=WAIT,
            started_callback=lambda: send(
                veth.b, [numbered(i) for i in range(200)]
            ),
        )
    finally:
        for one in held:
            os.close(one)
        with suppress(ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert numbers(found) == list(range(200))


def test_burst_of_which_scapys_socket_loses_most_is_kept(veth: Veth) -> None:
    """With the default buffers; Scapy's holds some 90 small frames."""
    burst = [numbered(i) for i in range(400)]
    with (
        conf.L2listen(iface=veth.a) as theirs,
        L2RawMmsgListenSocket(iface=veth.a) as ours,
    ):
        send(veth.b, burst)
        found = sniff(opened_socket=ours, count=400, timeout=WAIT)
        theirs.ins.setblocking(False)
        kept = 0
        with suppress(BlockingIOError):
            while theirs.recv_raw()[1]:
                kept += 1
    assert numbers(found) == list(range(400))
    assert 0 < kept < 400


# Start, stop, and the rest of a batch


def test_two_hundred_sniffers_leave_nothing(veth: Veth) -> None:
    """No descriptor and no thread. An idle one stops within half a second."""

    def cycle() -> float:
        with background(
            iface=veth.a, L2socket=L2RawMmsgListenSocket
        ) as sniffer:
            begin = time.monotonic()
            sniffer.stop()
            return time.monotonic() - begin

    cycle()
    gc.collect()
    before = descriptors(), threading.active_count()
    stops = sorted(cycle() for _ in range(200))
    gc.collect()
    assert (descriptors(), threading.active_count()) == before
    # A few may have waited for a CPU.
    assert stops[-5] < 0.5, f"a stop takes {stops[-5]} s"


@pytest.mark.parametrize("session", [None, BatchSession])
def test_next_sniff_gets_the_rest_of_a_batch(
    veth: Veth, session: type[BatchSession] | None
) -> None:
    with L2RawMmsgListenSocket(iface=veth.a) as sock:
        send(veth.b, [numbered(i) for i in range(100)])
        found = []
        for count in (1, 30, 69):
            some = sniff(
                opened_socket=sock, count=count, session=session, timeout=WAIT
            )
            found.append(numbers(some))
    assert found == [
        list(range(1)),
        list(range(1, 31)),
        list(range(31, 100)),
    ]


def test_timeout_ends_an_idle_sniff(veth: Veth) -> None:
    begin = time.monotonic()
    with L2RawMmsgListenSocket(iface=veth.a) as sock:
        assert len(sniff(opened_socket=sock, timeout=0.1)) == 0
    assert time.monotonic() - begin < WAIT


def test_recv_waits_for_a_packet(veth: Veth) -> None:
    with (
        L2RawMmsgSocket(iface=veth.a) as sock,
        Call(sock.recv) as call,
    ):
        assert call.pending
        send(veth.b, [numbered(3)])
        assert number_of(call.result().original) == 3


def test_recv_raw_gives_class_bytes_and_time(veth: Veth) -> None:
    before = time.time()
    with L2RawMmsgSocket(iface=veth.a) as sock:
        send(veth.b, [numbered(1), numbered(2)])
        layer, data, when = sock.recv_raw()
        assert (layer, data) == (Ether, numbered(1))
        assert when is not None
        assert before <= when <= time.time()
        assert sock.recv_raw(20)[1] == numbered(2)[:20], (
            "not cut to the size asked for"
        )


def test_recv_of_a_closed_socket_raises_eof_error(veth: Veth) -> None:
    sock = L2RawMmsgSocket(iface=veth.a)
    sock.close()
    sock.close()
    with pytest.raises(EOFError):
        sock.recv()
    assert sniff(opened_socket=sock, timeout=WAIT).res == []


def test_close_from_another_thread_ends_a_sniff(veth: Veth) -> None:
    sock = L2RawMmsgSocket(iface=veth.a)
    with background(opened_socket=sock) as sniffer:
        sock.close()
        sniffer.join(WAIT)
        assert not sniffer.running


# The link


def test_link_that_goes_down_and_comes_back(veth: Veth) -> None:
    """The sniff continues. After an error Scapy would close the socket."""
    with (
        L2RawMmsgListenSocket(iface=veth.a) as sock,
        background(opened_socket=sock, count=2) as sniffer,
    ):
        send(veth.b, [numbered(1)])
        veth.down("a")
        veth.up("a")
        send(veth.b, [numbered(2)])
        sniffer.join(WAIT)
        assert not sniffer.running, "no packets after the link came back"
        assert numbers(sniffer.results) == [1, 2]


def test_recv_returns_when_the_link_goes_down(veth: Veth) -> None:
    with L2RawMmsgListenSocket(iface=veth.a) as sock:
        veth.down("a")
        assert sock.recv_raw() == (None, None, None)


def test_deleted_interface_ends_a_sniff(
    veth: Veth, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        L2RawMmsgListenSocket(iface=veth.a) as sock,
        background(opened_socket=sock) as sniffer,
    ):
        veth.delete()
        sniffer.join(WAIT)
        assert not sniffer.running
    assert os.strerror(errno.ENODEV) in caplog.text


# Filters


@pytest.mark.parametrize(
    "make", [L2RawMmsgSocket, L2RawMmsgListenSocket, L3RawMmsgSocket]
)
@pytest.mark.parametrize("bad", ["udp prot 53", "host", "no such word"])
def test_bad_filter_is_an_error(veth: Veth, make: Any, bad: str) -> None:
    """Its class is that of Scapy and of rawmmsg. Nothing is sniffed or left
    open."""
    gc.collect()
    before = descriptors()
    with pytest.raises(Scapy_Exception):
        make(iface=veth.a, filter=bad)
    with pytest.raises(bpf.FilterError) as caught:
        make(iface=veth.a, filter=bad)
    assert isinstance(caught.value, FilterError)
    assert caught.value.expression is not None
    del caught
    gc.collect()
    assert descriptors() == before


def test_bad_filter_of_a_background_sniff_is_raised(veth: Veth) -> None:
    sniffer = AsyncSniffer(
        iface=veth.a, filter="no good", L2socket=L2RawMmsgListenSocket
    )
    sniffer.start()
    with pytest.raises(FilterError):
        sniffer.join(WAIT)


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ("vlan 42", ["one tag", "one tag"]),
        ("vlan", ["one tag", "one tag"]),
        # A tag does not hide the packet behind it.
        ("arp", ["ARP"] * 2 + ["one tag"]),
        ("udp port 2", ["one tag"]),
        ("not arp and not vlan", ["fragments"] * 9),
        ("", ["ARP"] * 2 + ["one tag"] * 2 + ["fragments"] * 9),
    ],
)
def test_filter_selects_packets(
    veth: Veth, filter: str, expected: list[str]
) -> None:
    """By their tags too, which programs of libpcap never find in received
    frames."""
    cases = ["ARP", "one tag", "fragments"]
    name_of = {bytes(one): name for name in cases for one in TRAFFIC[name]}
    end = numbered(1)
    either = f"ether proto 0x88b5 or ({filter})" if filter else filter
    with L2RawMmsgListenSocket(iface=veth.a, filter=either) as sock:
        for name in cases:
            send(veth.b, TRAFFIC[name])
        send(veth.b, [end])
        found = sniff(
            opened_socket=sock,
            timeout=WAIT,
            stop_filter=lambda packet: packet.original == end,
        )
    assert [name_of[packet.original] for packet in found[:-1]] == expected


def test_compiled_filter_selects_packets(veth: Veth) -> None:
    for program in (bpf.compile("arp"), keep_ethertype(0x0806)):
        with L2RawMmsgSocket(iface=veth.a, filter=program) as sock:
            send(veth.b, [numbered(1), *TRAFFIC["ARP"]])
            found = sniff(opened_socket=sock, count=2, timeout=WAIT)
        assert wire(found) == wire(TRAFFIC["ARP"])


@contextmanager
def except_filter(expression: str) -> Iterator[None]:
    conf.except_filter = expression
    try:
        yield
    finally:
        conf.except_filter = ""


@pytest.mark.parametrize("filter", [None, "ether proto 0x88b5 or udp"])
def test_except_filter_is_honoured(veth: Veth, filter: str | None) -> None:
    udp = to_peer() / IP(src=A4, dst=B4) / UDP(dport=5)
    with (
        except_filter("udp port 5"),
        L2RawMmsgSocket(iface=veth.a, filter=filter) as sock,
        L2RawMmsgSocket(iface=veth.a, nofilter=1) as unfiltered,
    ):
        send(veth.b, [udp, numbered(1)])
        assert numbers(sniff(opened_socket=sock, count=1, timeout=WAIT)) == [1]
        both = sniff(opened_socket=unfiltered, count=2, timeout=WAIT)
        assert wire(both) == wire([udp, Ether(numbered(1))])


def test_except_filter_cannot_be_added_to_a_program(veth: Veth) -> None:
    with (
        except_filter("udp"),
        pytest.raises(ValueError, match="cannot be added"),
    ):
        L2RawMmsgSocket(iface=veth.a, filter=bpf.compile("arp"))


# Time


def test_time_is_when_the_batch_arrived(veth: Veth) -> None:
    with L2RawMmsgListenSocket(iface=veth.a) as sock:
        send(veth.b, [numbered(i) for i in range(100)])
        before = time.time()
        found = sniff(opened_socket=sock, count=100, timeout=WAIT)
    assert len({packet.time for packet in found}) == 1
    assert before <= float(found[0].time) <= time.time()


def test_timestamps_come_from_the_kernel(veth: Veth) -> None:
    """Each packet has its own, from before it was read. Packets that come
    before the kernel starts to stamp have the time of their batch."""
    with (
        RawSocket(veth.a, timestamps="software") as probe,
        RawSocket(veth.b, protocol=0) as sender,
    ):
        until_stamped(sender, probe, numbered(0))
        sock = L2RawMmsgListenSocket(iface=veth.a, timestamps=True)
    with sock:
        send(veth.b, [numbered(i) for i in range(100)])
        before = time.time()
        found = sniff(opened_socket=sock, count=100, timeout=WAIT)
    times = [float(packet.time) for packet in found]
    assert times == sorted(times)
    assert len(set(times)) > 1
    assert times[-1] <= time.time()
    assert before - times[-1] < WAIT


# Sessions


def test_lfilter_of_the_session_comes_before_dissection(veth: Veth) -> None:
    """A frame that it rejects is not made into a Packet and not counted."""
    made = []

    class Counted(Ether):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append(args)
            super().__init__(*args, **kwargs)

    session = BatchSession(lambda data: number_of(data) % 10 == 0)
    with L2RawMmsgListenSocket(iface=veth.a) as sock:
        sock.inbox.links[0].layer = Counted
        send(veth.b, [numbered(i) for i in range(100)])
        found = sniff(
            opened_socket=sock, session=session, count=10, timeout=WAIT
        )
    assert numbers(found) == list(range(0, 100, 10))
    assert len(made) == 10


def test_session_takes_sockets_of_other_classes(veth: Veth) -> None:
    with conf.L2listen(iface=veth.a) as sock:
        send(veth.b, [numbered(i) for i in range(5)])
        found = sniff(
            opened_socket=sock, session=BatchSession, count=5, timeout=WAIT
        )
        assert numbers(found) == list(range(5))
        with pytest.raises(ValueError, match="needs a socket"):
            list(BatchSession(len).recv(sock))


def test_session_with_another_session_inside(veth: Veth) -> None:
    from scapy.sessions import IPSession

    with L2RawMmsgListenSocket(iface=veth.a) as sock:
        send(veth.b, [*TRAFFIC["fragments"], *TRAFFIC["ARP"]])
        found = sniff(
            opened_socket=sock,
            session=BatchSession(supersession=IPSession),
            count=3,
            timeout=WAIT,
        )
    assert [len(packet) > 2000 for packet in found] == [True, False, False]


# The constructor, and sending


def test_listening_socket_does_not_send(veth: Veth) -> None:
    with (
        L2RawMmsgListenSocket(iface=veth.a) as sock,
        pytest.raises(Scapy_Exception, match="send"),
    ):
        sock.send(Ether())


def test_missing_interface_is_an_error(veth: Veth) -> None:
    with pytest.raises(ValueError, match="not found"):
        L2RawMmsgSocket(iface="nosuch0")


def test_monitor_mode_gives_a_warning(
    veth: Veth, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        L2RawMmsgSocket(iface=veth.a, monitor=True).close()
    assert "monitor mode" in caplog.text


def test_promiscuous_mode_follows_conf(veth: Veth) -> None:
    stranger = frame(bytes(46), dst=bytes.fromhex("020000000099"))
    with (
        L2RawMmsgSocket(iface=veth.a) as default,
        L2RawMmsgSocket(iface=veth.a, promisc=False) as modest,
    ):
        assert default.promisc == conf.sniff_promisc
        assert modest.promisc is False
        send(veth.b, [stranger])
        assert wire(sniff(opened_socket=default, count=1, timeout=WAIT)) == [
            stranger
        ]


def test_tag_is_dissected(veth: Veth) -> None:
    """It is in the frame, although the kernel has taken it out."""
    with L2RawMmsgSocket(iface=veth.a) as sock:
        send(veth.b, TRAFFIC["one tag"])
        (packet,) = sniff(opened_socket=sock, count=1, timeout=WAIT)
    assert (packet[Dot1Q].vlan, packet[Dot1Q].prio) == (42, 3)


def test_packet_that_cannot_be_dissected_is_raw(veth: Veth) -> None:
    class Broken(Packet):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("this dissector fails")

    with L2RawMmsgSocket(iface=veth.a) as sock:
        sock.inbox.links[0].layer = Broken
        send(veth.b, [numbered(1)] * 2)
        packet = sock.recv()
        assert type(packet) is Raw
        assert packet.load == numbered(1)
        conf.debug_dissector = True
        try:
            with pytest.raises(RuntimeError, match="fails"):
                sock.recv()
        finally:
            conf.debug_dissector = False


def test_send_and_receive_from_two_threads(veth: Veth) -> None:
    """As Scapy does. Neither direction waits for the other."""
    with (
        L2RawMmsgSocket(iface=veth.a) as sock,
        Call(sock.recv) as call,
        RawSocket(veth.b) as far_side,
    ):
        sock.send(Ether(numbered(1)))
        far_side.settimeout(WAIT)
        assert number_of(far_side.recv(2048)) == 1
        assert call.pending
        far_side.send(bytes(to_peer() / ARP()))
        assert ARP in call.result()

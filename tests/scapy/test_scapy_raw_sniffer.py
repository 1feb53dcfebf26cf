"""RawSniffer: sniffs like sniff(), without Packet objects."""

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest
from scapy.arch.linux import L2ListenSocket
from scapy.layers.inet import IP
from scapy.sendrecv import sniff
from support import WAIT
from support.calls import Call, handler
from support.frames import number_of, numbered
from support.linux import descriptors, ip
from support.scapykit import TRAFFIC, addressed, send, tunnel, wire

from rawmmsg.scapy import (
    FilterError,
    L2RawMmsgListenSocket,
    L2RawMmsgSocket,
    L3RawMmsgSocket,
    RawSniffer,
)
from rawmmsg.testing import Veth


def test_count_ends_the_sniff(veth: Veth) -> None:
    with RawSniffer(veth.a, count=150) as frames:
        send(veth.b, [numbered(i) for i in range(200)])
        assert [number_of(view) for view in frames] == list(range(150))
        assert list(frames) == [], "the sniff has ended"


def test_views_show_the_memory_of_the_batch(veth: Veth) -> None:
    """They are writable, so they are not copies."""
    with RawSniffer(veth.a, count=2, timeout=WAIT) as frames:
        send(veth.b, [numbered(1), numbered(2)])
        first, second = frames
    assert (type(first), first.readonly) == (memoryview, False)
    assert (bytes(first), bytes(second)) == (numbered(1), numbered(2))


def test_timeout_ends_the_sniff(veth: Veth) -> None:
    begin = time.monotonic()
    with RawSniffer(veth.a, timeout=0.1) as frames:
        assert list(frames) == []
    assert 0.1 <= time.monotonic() - begin < WAIT


def test_timeout_ends_the_sniff_in_the_middle_of_a_batch(veth: Veth) -> None:
    with RawSniffer(veth.a, timeout=0.2) as frames:
        send(veth.b, [numbered(i) for i in range(100)])
        given = 0
        for _ in frames:
            given += 1
            time.sleep(0.05)
    assert 0 < given < 100


def test_timeout_ends_the_sniff_while_every_frame_is_rejected(
    veth: Veth,
) -> None:
    """On a link that is never idle."""
    begin = time.monotonic()

    def reject(_: memoryview) -> bool:
        assert time.monotonic() - begin < WAIT, "the sniff does not end"
        send(veth.b, [numbered(0)] * 2)
        return False

    with RawSniffer(veth.a, lfilter=reject, timeout=0.1) as frames:
        send(veth.b, [numbered(0)])
        assert list(frames) == []
    assert time.monotonic() - begin >= 0.1


def test_filter_selects_frames(veth: Veth) -> None:
    with RawSniffer(veth.a, filter="arp", count=2, timeout=WAIT) as frames:
        send(veth.b, [numbered(1), *TRAFFIC["ARP"]])
        assert [bytes(view) for view in frames] == wire(TRAFFIC["ARP"])


def test_bad_filter_is_an_error(veth: Veth) -> None:
    gc.collect()
    before = descriptors()
    with pytest.raises(FilterError):
        RawSniffer(veth.a, filter="no good")
    gc.collect()
    assert descriptors() == before


def test_lfilter_and_stop_filter(veth: Veth) -> None:
    """stop_filter does not see what lfilter rejects. The frame that ends the
    sniff is given."""
    with RawSniffer(
        veth.a,
        lfilter=lambda view: number_of(view) % 2 == 0,
        stop_filter=lambda view: number_of(view) >= 9,
        timeout=WAIT,
    ) as frames:
        send(veth.b, [numbered(i) for i in range(20)])
        assert [number_of(view) for view in frames] == [0, 2, 4, 6, 8, 10]


def test_opened_socket_keeps_the_rest_of_a_batch(veth: Veth) -> None:
    """After the count, after a break, and for sniff() as well."""
    with L2RawMmsgSocket(iface=veth.a) as sock:
        send(veth.b, [numbered(i) for i in range(9)])
        with RawSniffer(opened_socket=sock, count=2) as frames:
            assert [number_of(view) for view in frames] == [0, 1]
        with RawSniffer(opened_socket=sock) as frames:
            for view in frames:
                assert number_of(view) == 2
                break
        assert number_of(sniff(opened_socket=sock, count=1)[0].original) == 3
        with RawSniffer(opened_socket=sock, count=5) as frames:
            assert [number_of(view) for view in frames] == [4, 5, 6, 7, 8]
        assert not sock.closed


def test_next_loop_continues_after_the_last(veth: Veth) -> None:
    with RawSniffer(veth.a, count=4, timeout=WAIT) as frames:
        send(veth.b, [numbered(i) for i in range(4)])
        for view in frames:
            assert number_of(view) == 0
            break
        assert [number_of(view) for view in frames] == [1, 2, 3]


def test_layer_3_socket_gives_whole_frames_of_all_interfaces(
    veth_factory: Callable[..., Veth],
) -> None:
    other, veth = veth_factory(), veth_factory()
    with (
        addressed(veth),
        L3RawMmsgSocket(iface=other.a) as sock,
        RawSniffer(opened_socket=sock, count=2, timeout=WAIT) as frames,
    ):
        sock.send(IP(dst="192.0.2.2"))  # opens that interface too
        (ping, *_) = TRAFFIC["ICMP"]
        send(veth.b, [ping])
        send(other.b, [numbered(2)])
        assert {bytes(view) for view in frames} == {bytes(ping), numbered(2)}


def test_tunnel_gives_ip_packets() -> None:
    packet = bytes(IP(src="192.0.2.1", dst="192.0.2.2"))
    with (
        tunnel() as (name, descriptor),
        RawSniffer(name, count=1, timeout=WAIT) as frames,
    ):
        os.write(descriptor, packet)
        assert [bytes(view) for view in frames] == [packet]


def test_stop_from_another_thread(veth: Veth) -> None:
    with RawSniffer(veth.a) as frames, Call(list, frames) as call:
        assert call.pending
        begin = time.monotonic()
        frames.stop()
        assert call.result() == []
    assert time.monotonic() - begin < WAIT


def test_stop_from_a_signal_handler(veth: Veth) -> None:
    main = threading.main_thread().ident
    assert main is not None
    with RawSniffer(veth.a) as frames, handler(frames.stop):
        signal.pthread_kill(main, signal.SIGUSR1)
        assert list(frames) == []


def test_stop_ends_the_sniff_after_the_current_frame(veth: Veth) -> None:
    with RawSniffer(veth.a) as frames:
        send(veth.b, [numbered(i) for i in range(10)])
        seen = []
        for view in frames:
            seen.append(number_of(view))
            if len(seen) == 3:
                frames.stop()
    assert seen == [0, 1, 2]
    frames.stop()


def test_stop_while_every_frame_is_rejected(veth: Veth) -> None:
    """The frames after it are left for another sniff."""
    seen = []

    def reject(view: memoryview) -> bool:
        seen.append(number_of(view))
        if len(seen) == 3:
            frames.stop()
        return False

    with L2RawMmsgSocket(iface=veth.a) as sock:
        send(veth.b, [numbered(i) for i in range(10)])
        with RawSniffer(opened_socket=sock, lfilter=reject) as frames:
            assert list(frames) == []
        assert seen == [0, 1, 2]
        with RawSniffer(opened_socket=sock, count=7) as frames:
            assert [number_of(view) for view in frames] == list(range(3, 10))


def test_loopback_gives_each_packet_once() -> None:
    """With sniff(), the sockets of Scapy and of rawmmsg give it twice, when it
    goes out and when it comes in."""
    ip("link", "set", "lo", "up")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        L2ListenSocket(iface="lo", filter="udp") as theirs,
        L2RawMmsgListenSocket(iface="lo", filter="udp") as ours,
        RawSniffer("lo", filter="udp", count=3, timeout=WAIT) as frames,
    ):
        peer.bind(("127.0.0.1", 0))
        for number in range(3):
            source.sendto(bytes([number]), peer.getsockname())
        assert [view[-1] for view in frames] == [0, 1, 2]
        for sock in (theirs, ours):
            found = sniff(opened_socket=sock, count=6, timeout=WAIT)
            last = [packet.original[-1] for packet in found]
            assert last == [0, 0, 1, 1, 2, 2]


def test_time_is_when_the_batch_arrived(veth: Veth) -> None:
    before = time.time()
    with RawSniffer(veth.a, count=1) as frames:
        send(veth.b, [numbered(1)])
        list(frames)
        assert before <= frames.time <= time.time()


def test_link_that_goes_down_does_not_end_the_sniff(veth: Veth) -> None:
    with RawSniffer(veth.a, count=1, timeout=WAIT) as frames:
        veth.down("a")
        veth.up("a")
        send(veth.b, [numbered(1)])
        assert [number_of(view) for view in frames] == [1]


def test_link_that_goes_down_repeats_no_frame(veth: Veth) -> None:
    with RawSniffer(veth.a, timeout=WAIT) as frames:
        views = iter(frames)
        send(veth.b, [numbered(i) for i in range(3)])
        assert [number_of(next(views)) for _ in range(3)] == [0, 1, 2]
        veth.down("a")
        veth.up("a")
        send(veth.b, [numbered(3)])
        assert number_of(next(views)) == 3


def test_deleted_interface_is_an_error(veth: Veth) -> None:
    with RawSniffer(veth.a) as frames:
        veth.delete()
        with pytest.raises(OSError, match="No such device"):
            list(frames)


def test_nothing_is_left_open(veth: Veth) -> None:
    """However the sniff ends, and also if it never starts."""
    gc.collect()
    before = descriptors()
    RawSniffer(veth.a).close()
    RawSniffer(veth.a)
    list(RawSniffer(veth.a, timeout=0))
    for view in RawSniffer(veth.a, timeout=0):
        del view
        break
    gc.collect()
    assert descriptors() == before


def test_opened_socket_takes_no_filter(veth: Veth) -> None:
    with (
        L2RawMmsgSocket(iface=veth.a) as sock,
        pytest.raises(ValueError, match="opened socket"),
    ):
        RawSniffer(opened_socket=sock, filter="arp")

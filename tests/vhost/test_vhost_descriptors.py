"""Kicks, calls, and descriptors of every kind."""

import array
import errno
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic

import pytest
from support import WAIT
from support.front_end import (
    NEED_REPLY,
    PAGE,
    SET_MEM_TABLE,
    SET_OWNER,
    SET_VRING_CALL,
    SET_VRING_ERR,
    SET_VRING_KICK,
    USER,
    VERSION,
    negotiated,
    number,
    table,
    threads_that_close,
)
from support.hard_descriptors import lingering_socket, no_more_descriptors
from support.refused_calls import PREADV2, run_without

from rawmmsg.vhost.descriptors import MOST_WAITING
from rawmmsg.vhost.messages import MAX_REGIONS

REQUESTS = [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR]


@pytest.fixture
def strangers() -> Iterator[dict[str, int]]:
    """Descriptors that are not eventfds."""
    with ExitStack() as opened:
        reader, writer = os.pipe()
        opened.callback(os.close, reader)
        opened.callback(os.close, writer)
        epoll = opened.enter_context(select.epoll())
        sock = opened.enter_context(socket.socket())
        status = opened.enter_context(open("/proc/self/status"))
        memory = os.memfd_create("anon_inode:[eventfd]\x1b[2J")
        opened.callback(os.close, memory)
        yield {
            "pipe:": writer,
            "anon_inode:[eventpoll]": epoll.fileno(),
            "socket:": sock.fileno(),
            "a file": status.fileno(),
            "a file (memfd)": memory,
        }


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize(
    "kind",
    [
        "pipe:",
        "anon_inode:[eventpoll]",
        "socket:",
        "a file",
        "a file (memfd)",
    ],
)
def test_only_eventfds_are_accepted(
    request_: int, kind: str, strangers: dict[str, int]
) -> None:
    with negotiated() as pair:
        pair.share()
        reason = pair.refused(request_, number(0), [strangers[kind]])
        assert f"not an eventfd but {kind.partition(' (')[0]}" in reason
        assert reason.isprintable()


def test_kick_and_call_become_non_blocking() -> None:
    with negotiated() as pair:
        pair.share()
        kick = pair.start(0)
        call = pair.eventfd()
        assert pair.ask(SET_VRING_CALL, number(0), [call]) == 0
        assert not os.get_blocking(kick)
        assert not os.get_blocking(call)


def test_a_full_call_does_not_wait() -> None:
    with negotiated() as pair:
        call = pair.eventfd()
        assert pair.ask(SET_VRING_CALL, number(0), [call]) == 0
        os.eventfd_write(call, 2**64 - 2)
        given = pair.rings.call_descriptors[0]
        assert given is not None
        with pytest.raises(BlockingIOError):
            os.eventfd_write(given, 1)


@pytest.mark.skipif(
    not hasattr(os, "RWF_NOWAIT"), reason="the C library has no preadv2()"
)
def test_a_kick_that_was_taken_back_does_not_wait() -> None:
    """A front end shares the flags: it can clear O_NONBLOCK, and can read the
    eventfd itself."""
    with negotiated() as pair:
        pair.share()
        kick = pair.start(1)
        os.set_blocking(kick, True)
        assert not pair.session.kicked(1)
        assert pair.rings.kicks == [1]


def test_a_kick_is_read_on_kernels_before_5_8() -> None:
    """An eventfd did not know RWF_NOWAIT."""
    with negotiated() as pair:
        pair.share()
        kick = pair.start(1)
        (polled,) = pair.session.kicks
        os.eventfd_write(kick, 1)
        for _ in range(2):
            run_without(PREADV2, errno.EOPNOTSUPP, pair.session.kicked, 1)
            assert not select.select([polled], [], [], 0)[0]
        assert pair.rings.kicks == [1, 1]


def test_kicks_that_were_not_read_are_one() -> None:
    with negotiated() as pair:
        pair.share()
        kick = pair.start(1)
        (polled,) = pair.session.kicks
        for _ in range(1000):
            os.eventfd_write(kick, 1)
        assert select.select([polled], [], [], 0)[0]
        pair.session.kicked(1)
        assert not select.select([polled], [], [], 0)[0]
        assert pair.rings.kicks == [1]


def test_a_storm_of_kicks_is_ignored_for_a_while() -> None:
    with negotiated() as pair:
        pair.share()
        kick = pair.start(1)
        pair.rings.has_buffers = False
        changes = 0
        while pair.session.kicks:
            os.eventfd_write(kick, 1)
            changes += pair.session.kicked(1)
            assert len(pair.rings.kicks) < 1000, "it is polled for ever"
        assert changes == 1
        assert pair.session.tend()
        assert list(pair.session.kicks.values()) == [1]
        assert not pair.session.tend()


def test_kicks_with_buffers_are_never_ignored() -> None:
    with negotiated() as pair:
        pair.share()
        kick = pair.start(1)
        for _ in range(1000):
            os.eventfd_write(kick, 1)
            assert not pair.session.kicked(1)
        assert pair.session.kicks


@pytest.mark.parametrize("place", ["call", "memory", "surplus", "queue"])
def test_closing_never_waits(place: str) -> None:
    """Although the front end has passed a descriptor whose close(2) waits, and
    has closed its own."""
    with negotiated() as pair, lingering_socket() as (sock, peer):
        if place == "memory":
            regions = table((0, 4096, USER, 0))
            pair.front.send(SET_MEM_TABLE, regions, [sock.fileno()])
        elif place == "surplus":
            pair.front.send(SET_OWNER, b"", [sock.fileno()])
        else:
            pair.front.send(SET_VRING_CALL, number(0), [sock.fileno()])
        sock.close()
        began = monotonic()
        if place != "queue":
            assert not pair.session.serve()
        pair.session.close()
        assert monotonic() - began < WAIT
        assert threads_that_close() == 1
        peer.close()  # now the thread can go on


def test_urgent_data_do_not_wait() -> None:
    """Without SO_OOBINLINE, recvmsg(2) would close what came with them."""
    with negotiated() as pair, lingering_socket() as (sock, peer):
        passed = array.array("i", [sock.fileno()])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)]
        try:
            pair.front.sock.sendmsg([b"x"], ancillary, socket.MSG_OOB)
        except OSError as error:  # Linux before 5.15
            assert error.errno == errno.EOPNOTSUPP
            peer.close()
        sock.close()
        pair.front.send(SET_OWNER)
        began = monotonic()
        for _ in range(2):
            if not pair.session.serve():
                break
        pair.session.close()
        assert monotonic() - began < WAIT
        peer.close()


def test_descriptors_that_cannot_be_received_do_not_wait() -> None:
    """recvmsg(2) would close those for which the process has no room."""
    with negotiated() as pair, lingering_socket() as (sock, peer):
        pair.front.send(SET_OWNER, b"", [sock.fileno()])
        sock.close()
        began = monotonic()
        with no_more_descriptors():
            assert not pair.session.serve()
        pair.session.close()
        assert monotonic() - began < WAIT
        assert "too many open files" in pair.reports[-1]
        peer.close()


def test_descriptors_wait_if_no_thread_can_be_started() -> None:
    with negotiated() as pair, lingering_socket() as (sock, peer):
        flags = VERSION | NEED_REPLY
        before = threading.stack_size(1 << 56)
        try:
            pair.front.send(SET_OWNER, b"", [sock.fileno()], flags=flags)
            sock.close()
            assert pair.session.serve()
            assert pair.front.reply() == (SET_OWNER, number(1))
            assert threads_that_close() == 0
        finally:
            threading.stack_size(before)
        assert pair.ask(SET_OWNER) == 0
        assert threads_that_close() == 1
        peer.close()


def test_descriptors_that_cannot_be_closed_are_limited() -> None:
    """Their number counts, not that of the messages."""
    with ExitStack() as opened:
        pair = opened.enter_context(negotiated())
        flags = VERSION | NEED_REPLY
        others = [pair.file(PAGE)] * (MAX_REGIONS - 1)
        count = 0
        while True:
            count += MAX_REGIONS
            sock, peer = opened.enter_context(lingering_socket())
            given = [sock.fileno(), *others]
            pair.front.send(SET_OWNER, b"", given, flags=flags)
            sock.close()
            goes_on = pair.session.serve()
            opened.callback(peer.close)
            if not goes_on:
                break
            assert pair.front.reply() == (SET_OWNER, number(1))
        assert count == MOST_WAITING + MAX_REGIONS
        assert "cannot be closed yet" in pair.reports[-1]

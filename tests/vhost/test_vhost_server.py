"""Front ends that connect, disconnect, and are restarted."""

import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest
from support import WAIT
from support.calls import eventually
from support.front_end import (
    GET_QUEUE_NUM,
    REPLY_ACK,
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_OWNER,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR,
    SET_VRING_CALL,
    SET_VRING_KICK,
    SET_VRING_NUM,
    USER,
    VERSION_1,
    FrontEnd,
    RecordedRings,
    addresses,
    memory_file,
    nothing_stays_open,
    number,
    state,
    table,
    threads_that_close,
)
from support.hard_descriptors import lingering_socket, no_more_descriptors
from support.linux import descriptors

from rawmmsg.vhost import ConnectingServer, ListeningServer, Server
from rawmmsg.vhost.descriptors import MOST_WAITING
from rawmmsg.vhost.messages import MAX_REGIONS


class Loop:
    """A poll loop with nothing but a server."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def round(self) -> int:
        """One call of poll(2), which does not wait, and the calls for its
        events. Returns how many."""
        poll = select.poll()
        readers = self.server.readers
        for descriptor in readers:
            poll.register(descriptor, select.POLLIN)
        events = poll.poll(0)
        for descriptor, _ in events:
            readers[descriptor]()
        return len(events)

    def quiet(self) -> None:
        """Until there are no events."""
        for _ in range(1000):
            if not self.round():
                return
        raise AssertionError("there is always an event")


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with nothing_stays_open(), ExitStack() as stack:
        yield stack


class Listening:
    """A server that listens at a path."""

    def __init__(self, opened: ExitStack, directory: Path) -> None:
        self.opened = opened
        self.path = str(directory / "guest")
        self.listener = opened.enter_context(
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        )
        self.listener.bind(self.path)
        self.listener.listen()
        self.memory = memory_file(4096)
        opened.callback(os.close, self.memory)
        self.rings = RecordedRings()
        self.reports: list[str] = []
        self.server = ListeningServer(
            self.listener, self.rings, self.reports.append
        )
        opened.callback(self.server.close)
        self.loop = Loop(self.server)

    def connect(self) -> FrontEnd:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.opened.enter_context(sock)
        sock.connect(self.path)
        return FrontEnd(sock)


@pytest.fixture
def listening(opened: ExitStack, short_path: Path) -> Listening:
    return Listening(opened, short_path)


def set_up(front: FrontEnd) -> None:
    """Sends what QEMU sends until ring 0 runs."""
    with ExitStack() as passed:
        file = memory_file(1 << 16)
        passed.callback(os.close, file)
        kick = os.eventfd(0)
        passed.callback(os.close, kick)
        front.send(SET_OWNER)
        front.send(SET_PROTOCOL_FEATURES, number(REPLY_ACK))
        front.send(SET_FEATURES, number(VERSION_1))
        front.send(SET_MEM_TABLE, table((0, 1 << 16, USER, 0)), [file])
        front.send(SET_VRING_NUM, state(0, 256))
        front.send(SET_VRING_ADDR, addresses(0))
        front.send(SET_VRING_KICK, number(0), [kick])
        front.send(SET_VRING_CALL, number(0), [kick])


def test_a_front_end_connects(listening: Listening) -> None:
    assert listening.path in listening.server.missing()
    front = listening.connect()
    front.send(GET_QUEUE_NUM)
    listening.loop.quiet()
    assert front.reply() == (GET_QUEUE_NUM, number(1))
    assert listening.reports == ["a front end has connected"]


def test_a_second_connection_is_refused(listening: Listening) -> None:
    first = listening.connect()
    listening.loop.quiet()
    second = listening.connect()
    listening.loop.quiet()
    assert second.is_disconnected
    assert "a second connection was refused" in listening.reports[-1]
    first.send(GET_QUEUE_NUM)
    listening.loop.quiet()
    assert first.reply() == (GET_QUEUE_NUM, number(1))


def test_a_front_end_that_is_killed_comes_back(listening: Listening) -> None:
    """Everything of the first one is given back."""
    listening.loop.quiet()
    before = descriptors()
    for _ in range(3):
        front = listening.connect()
        set_up(front)
        listening.loop.quiet()
        assert listening.rings.running == {0}
        front.sock.close()
        listening.loop.quiet()
        assert listening.rings.running == set()
        assert listening.rings.memory == ()
        assert listening.rings.call_descriptors == {0: None, 1: None}
        assert listening.rings.enabled == {0: False, 1: False}
        assert listening.rings.bases == {0: 0, 1: 0}
        assert listening.rings.features == 0
        eventually(
            lambda: descriptors() == before, "a descriptor was left open"
        )
    assert listening.reports == 3 * [
        "a front end has connected",
        "the front end has disconnected",
    ]


def test_a_restarted_front_end_is_not_the_second(
    listening: Listening,
) -> None:
    """It connects before we have seen all messages of its predecessor."""
    first = listening.connect()
    listening.loop.quiet()
    for _ in range(100):
        first.send(SET_OWNER)
    first.sock.close()
    second = listening.connect()
    listening.loop.quiet()
    assert not second.is_disconnected
    second.send(GET_QUEUE_NUM)
    listening.loop.quiet()
    assert second.reply() == (GET_QUEUE_NUM, number(1))


def test_a_bad_front_end_leaves_the_server_open(listening: Listening) -> None:
    bad = listening.connect()
    bad.send(99)
    listening.loop.quiet()
    assert bad.is_disconnected
    assert "disconnected: request 99" in listening.reports[1]
    good = listening.connect()
    good.send(GET_QUEUE_NUM)
    listening.loop.quiet()
    assert good.reply() == (GET_QUEUE_NUM, number(1))


def test_reports_are_limited(listening: Listening) -> None:
    for _ in range(100):
        listening.connect().send(99)
        listening.loop.quiet()
    assert len(listening.reports) <= 20


def test_no_free_descriptor_is_no_busy_loop(listening: Listening) -> None:
    front = listening.connect()
    with no_more_descriptors():
        assert listening.loop.round() == 1
        assert "Too many open files" in listening.reports[0]
        listening.loop.quiet()
        assert len(listening.reports) == 1
    assert listening.server.tend()
    front.send(GET_QUEUE_NUM)
    listening.loop.quiet()
    assert front.reply() == (GET_QUEUE_NUM, number(1))


def pass_too_many(listening: Listening) -> None:
    """Passes descriptors that cannot be closed, until no front end is
    served."""
    others = [listening.memory] * (MAX_REGIONS - 1)
    for _ in range(MOST_WAITING // MAX_REGIONS):
        front = listening.connect()
        sock, peer = listening.opened.enter_context(lingering_socket())
        front.send(SET_VRING_CALL, number(0), [sock.fileno(), *others])
        sock.close()
        listening.loop.quiet()
        listening.opened.callback(peer.close)


def test_descriptors_that_cannot_be_closed_are_limited(
    listening: Listening,
) -> None:
    """Also those of front ends that have gone."""
    pass_too_many(listening)
    late = listening.connect()
    listening.loop.quiet()
    assert late.is_disconnected


def test_descriptors_that_cannot_be_closed_keep_us_from_connecting(
    opened: ExitStack, short_path: Path
) -> None:
    path = str(short_path / "front")
    listener = opened.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen()
    memory = memory_file(4096)
    opened.callback(os.close, memory)
    server = ConnectingServer(path, RecordedRings(), lambda text: None)
    opened.callback(server.close)
    loop = Loop(server)
    connections = 1
    while server.session is not None:
        sock, _ = listener.accept()
        with sock, ExitStack() as passed:
            doubtful, peer = opened.enter_context(lingering_socket())
            opened.callback(peer.close)
            passed.enter_context(doubtful)
            given = [doubtful.fileno(), *[memory] * (MAX_REGIONS - 1)]
            FrontEnd(sock).send(SET_VRING_CALL, number(0), given)
        loop.quiet()
        connections += server.tend()
    assert connections == MOST_WAITING // MAX_REGIONS


def test_descriptors_of_one_server_do_not_limit_another(
    listening: Listening, opened: ExitStack, short_path: Path
) -> None:
    (short_path / "other").mkdir()
    other = Listening(opened, short_path / "other")
    front = other.connect()
    other.loop.quiet()
    pass_too_many(listening)
    front.send(GET_QUEUE_NUM)
    other.loop.quiet()
    assert front.reply() == (GET_QUEUE_NUM, number(1))


@pytest.mark.parametrize("why", ["second", "limited"])
def test_refusing_a_connection_never_waits(
    listening: Listening, why: str
) -> None:
    """Although the peer has passed a descriptor whose close(2) waits."""
    if why == "second":
        listening.connect()
        listening.loop.quiet()
    else:
        pass_too_many(listening)
    before = threads_that_close()
    refused = listening.connect()
    sock, peer = listening.opened.enter_context(lingering_socket())
    refused.send(SET_VRING_CALL, number(0), [sock.fileno()])
    sock.close()
    began = monotonic()
    listening.loop.quiet()
    assert monotonic() - began < WAIT
    assert refused.is_disconnected
    assert threads_that_close() == before + 1
    listening.opened.callback(peer.close)


def test_the_server_closes_the_session(listening: Listening) -> None:
    front = listening.connect()
    set_up(front)
    listening.loop.quiet()
    listening.server.close()
    assert front.is_disconnected
    assert listening.rings.running == set()


def test_closing_the_server_never_waits(listening: Listening) -> None:
    """Although a front end that was not accepted yet has passed a descriptor
    whose close(2) waits."""
    waiting = listening.connect()
    sock, peer = listening.opened.enter_context(lingering_socket())
    waiting.send(SET_VRING_CALL, number(0), [sock.fileno()])
    sock.close()
    began = monotonic()
    listening.server.close()
    assert monotonic() - began < WAIT
    eventually(
        lambda: waiting.is_disconnected, "the front end is not disconnected"
    )
    listening.opened.callback(peer.close)


def test_an_event_of_a_closed_descriptor_is_ignored(
    listening: Listening,
) -> None:
    """In one round, the connection ends before its kick is handled."""
    front = listening.connect()
    set_up(front)
    listening.loop.quiet()
    calls = list(listening.server.readers.values())
    front.sock.close()
    listening.loop.quiet()
    for call in calls:
        assert not call()


def test_connecting_again_and_again(
    opened: ExitStack, short_path: Path
) -> None:
    """The front end listens: it starts later, and is restarted."""
    path = str(short_path / "front")
    rings = RecordedRings()
    server = ConnectingServer(path, rings, lambda text: None)
    opened.callback(server.close)
    loop = Loop(server)
    assert path in server.missing()
    assert not server.tend()
    for _ in range(3):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with listener:
            listener.bind(path)
            listener.listen()
            assert server.tend()
            assert not server.tend()
            sock, _ = listener.accept()
        with sock:
            front = FrontEnd(sock)
            set_up(front)
            front.send(GET_QUEUE_NUM)
            loop.quiet()
            assert rings.running == {0}
            assert front.reply() == (GET_QUEUE_NUM, number(1))
        loop.quiet()
        assert rings.running == set()
        assert server.session is None
        (short_path / "front").unlink()
        assert not server.tend()


def test_connecting_at_once_if_the_front_end_listens(
    opened: ExitStack, short_path: Path
) -> None:
    path = str(short_path / "front")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    opened.enter_context(listener)
    listener.bind(path)
    listener.listen()
    server = ConnectingServer(path, RecordedRings(), lambda text: None)
    opened.callback(server.close)
    assert server.session is not None

"""Requests that no front end should send: each is refused with a reason, and
every descriptor that came with it is closed."""

import errno
import socket
import struct

import pytest
from support.front_end import (
    GET_FEATURES,
    GET_QUEUE_NUM,
    GET_VRING_BASE,
    NEED_REPLY,
    NO_DESCRIPTOR,
    PROTOCOL_FEATURES,
    REPLY,
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_OWNER,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    SET_VRING_CALL,
    SET_VRING_ENABLE,
    SET_VRING_ERR,
    SET_VRING_KICK,
    SET_VRING_NUM,
    USER,
    VERSION,
    VERSION_1,
    addresses,
    connected,
    negotiated,
    number,
    state,
)
from support.hard_descriptors import no_more_descriptors
from support.refused_calls import READLINK, run_without

EVENTFD_REQUESTS = [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR]

# What a front end sends only if a feature is offered that is not.
NOT_OFFERED = {
    "NONE": 0,
    "SET_LOG_BASE": 6,
    "SET_LOG_FD": 7,
    "SEND_RARP": 19,
    "SET_BACKEND_REQ_FD": 21,
    "IOTLB_MSG": 22,
    "GET_CONFIG": 24,
    "POSTCOPY_ADVISE": 28,
    "GET_INFLIGHT_FD": 31,
    "ADD_MEM_REG": 37,
    "SET_STATUS": 39,
    "GET_STATUS": 40,
    "unknown": 0xFFFFFFFF,
}


# Messages after which nothing can follow


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_a_request_that_was_not_offered_ends_the_session(name: str) -> None:
    with negotiated() as pair:
        request = NOT_OFFERED[name]
        descriptors = [pair.eventfd(), pair.file(1)]
        assert not pair.tell(request, number(0), descriptors)
        (reason,) = pair.reports
        assert f"request {request} is not one of those" in reason


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (0, "version 0"),
        (2, "version 2"),
        (VERSION | REPLY, "a reply"),
    ],
)
def test_wrong_flags_end_the_session(flags: int, reason: str) -> None:
    with connected() as pair:
        pair.front.send(SET_OWNER, flags=flags)
        assert not pair.session.serve()
        assert reason in pair.reports[0]


@pytest.mark.parametrize(
    ("request_", "size"),
    [
        (SET_OWNER, 1),
        (GET_FEATURES, 8),
        (SET_FEATURES, 0),
        (SET_FEATURES, 7),
        (SET_FEATURES, 0xFFFFFFFF),
        (SET_VRING_NUM, 9),
        (SET_VRING_ADDR, 39),
        (SET_VRING_KICK, 4),
        (GET_VRING_BASE, 0),
        (SET_MEM_TABLE, 0),
        (SET_MEM_TABLE, 8 + 8 * 32 + 1),
        (SET_MEM_TABLE, 0x80000000),
    ],
)
def test_a_wrong_size_ends_the_session(request_: int, size: int) -> None:
    """Before any byte of the payload is read."""
    with connected() as pair:
        pair.front.send(request_, b"", [pair.eventfd()], size=size)
        assert not pair.session.serve()
        assert f"payload of {size} bytes, not" in pair.reports[0]


@pytest.mark.parametrize("length", [1, 11, 12, 19])
def test_a_message_that_is_cut_ends_the_session(length: int) -> None:
    with connected() as pair:
        message = struct.pack("=IIIQ", SET_VRING_CALL, VERSION, 8, 0)
        call = pair.eventfd()
        socket.send_fds(pair.front.sock, [message[:length]], [call])
        assert pair.session.serve()
        assert pair.session.serve()
        pair.front.sock.shutdown(socket.SHUT_WR)
        assert not pair.session.serve()
        assert pair.reports == [
            "disconnected: the connection ended in a message"
        ]


def test_closing_in_a_message_closes_its_descriptors() -> None:
    with connected() as pair:
        message = struct.pack("=II", SET_VRING_CALL, VERSION)
        socket.send_fds(pair.front.sock, [message], [pair.eventfd()])
        assert pair.session.serve()


def test_closing_closes_the_descriptors_of_waiting_messages() -> None:
    with connected() as pair:
        for _ in range(3):
            pair.front.send(SET_VRING_CALL, number(0), [pair.file(1)])


def test_too_many_descriptors_end_the_session() -> None:
    with negotiated() as pair:
        many = [pair.eventfd()] * 253
        pair.front.send(SET_OWNER, b"", many)
        assert not pair.session.serve()
        assert "253 file descriptors" in pair.reports[0]


def test_descriptors_in_pieces_are_counted_together() -> None:
    with negotiated() as pair:
        few = [pair.eventfd()] * 5
        message = struct.pack("=III", SET_OWNER, VERSION, 0)
        socket.send_fds(pair.front.sock, [message[:6]], few)
        socket.send_fds(pair.front.sock, [message[6:]], few)
        assert pair.session.serve()
        assert not pair.session.serve()
        assert "10 file descriptors" in pair.reports[0]


def test_descriptors_that_cannot_be_received_end_the_session() -> None:
    with negotiated() as pair:
        call = pair.eventfd()
        pair.front.send(SET_VRING_CALL, number(0), [call, call])
        with no_more_descriptors():
            assert not pair.session.serve()
        assert "ulimit -n" in pair.reports[0]


def test_a_peer_that_reads_no_replies_ends_the_session() -> None:
    with connected() as pair:
        goes_on = True
        for _ in range(100_000):
            pair.front.send(GET_FEATURES)
            goes_on = pair.session.serve()
            if not goes_on:
                break
        assert not goes_on
        assert "does not read the replies" in pair.reports[0]


def test_a_peer_that_goes_before_the_reply_is_no_error() -> None:
    with connected() as pair:
        pair.front.send(GET_FEATURES)
        pair.front.sock.close()
        assert not pair.session.serve()
        assert pair.reports == []


def test_a_peer_that_goes_without_reading_is_no_error() -> None:
    with connected() as pair:
        pair.front.send(GET_FEATURES)
        assert pair.session.serve()
        pair.front.sock.close()
        assert not pair.session.serve()
        assert pair.reports == []


# Requests that cannot be carried out


def test_without_a_reply_a_refusal_ends_the_session() -> None:
    with negotiated() as pair:
        assert not pair.tell(SET_VRING_NUM, state(0, 3))
        assert "SET_VRING_NUM: 3 is not a power of two" in pair.reports[0]


@pytest.mark.parametrize("request_", [GET_FEATURES, GET_QUEUE_NUM])
def test_a_refused_question_has_no_wrong_answer(request_: int) -> None:
    """1 would be taken for the answer."""
    with negotiated() as pair:
        flags = VERSION | NEED_REPLY
        pair.front.send(request_, b"", [pair.eventfd()], flags=flags)
        assert not pair.session.serve()
        assert not pair.front.has_reply


def test_base_of_an_unknown_ring_ends_the_session() -> None:
    with negotiated() as pair:
        assert not pair.tell(GET_VRING_BASE, state(2, 0))
        assert "there is no ring 2" in pair.reports[0]


def test_features_that_were_not_offered_are_refused() -> None:
    with negotiated() as pair:
        before = pair.rings.features
        for bit in (26, 33, 34, 35, 63):
            reason = pair.refused(SET_FEATURES, number(VERSION_1 | 1 << bit))
            assert f"{1 << bit:#x} was not offered" in reason
        assert pair.rings.features == before
        reason = pair.refused(SET_PROTOCOL_FEATURES, number(1 << 15))
        assert "0x8000 was not offered" in reason


def test_features_cannot_change_while_a_ring_runs() -> None:
    with negotiated() as pair:
        pair.share()
        pair.start(0)
        reason = pair.refused(SET_FEATURES, number(PROTOCOL_FEATURES))
        assert "a ring is running" in reason
        same = VERSION_1 | PROTOCOL_FEATURES
        assert pair.ask(SET_FEATURES, number(same)) == 0


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (SET_OWNER, b""),
        (SET_FEATURES, number(VERSION_1)),
        (SET_VRING_NUM, state(0, 256)),
        (SET_VRING_ADDR, addresses(0)),
    ],
)
def test_unexpected_descriptors_are_refused(
    request_: int, payload: bytes
) -> None:
    with negotiated() as pair:
        descriptors = [pair.eventfd(), pair.file(1)]
        reason = pair.refused(request_, payload, descriptors)
        assert "file descriptors: 2, not 0" in reason


@pytest.mark.parametrize("index", [2, 3, 255, 256, 0xFFFFFFFF])
def test_unknown_rings_are_refused(index: int) -> None:
    with negotiated() as pair:
        for request, payload in (
            (SET_VRING_NUM, state(index, 256)),
            (SET_VRING_BASE, state(index, 0)),
            (SET_VRING_ADDR, addresses(index)),
            (SET_VRING_ENABLE, state(index, 1)),
        ):
            reason = pair.refused(request, payload)
            assert f"there is no ring {index}" in reason


@pytest.mark.parametrize("request_", EVENTFD_REQUESTS)
def test_eventfds_for_unknown_rings_are_refused(request_: int) -> None:
    with negotiated() as pair:
        for index in (2, 255):
            reason = pair.refused(request_, number(index), [pair.eventfd()])
            assert f"there is no ring {index}" in reason


@pytest.mark.parametrize("size", [0, 3, 255, 65536, 0xFFFFFFFF])
def test_ring_sizes_are_checked(size: int) -> None:
    with negotiated() as pair:
        reason = pair.refused(SET_VRING_NUM, state(0, size))
        assert f"{size} is not a power of two" in reason
        assert pair.rings.sizes == {}


@pytest.mark.parametrize(
    ("where", "part"),
    [
        ((USER + 8, USER, USER), "descriptor table"),
        ((USER, USER + 2, USER), "used ring"),
        ((USER, USER, USER + 1), "available ring"),
    ],
)
def test_alignment_of_addresses_is_checked(
    where: tuple[int, int, int], part: str
) -> None:
    with negotiated() as pair:
        reason = pair.refused(SET_VRING_ADDR, addresses(0, where))
        assert f"the address of its {part}" in reason
        assert pair.rings.addresses == {}


def test_base_has_16_bits() -> None:
    with negotiated() as pair:
        reason = pair.refused(SET_VRING_BASE, state(0, 65536))
        assert "65536 is not below 65536" in reason


def test_a_ring_cannot_start_before_it_is_set_up() -> None:
    with negotiated() as pair:
        for request, go_on in (
            ("SET_VRING_NUM", lambda: pair.ask(SET_VRING_NUM, state(0, 256))),
            ("SET_VRING_ADDR", lambda: pair.ask(SET_VRING_ADDR, addresses(0))),
            ("SET_MEM_TABLE", pair.share),
        ):
            kick = pair.eventfd()
            reason = pair.refused(SET_VRING_KICK, number(0), [kick])
            assert f"cannot start before {request}" in reason
            go_on()
        kick = pair.eventfd()
        assert pair.ask(SET_VRING_KICK, number(0), [kick]) == 0


def test_a_ring_outside_memory_cannot_start() -> None:
    with negotiated() as pair:
        pair.share()
        assert pair.ask(SET_VRING_NUM, state(0, 256)) == 0
        assert pair.ask(SET_VRING_ADDR, addresses(0)) == 0
        pair.rings.reason = "its used ring is not in the memory table"
        kick = pair.eventfd()
        reason = pair.refused(SET_VRING_KICK, number(0), [kick])
        assert "ring 0: its used ring is not in the memory table" in reason
        assert pair.session.kicks == {}


def test_a_running_ring_cannot_be_set_up_anew() -> None:
    with negotiated() as pair:
        pair.share()
        pair.start(1)
        elsewhere = (USER, USER + 0x1000, USER + 0x2000)
        for request, payload in (
            (SET_VRING_NUM, state(1, 512)),
            (SET_VRING_BASE, state(1, 1)),
            (SET_VRING_ADDR, addresses(1, elsewhere)),
        ):
            reason = pair.refused(request, payload)
            assert "ring 1 is running" in reason


def test_a_ring_is_not_polled() -> None:
    with negotiated() as pair:
        pair.share()
        reason = pair.refused(SET_VRING_KICK, number(NO_DESCRIPTOR))
        assert "polled" in reason


def test_enabling_is_yes_or_no() -> None:
    with negotiated() as pair:
        reason = pair.refused(SET_VRING_ENABLE, state(0, 2))
        assert "2 is neither 0 nor 1" in reason


@pytest.mark.parametrize("request_", EVENTFD_REQUESTS)
def test_missing_and_surplus_eventfds_are_refused(request_: int) -> None:
    with negotiated() as pair:
        one = pair.eventfd()
        assert "file descriptors: 0, not 1" in pair.refused(
            request_, number(0)
        )
        assert "file descriptors: 2, not 1" in pair.refused(
            request_, number(0), [one, one]
        )
        assert "file descriptors: 1, not 0" in pair.refused(
            request_, number(NO_DESCRIPTOR), [one]
        )


def test_without_proc_no_eventfd_is_accepted() -> None:
    """Nothing else tells an eventfd from other descriptors."""
    with negotiated() as pair:
        call = pair.eventfd()
        reason = run_without(
            READLINK,
            errno.ENOENT,
            pair.refused,
            SET_VRING_CALL,
            number(0),
            [call],
        )
        assert "/proc: No such file or directory" in reason

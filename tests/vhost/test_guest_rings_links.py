"""A guest whose port loses its link, and what the port's socket counts."""

import errno
from collections.abc import Iterator

import pytest
from support.calls import eventually, raises
from support.frames import numbered, numbered_frames, receive
from support.guest_cards import Card, card
from support.linux import ip

from rawmmsg import RawSocket
from rawmmsg.testing import Veth

BUFFER = 1536


@pytest.fixture
def guest() -> Iterator[Card]:
    with card() as made:
        made.guest.post([BUFFER] * 8)
        yield made


@pytest.fixture
def ends(veth: Veth) -> Iterator[tuple[RawSocket, RawSocket]]:
    """Sockets on both ends of a link of the test's own."""
    with (
        RawSocket(veth.b, ignore_outgoing=True, vnet_hdr=True) as near,
        RawSocket(veth.a, ignore_outgoing=True) as far,
    ):
        near.setblocking(False)
        yield near, far


def test_frames_wait_while_the_link_is_down(
    veth: Veth, ends: tuple[RawSocket, RawSocket], guest: Card
) -> None:
    near, far = ends
    ip("link", "set", veth.b, "down")
    guest.guest.send_all(numbered_frames(3))
    for _ in range(3):
        with raises(errno.ENETDOWN):
            guest.rings.send(near)
    assert guest.rings.pending == 3
    assert guest.guest.finish_sent() == 0
    ip("link", "set", veth.b, "up")
    # The other end reports that its link was down, too.
    drain_errors(far)
    sent = 0

    def is_sent() -> bool:
        nonlocal sent
        sent += guest.rings.send(near)
        return sent == 3

    eventually(is_sent, "the frames are not sent when the link is up")
    assert receive(far, 3) == numbered_frames(3)
    assert guest.guest.finish_sent() == 3


def drain_errors(sock: RawSocket) -> None:
    sock.setblocking(False)
    try:
        sock.recv(1)
    except OSError as error:
        assert error.errno in (errno.ENETDOWN, errno.EAGAIN)


def test_a_link_that_goes_down_is_an_error_once(
    veth: Veth, ends: tuple[RawSocket, RawSocket], guest: Card
) -> None:
    """The buffers stay with the guest, and serve when the link is up."""
    near, far = ends
    ip("link", "set", veth.b, "down")
    with raises(errno.ENETDOWN):
        guest.rings.receive(near)
    with pytest.raises(BlockingIOError):
        guest.rings.receive(near)
    assert not guest.rings.is_full
    assert guest.guest.receive.used_index == 0
    ip("link", "set", veth.b, "up")
    drain_errors(far)

    def is_up() -> bool:
        try:
            far.send(numbered(0))
        except OSError as error:
            assert error.errno == errno.ENETDOWN
            return False
        return True

    eventually(is_up, "the link does not come up")
    far.sendmmsg_all(numbered_frames(8)[1:])
    got = guest.give(near, 8)
    assert [one.frame for one in got] == numbered_frames(8)


def test_the_socket_counts_what_it_moves(
    near: RawSocket, end: RawSocket, guest: Card
) -> None:
    for _ in range(3):
        guest.guest.send_all(numbered_frames(5))
        assert guest.rings.send(near) == 5
    counts = near.statistics()
    assert (counts.packets_sent, counts.batches_sent) == (15, 3)
    end.sendmmsg_all(numbered_frames(20))
    guest.give(near, 20)
    counts = near.statistics()
    assert counts.packets_received == 20
    assert 1 <= counts.batches_received <= 20


def test_bytes_are_counted_without_headers(
    near: RawSocket, end: RawSocket, guest: Card
) -> None:
    guest.guest.send_all(numbered_frames(5, 1000))
    guest.guest.send(bytes(13))
    assert guest.send(near) == 5
    assert guest.count("received_bytes") == 5000
    end.sendmmsg_all(numbered_frames(7, 500))
    guest.give(near, 7)
    assert guest.count("taken_bytes") == 3500

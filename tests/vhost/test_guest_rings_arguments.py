"""Wrong arguments of the calls of a guest's rings: each raises the stated
error and changes nothing."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final

import pytest
from support.frames import held, numbered, receive
from support.guest_cards import Card, card
from support.guest_driver import RECEIVE, TRANSMIT, Guest
from support.guest_links import RingsLink
from support.guest_memory import GuestMemory
from support.linux import same_descriptors

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg._rawmmsg import _GuestRings
from rawmmsg.testing import Veth

PAGE: Final = 4096


@pytest.fixture
def guest() -> Iterator[Card]:
    with card() as made:
        yield made


ADDRESSES: Final = SimpleNamespace(guest_address=0, user_address=0)
MEMORY: Final = memoryview(bytearray(PAGE))


def mapped(region: Any = ADDRESSES, memory: Any = MEMORY) -> Any:
    """A region as a session has mapped it."""
    return SimpleNamespace(region=region, memory=memory)


def at(guest: int, user: int) -> Any:
    """A page with these addresses."""
    return mapped(SimpleNamespace(guest_address=guest, user_address=user))


CALLS: Final[dict[str, tuple[Callable[[Any], object], type[Exception]]]] = {
    "set_features str": (lambda r: r.set_features("1"), TypeError),
    "set_features negative": (lambda r: r.set_features(-1), OverflowError),
    "set_features large": (lambda r: r.set_features(2**64), OverflowError),
    "set_size one": (lambda r: r.set_size(0), TypeError),
    "set_size three": (lambda r: r.set_size(0, 1, 2), TypeError),
    "set_size str": (lambda r: r.set_size(0, "1"), TypeError),
    "set_size negative": (lambda r: r.set_size(0, -1), OverflowError),
    "set_size large": (lambda r: r.set_size(0, 2**32), ValueError),
    "set_size larger": (lambda r: r.set_size(0, 2**64), OverflowError),
    "set_size ring": (lambda r: r.set_size(2, 1), ValueError),
    "set_size ring str": (lambda r: r.set_size("0", 1), TypeError),
    "set_base large": (lambda r: r.set_base(1, 2**32), ValueError),
    "set_base ring": (lambda r: r.set_base(-1, 1), ValueError),
    "set_addresses one": (lambda r: r.set_addresses(0), TypeError),
    "set_addresses None": (
        lambda r: r.set_addresses(0, None),
        AttributeError,
    ),
    "set_addresses str": (
        lambda r: r.set_addresses(
            0, SimpleNamespace(descriptors="", used=0, available=0)
        ),
        TypeError,
    ),
    "set_addresses negative": (
        lambda r: r.set_addresses(
            0, SimpleNamespace(descriptors=0, used=-1, available=0)
        ),
        OverflowError,
    ),
    "set_call one": (lambda r: r.set_call(0), TypeError),
    "set_call str": (lambda r: r.set_call(0, "1"), TypeError),
    "set_call negative": (lambda r: r.set_call(0, -1), ValueError),
    "set_call ring": (lambda r: r.set_call(9, None), ValueError),
    "set_enabled one": (lambda r: r.set_enabled(0), TypeError),
    "set_enabled ring": (lambda r: r.set_enabled(2, True), ValueError),
    "start str": (lambda r: r.start("0"), TypeError),
    "start ring": (lambda r: r.start(2), ValueError),
    "stop ring": (lambda r: r.stop(2**70), OverflowError),
    "kicked ring": (lambda r: r.kicked(2), ValueError),
    "broken ring": (lambda r: r.broken(2), ValueError),
    "ask_for_kick ring": (lambda r: r.ask_for_kick(-2), ValueError),
    "set_memory None": (lambda r: r.set_memory(None), TypeError),
    "set_memory number": (lambda r: r.set_memory([1]), AttributeError),
    "set_memory nine": (
        lambda r: r.set_memory([at(i * PAGE, i * PAGE) for i in range(9)]),
        ValueError,
    ),
    "set_memory read-only": (
        lambda r: r.set_memory([at(0, 0), mapped(memory=bytes(PAGE))]),
        BufferError,
    ),
    "set_memory no memory": (
        lambda r: r.set_memory([at(0, 0), mapped(memory=None)]),
        TypeError,
    ),
    "set_memory empty": (
        lambda r: r.set_memory([mapped(memory=bytearray())]),
        ValueError,
    ),
    "set_memory negative": (
        lambda r: r.set_memory(
            [mapped(SimpleNamespace(guest_address=-1, user_address=0))]
        ),
        OverflowError,
    ),
    "set_memory no address": (
        lambda r: r.set_memory([mapped(SimpleNamespace(guest_address=0))]),
        AttributeError,
    ),
    "set_memory overflow": (
        lambda r: r.set_memory([at(2**64 - PAGE + 1, 0)]),
        ValueError,
    ),
    "set_memory user overflow": (
        lambda r: r.set_memory([at(0, 2**64 - PAGE + 1)]),
        ValueError,
    ),
    "set_memory overlap": (
        lambda r: r.set_memory([at(0, 0), at(PAGE - 1, 9 * PAGE)]),
        ValueError,
    ),
    "set_memory user overlap": (
        lambda r: r.set_memory([at(0, 0), at(PAGE, PAGE - 1)]),
        ValueError,
    ),
    "send None": (lambda r: r.send(None), TypeError),
    "receive None": (lambda r: r.receive(None), TypeError),
    "recvmmsg_into None": (lambda r: r.recvmmsg_into(None), TypeError),
    "recvmmsg_into bytearray": (
        lambda r: r.recvmmsg_into(bytearray(SUPER_FRAME)),
        TypeError,
    ),
    "recvmmsg_into short": (
        lambda r: r.recvmmsg_into(PacketBatch()),
        ValueError,
    ),
    "sendmmsg nothing": (lambda r: r.sendmmsg(), TypeError),
    "sendmmsg list": (lambda r: r.sendmmsg([b"packet"]), TypeError),
    "sendmmsg start str": (
        lambda r: r.sendmmsg(held(numbered(1)), "0"),
        TypeError,
    ),
    "sendmmsg start large": (
        lambda r: r.sendmmsg(held(numbered(1)), 2),
        ValueError,
    ),
    "sendmmsg start larger": (
        lambda r: r.sendmmsg(held(numbered(1)), 2**70),
        OverflowError,
    ),
    "sendmmsg start negative": (
        lambda r: r.sendmmsg(held(numbered(1)), -1),
        ValueError,
    ),
    "sendmmsg three": (
        lambda r: r.sendmmsg(held(numbered(1)), 0, 1),
        TypeError,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments_change_nothing(
    near: RawSocket, far: RawSocket, guest: Card, name: str
) -> None:
    call, error = CALLS[name]
    guest.guest.post([1536] * 4)
    for i in range(3):
        with same_descriptors(), pytest.raises(error):
            call(guest.rings)
        guest.guest.send(numbered(i))
        assert guest.rings.send(near) == 1
        assert receive(far, 1) == [numbered(i)]
        assert guest.rings.sendmmsg(held(numbered(i))) == 1
        (got,) = guest.guest.received()
        assert got.frame == numbered(i)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0,), ValueError),
        ((-1,), ValueError),
        ((1025,), ValueError),
        ((2**70,), OverflowError),
        (("64",), TypeError),
        ((64, "ip"), TypeError),
        ((64, b""), ValueError),
        ((64, b"1234567"), ValueError),
        ((64, bytes(8)), ValueError),
        ((64, None, 1), TypeError),
    ],
)
def test_wrong_arguments_of_the_constructor(
    arguments: Any, error: type[Exception]
) -> None:
    with same_descriptors(), pytest.raises(error):
        _GuestRings(*arguments)


def test_only_packet_sockets_with_offload_headers_serve(
    pair: Veth, guest: Card
) -> None:
    with RawSocket(pair.b) as plain:
        for call in (guest.rings.send, guest.rings.receive):
            with pytest.raises(ValueError, match="with vnet_hdr"):
                call(plain)


def test_a_closed_socket_is_an_error(pair: Veth, guest: Card) -> None:
    guest.guest.post([1536])
    guest.guest.send(numbered(1))
    with RawSocket(pair.b, vnet_hdr=True) as sock:
        pass
    for call in (guest.rings.send, guest.rings.receive):
        with pytest.raises(OSError, match="closed"):
            call(sock)
    assert guest.rings.pending == 1
    assert guest.guest.receive.used_index == 0


def test_frames_pending_for_one_kind_of_header_go_to_another(
    pair: Veth, near: RawSocket, far: RawSocket, guest: Card
) -> None:
    """A port whose socket was replaced."""
    guest.guest.send_all([numbered(1, 3000), numbered(2)])
    with pytest.raises(OSError, match="3,000 bytes"):
        guest.rings.send(near)
    with RawSocket(pair.b, vnet_hdr=12) as other:
        other.setblocking(False)
        with pytest.raises(OSError, match="3,000 bytes"):
            guest.rings.send(other)
        guest.rings.refuse()
        assert guest.rings.send(other) == 1
    assert receive(far, 1) == [numbered(2)]
    assert guest.guest.finish_sent() == 2


def test_nothing_is_refused_if_nothing_is_pending(guest: Card) -> None:
    guest.rings.refuse()
    guest.guest.send(numbered(1))
    guest.rings.refuse()
    assert guest.guest.transmit.used_index == 0
    assert guest.counted == {}


def test_the_index_where_a_ring_begins_has_16_bits(guest: Card) -> None:
    for index in (RECEIVE, TRANSMIT):
        guest.link.stop_ring(index)
        guest.rings.set_base(index, 65_536)
        with pytest.raises(ValueError, match="16 bits"):
            guest.rings.start(index)


def test_a_used_ring_that_says_something_else_is_not_believed(
    near: RawSocket, far: RawSocket
) -> None:
    """An index far from SET_VRING_BASE: that of the front end counts."""
    with GuestMemory() as memory:
        guest = Guest(memory, base=500)
        memory.store(guest.transmit.used + 2, 9000)
        guest.send(numbered(1))
        rings = _GuestRings()
        with RingsLink(rings, guest):
            assert rings.send(near) == 1
            assert guest.transmit.used_index == 501
    assert receive(far, 1) == [numbered(1)]


def test_addresses_may_change_while_a_ring_is_stopped(
    near: RawSocket, far: RawSocket, guest: Card
) -> None:
    """A guest whose driver was loaded anew has its rings elsewhere."""
    guest.link.stop_ring(TRANSMIT)
    fresh = Guest(guest.guest.memory, size=32)
    rings = guest.rings
    rings.set_size(TRANSMIT, 32)
    rings.set_base(TRANSMIT, 0)
    rings.set_addresses(TRANSMIT, fresh.transmit.addresses)
    rings.start(TRANSMIT)
    fresh.send(numbered(5))
    assert rings.send(near) == 1
    assert receive(far, 1) == [numbered(5)]
    assert fresh.finish_sent() == 1

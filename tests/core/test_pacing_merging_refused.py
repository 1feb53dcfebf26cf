"""pacing.send(merge=True), if the kernel does not take a frame or a
super-frame: the same packets are sent, and the same are errors, as without
merging."""

import errno
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from support.datagrams import Datagram
from support.frames import batch_of, numbered, same_frames
from support.linux import drop_frames_of
from support.merging import HEADERS, UDP4, UDP6, Far, flow
from support.old_kernel import without_super_frames

from rawmmsg import GSO_TCPV4, GSO_UDP_L4, RawSocket, pacing
from rawmmsg.testing import Veth

OPTIONS = pytest.mark.parametrize(
    "options", [{}, {"pps": 1e6}, {"loop": 2}], ids=str
)
FORMS = pytest.mark.parametrize("form", [list, iter, batch_of])


@pytest.fixture
def near(pair: Veth) -> Iterator[RawSocket]:
    """A socket that sends offload headers."""
    with RawSocket(pair.a, protocol=0, vnet_hdr=True) as sock:
        yield sock


@pytest.fixture
def far(pair: Veth) -> Iterator[Far]:
    with Far(pair.b) as made:
        yield made


# Frames that the kernel refuses


@OPTIONS
@FORMS
def test_packets_that_the_link_cannot_carry_are_skipped_and_counted(
    near: RawSocket,
    far: Far,
    form: Callable[[list[bytes]], Any],
    options: dict[str, Any],
) -> None:
    """Each of those that are too long could be merged with the next, and the
    kernel would not notice."""
    long, good = flow(UDP4, 3, 1473), [*flow(UDP6, 30), *flow(UDP4, 20)]
    given = [*good[:30], *long, *good[30:], b"short", numbered(1, 1515)]
    times = options.get("loop", 1)
    result = pacing.send(near, form(given), merge=True, **options)
    far.wait_for(50 * times)
    same_frames(far.frames, good * times)
    assert (result.frames, result.errors) == (50 * times, 5 * times)
    assert result.bytes == sum(map(len, good)) * times
    assert result.refusal is not None
    assert result.refusal.errno == errno.EMSGSIZE


@pytest.mark.parametrize("options", [{}, {"pps": 1e9}, {"loop": 2}], ids=str)
def test_super_frame_that_is_dropped_on_its_way_is_sent_in_pieces(
    veth: Veth, options: dict[str, Any]
) -> None:
    """A filter drops pieces of 20 frames, and no single one."""
    first, dropped, last = (
        flow(Datagram(), 10, 40),
        flow(UDP4, 20),
        flow(UDP6, 10),
    )
    drop_frames_of(veth.a, HEADERS + 20 * 22)
    given = [*first, *dropped, *last]
    times = options.get("loop", 1)
    with (
        RawSocket(veth.a, protocol=0, vnet_hdr=True) as near,
        Far(veth.b) as far,
    ):
        result = pacing.send(near, given, merge=True, **options)
        far.wait_for(40 * times)
    same_frames(far.frames, given * times)
    assert (result.frames, result.errors) == (40 * times, 0)


def test_single_frame_that_is_dropped_on_its_way_is_an_error(
    veth: Veth,
) -> None:
    """Its neighbors are sent in one piece."""
    first, last = flow(UDP4, 10), flow(UDP6, 10)
    drop_frames_of(veth.a, 700)
    with (
        RawSocket(veth.a, protocol=0, vnet_hdr=True) as near,
        Far(veth.b) as far,
    ):
        given = [*first, numbered(1, 700), *last]
        result = pacing.send(near, given, merge=True)
        far.wait_for(20)
    assert far.frames == first + last
    assert far.pieces[0] == 10
    assert (result.frames, result.errors) == (20, 1)


# Kernels that do not know super-frames of UDP


MIXED: Final = [*flow(Datagram(), 30), *flow(UDP4, 40), *flow(UDP6, 30)]


@pytest.mark.parametrize(
    "options",
    [{}, {"pps": 1e9}, {"loop": 2}, {"loop": 2, "pps": 1e9}],
    ids=str,
)
@FORMS
def test_datagrams_are_sent_one_by_one(
    near: RawSocket,
    far: Far,
    form: Callable[[list[bytes]], Any],
    options: dict[str, Any],
) -> None:
    """And segments of TCP in super-frames."""
    times = options.get("loop", 1)

    def send() -> pacing.SendResult:
        return pacing.send(near, form(MIXED), merge=True, **options)

    with pytest.warns(RuntimeWarning, match="UDP") as told:
        result, refused = without_super_frames(GSO_UDP_L4, send)
    far.wait_for(100 * times)
    same_frames(far.frames, MIXED * times)
    assert (result.frames, result.errors) == (100 * times, 0)
    assert result.refusal is None
    assert result.bytes == sum(map(len, MIXED)) * times
    assert far.pieces.count(1) >= 70 * times
    # sendmmsg() tries once more, to see whose error it is.
    assert (len(told), refused) == (1, 2)
    assert str(near.interface) in str(told[0].message)


def test_socket_remembers_it(near: RawSocket, far: Far) -> None:
    """The next call tries no super-frame of UDP, and gives no warning."""

    def send() -> None:
        pacing.send(near, MIXED, merge=True)

    with pytest.warns(RuntimeWarning, match="UDP"):
        without_super_frames(GSO_UDP_L4, send)
    far.wait_for(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, refused = without_super_frames(GSO_UDP_L4, send)
    assert refused == 0
    far.wait_for(200)
    assert far.pieces[-71:] == [30, *[1] * 70]


def test_another_socket_tries_again(pair: Veth, far: Far) -> None:
    for i in (1, 2):
        with (
            RawSocket(pair.a, protocol=0, vnet_hdr=True) as near,
            pytest.warns(RuntimeWarning, match="UDP"),
        ):
            without_super_frames(
                GSO_UDP_L4,
                lambda: pacing.send(near, MIXED, merge=True),
            )
        far.wait_for(100 * i)


@OPTIONS
def test_other_super_frame_that_is_refused_is_sent_in_pieces(
    near: RawSocket, far: Far, options: dict[str, Any]
) -> None:
    """Nothing else changes, and there is no warning."""
    times = options.get("loop", 1)

    def send() -> pacing.SendResult:
        return pacing.send(near, MIXED, merge=True, **options)

    result, refused = without_super_frames(GSO_TCPV4, send)
    assert refused > 0
    assert (result.frames, result.errors) == (100 * times, 0)
    far.wait_for(100 * times)
    same_frames(far.frames, MIXED * times)
    assert max(far.pieces) > 1

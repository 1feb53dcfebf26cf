"""pacing.send(merge=True), if the kernel does not take a frame: the same
packets are sent, and the same are errors, as without merging."""

import errno
from collections.abc import Callable
from typing import Any

import pytest
from support.datagrams import Datagram, leave_checksums_to_software
from support.frames import batch_of, numbered, same_frames
from support.linux import drop_frames_of
from support.merging import HEADERS, UDP4, UDP6, Listener, flow

from rawmmsg import RawSocket, pacing
from rawmmsg.testing import Veth

OPTIONS = pytest.mark.parametrize(
    "options", [{}, {"pps": 1e6}, {"loop": 2}], ids=str
)
FORMS = pytest.mark.parametrize("form", [list, iter, batch_of])


@OPTIONS
@FORMS
def test_packets_that_the_link_cannot_carry_are_skipped_and_counted(
    vnet_sender: RawSocket,
    listener: Listener,
    form: Callable[[list[bytes]], Any],
    options: dict[str, Any],
) -> None:
    """Each of those that are too long could be merged with the next, and the
    kernel would not notice."""
    long, good = flow(UDP4, 3, 1473), [*flow(UDP6, 30), *flow(UDP4, 20)]
    given = [*good[:30], *long, *good[30:], b"short", numbered(1, 1515)]
    times = options.get("loop", 1)
    result = pacing.send(vnet_sender, form(given), merge=True, **options)
    listener.wait_for(50 * times)
    same_frames(listener.frames, good * times)
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
        RawSocket(veth.a, protocol=0, vnet_hdr=True) as vnet_sender,
        Listener(veth.b) as listener,
    ):
        result = pacing.send(vnet_sender, given, merge=True, **options)
        listener.wait_for(40 * times)
    same_frames(listener.frames, given * times)
    assert (result.frames, result.errors) == (40 * times, 0)


def test_super_frame_that_cannot_bypass_the_queue_is_sent_in_pieces(
    veth: Veth,
) -> None:
    """Nothing cuts it there if the device cannot."""
    leave_checksums_to_software(veth.a)
    given = [*flow(UDP4, 100), *flow(Datagram(), 50)]
    bypass = RawSocket(veth.a, protocol=0, vnet_hdr=True, qdisc_bypass=True)
    with bypass as vnet_sender, Listener(veth.b) as listener:
        result = pacing.send(vnet_sender, given, merge=True)
        listener.wait_for(150)
    same_frames(listener.frames, given)
    assert (result.frames, result.errors) == (150, 0)


def test_single_frame_that_is_dropped_on_its_way_is_an_error(
    veth: Veth,
) -> None:
    """Its neighbors are sent in one piece."""
    first, last = flow(UDP4, 10), flow(UDP6, 10)
    drop_frames_of(veth.a, 700)
    with (
        RawSocket(veth.a, protocol=0, vnet_hdr=True) as vnet_sender,
        Listener(veth.b) as listener,
    ):
        given = [*first, numbered(1, 700), *last]
        result = pacing.send(vnet_sender, given, merge=True)
        listener.wait_for(20)
    assert listener.frames == first + last
    assert listener.pieces[0] == 10
    assert (result.frames, result.errors) == (20, 1)

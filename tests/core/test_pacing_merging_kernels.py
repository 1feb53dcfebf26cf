"""pacing.send(merge=True) on kernels that refuse a kind of super-frame, as
Linux before 6.2 refuses those of UDP."""

import warnings
from collections.abc import Callable
from typing import Any, Final

import pytest
from support.datagrams import Datagram
from support.frames import batch_of, same_frames
from support.merging import UDP4, UDP6, Listener, flow
from support.old_kernel import without_super_frames

from rawmmsg import GSO_TCPV4, GSO_UDP_L4, RawSocket, pacing
from rawmmsg.testing import Veth

MIXED: Final = [*flow(Datagram(), 30), *flow(UDP4, 40), *flow(UDP6, 30)]


@pytest.mark.parametrize(
    "options",
    [{}, {"pps": 1e9}, {"loop": 2}, {"loop": 2, "pps": 1e9}],
    ids=str,
)
@pytest.mark.parametrize("form", [list, iter, batch_of])
def test_datagrams_are_sent_one_by_one(
    vnet_sender: RawSocket,
    listener: Listener,
    form: Callable[[list[bytes]], Any],
    options: dict[str, Any],
) -> None:
    """And segments of TCP in super-frames."""
    times = options.get("loop", 1)

    def send() -> pacing.SendResult:
        return pacing.send(vnet_sender, form(MIXED), merge=True, **options)

    with pytest.warns(RuntimeWarning, match="UDP") as told:
        result, refused = without_super_frames(GSO_UDP_L4, send)
    listener.wait_for(100 * times)
    same_frames(listener.frames, MIXED * times)
    assert (result.frames, result.errors) == (100 * times, 0)
    assert result.refusal is None
    assert result.bytes == sum(map(len, MIXED)) * times
    assert listener.pieces.count(1) >= 70 * times
    # sendmmsg() tries once more, to see whose error it is.
    assert (len(told), refused) == (1, 2)
    assert str(vnet_sender.interface) in str(told[0].message)


def test_socket_remembers_it(
    vnet_sender: RawSocket, listener: Listener
) -> None:
    """The next call tries no super-frame of UDP, and gives no warning."""

    def send() -> None:
        pacing.send(vnet_sender, MIXED, merge=True)

    with pytest.warns(RuntimeWarning, match="UDP"):
        without_super_frames(GSO_UDP_L4, send)
    listener.wait_for(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, refused = without_super_frames(GSO_UDP_L4, send)
    assert refused == 0
    listener.wait_for(200)
    assert listener.pieces[-71:] == [30, *[1] * 70]


def test_another_socket_tries_again(pair: Veth, listener: Listener) -> None:
    for i in (1, 2):
        with (
            RawSocket(pair.a, protocol=0, vnet_hdr=True) as vnet_sender,
            pytest.warns(RuntimeWarning, match="UDP"),
        ):
            without_super_frames(
                GSO_UDP_L4,
                lambda: pacing.send(vnet_sender, MIXED, merge=True),
            )
        listener.wait_for(100 * i)


@pytest.mark.parametrize("options", [{}, {"pps": 1e9}, {"loop": 2}], ids=str)
def test_other_super_frame_that_is_refused_is_sent_in_pieces(
    vnet_sender: RawSocket, listener: Listener, options: dict[str, Any]
) -> None:
    """Nothing else changes, and there is no warning."""
    times = options.get("loop", 1)
    tcp = [*flow(Datagram(), 70), *flow(Datagram(version=6), 30)]

    def send() -> pacing.SendResult:
        return pacing.send(vnet_sender, tcp, merge=True, **options)

    result, refused = without_super_frames(GSO_TCPV4, send)
    assert refused > 0
    assert (result.frames, result.errors) == (100 * times, 0)
    listener.wait_for(100 * times)
    same_frames(listener.frames, tcp * times)
    assert listener.pieces == [*[1] * 70, 30] * times

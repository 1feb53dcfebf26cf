"""A guest's memory as a port of the bridge: frames pass both ways between it
and every other kind of port."""

from pathlib import Path

from support.bridging import bridging, take
from support.frames import numbered, same_frames
from support.guest_links import guest_at

from rawmmsg import RawSocket
from rawmmsg.testing import Veth


def test_frames_pass_both_ways(
    pair: Veth, sender: RawSocket, far: RawSocket, short_path: Path
) -> None:
    packets = [numbered(i, 60 + 47 * i) for i in range(30)]
    path = short_path / "guest"
    with (
        bridging(pair.b, f"vhost-user:{path}") as bridge,
        guest_at(path) as link,
    ):
        for packet in packets:
            sender.send(packet)
            same_frames([one.frame for one in link.receive(1)], [packet])
            link.guest.send(packet)
            same_frames(take(far, 1), [packet])
        link.finish_sent()
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent) == (ba.received, ba.sent) == (30, 30)

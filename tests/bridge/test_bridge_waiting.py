"""Interfaces that are missing at first, or are deleted and made again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from support.bridged_guests import frames_of, guest_and
from support.bridging import Running, bridging, take
from support.calls import eventually, repeating
from support.frames import numbered, same_frames
from support.hosts import host
from support.linux import ip

from rawmmsg import RawSocket
from rawmmsg.testing import Veth, veth_pair

_NAMES: Final = ("comes", "goes")


@contextmanager
def made() -> Iterator[RawSocket]:
    """A pair whose second end the bridge waits for; a socket on the first
    one."""
    with veth_pair(*_NAMES) as pair:
        with RawSocket(pair.a, ignore_outgoing=True) as sock:
            yield sock


def says_again(bridge: Running, words: str, times: int) -> None:
    eventually(
        lambda: bridge.text.count(words) == times,
        f"the bridge does not say {words!r} {times} times",
    )


def test_bridge_waits_for_an_interface(
    pair: Veth, sender: RawSocket, far: RawSocket
) -> None:
    """Each time. Meanwhile, it drops frames for the interface. The summary
    counts all."""
    ports = (pair.b, "interface:goes,wait")
    with bridging(*ports, "--stats", "0.02") as bridge:
        bridge.says("there is no interface goes; waiting for it")
        for i in range(3):
            sender.sendmmsg_all([numbered(k) for k in range(5)])
            bridge.drops(5 * (i + 1))
            with made() as end:
                says_again(bridge, "goes is ready", i + 1)
                sender.send(numbered(100))
                same_frames(take(end, 1), [numbered(100)])
                end.send(numbered(200))
                same_frames(take(far, 1), [numbered(200)])
            says_again(bridge, "goes has disappeared; waiting for it", i + 1)
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent, ab.reasons) == (18, 3, {"link down": 15})
    assert (ba.received, ba.sent) == (3, 3)


def test_interface_that_is_deleted_under_traffic_comes_back(
    pair: Veth, sender: RawSocket, far: RawSocket
) -> None:
    packets = [numbered(i) for i in range(64)]
    with (
        bridging("interface:goes,wait", pair.b) as bridge,
        repeating(lambda: sender.sendmmsg_all(packets), 0.001),
    ):
        for i in range(5):
            with made() as end:
                says_again(bridge, "goes is ready", i + 1)
                assert take(end, 64)
                end.send(numbered(200 + i))
                same_frames(take(far, 1), [numbered(200 + i)])
            says_again(bridge, "goes has disappeared", i + 1)
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent) == (5, 5)
    assert set(ba.reasons) <= {"link down", "queue full", "refused"}


def test_guest_stays_while_an_interface_is_made_again(
    short_path: Path,
) -> None:
    """Frames of the guest are dropped meanwhile, not delivered late."""
    path = short_path / "guest"
    ports = ("interface:goes,wait", path, "--stats", "0.02")
    with guest_and(*ports) as (bridge, link):
        for i in range(3):
            link.guest.send_all([numbered(k) for k in range(5)])
            link.finish_sent()
            with made() as end:
                says_again(bridge, "goes is ready", i + 1)
                link.guest.send_all([numbered(100)])
                same_frames(take(end, 1), [numbered(100)])
                end.send(numbered(200))
                same_frames(frames_of(link, 1), [numbered(200)])
                link.finish_sent()
            says_again(bridge, "goes has disappeared", i + 1)
        ab, ba = bridge.end().directions
    assert (ab.received, ab.sent) == (3, 3)
    assert (ba.received, ba.sent, ba.reasons) == (18, 3, {"link down": 15})


def test_filter_applies_to_an_interface_that_is_made_again(
    pair: Veth, far: RawSocket
) -> None:
    options = ("--filter-ab", "greater 100")
    with bridging("interface:goes,wait", pair.b, *options) as bridge:
        for i in range(2):
            with made() as end:
                says_again(bridge, "goes is ready", i + 1)
                for size in (64, 200):
                    end.send(numbered(1, size))
                same_frames(take(far, 1), [numbered(1, 200)])
            says_again(bridge, "goes has disappeared", i + 1)
        assert bridge.end().directions[0].received == 2


def test_interface_of_another_namespace_may_be_missing(
    pair: Veth, sender: RawSocket, veth: Veth
) -> None:
    with host(veth, 1) as elsewhere:
        netns = f"/proc/{elsewhere.pid}/ns/net"
        port = f"interface:goes,netns={netns},wait"
        with bridging(pair.b, port) as bridge:
            bridge.says("there is no interface goes; waiting for it")
            add = "link add name comes type veth peer name goes"
            elsewhere.call(ip, *add.split())
            for name in _NAMES:
                elsewhere.call(ip, "link", "set", "dev", name, "up")
            bridge.says("goes is ready")
            with RawSocket("comes", netns=netns, ignore_outgoing=True) as end:
                sender.send(numbered(1))
                while numbered(1) not in take(end, 1):
                    pass  # IPv6 sends packets of its own


@pytest.mark.parametrize("exists", [False, True])
def test_interface_cannot_be_both_ports(exists: bool, pair: Veth) -> None:
    name = pair.b if exists else "goes"
    other = name if exists else f"interface:{name},wait,name=other"
    with Running(f"interface:{name},wait", other) as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 2
    assert outcome.text.endswith("are the same port\n")

"""Without VLANs, the switch forwards as the kernel's bridge does.

It differs in one group: the kernel's bridge never forwards frames to
01:80:c2:00:00:01 (PAUSE), and the switch forwards those of all link-local
groups, or of none.
"""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from support.calls import eventually
from support.frames import frame
from support.models import (
    BROADCAST,
    Ends,
    KernelBridge,
    kernel_bridge,
    random_packet,
    shown,
)
from support.switching import DEFAULT, Lab, lab

from rawmmsg.bridge.switching.members import PortRules

A, B, C = (bytes((2, 0, 0, 0, 0, i)) for i in range(1, 4))
ISOLATED = PortRules(is_isolated=True)


@dataclass
class Both:
    """The kernel's bridge, and the switch."""

    model: KernelBridge
    net: Lab
    ends: Ends

    def send(self, port: int, *packets: bytes) -> list[list[bytes]]:
        """Sends frames to both. Asserts that they send the same frames, and
        returns what arrives at each end."""
        expected = self.model.ends.step(port, *packets)
        seen = self.ends.step(port, *packets)
        assert seen == expected, shown({"bridge": expected, "switch": seen})
        return seen

    def reached(self, port: int, dst: bytes, src: bytes) -> list[int]:
        """Sends a frame to both. Returns the ports where it leaves."""
        packet = frame(bytes(46), dst, src)
        seen = self.send(port, packet)
        return [number for number, packets in enumerate(seen) if packets]

    def set_link(self, port: int, change: str) -> None:
        """Changes one end of the link of a port, as `ip link set` does, and
        waits until both have noticed."""
        is_up = change == "up"
        for ends in (self.model.ends, self.ends):
            link = ends.links[port]
            if is_up:
                link.up()
                ends.down.discard(port)
            else:
                link.down(getattr(link, change))
                ends.down.add(port)
        eventually(
            lambda: self.model.is_forwarding(port) == is_up,
            "the bridge does not notice",
        )
        if not is_up:
            eventually(
                lambda: all(
                    entry[1] != port
                    for entry in self.net.switch.table.entries()
                ),
                "the switch does not notice",
            )


@contextlib.contextmanager
def both(
    *rules: PortRules, ageing: int = 300, **options: Any
) -> Iterator[Both]:
    """Both have ports with these rules."""
    with (
        kernel_bridge(len(rules), ageing) as model,
        lab(*rules, DEFAULT, ageing=ageing, **options) as net,
    ):
        for port, rule in enumerate(rules):
            if rule.is_isolated:
                model.isolate(port)
        yield Both(model, net, Ends(net.ends, links=net.links))


@pytest.mark.parametrize("seed", range(6))
def test_every_frame_goes_where_the_kernels_bridge_sends_it(
    seed: int,
) -> None:
    rng = random.Random(seed)
    rules = [rng.choice((DEFAULT, DEFAULT, ISOLATED)) for _ in range(2 + seed)]
    with both(*rules) as two:
        for number in range(200):
            two.send(*random_packet(rng, number, len(rules)))
    assert two.net.switch.table.moved > 5


def test_frames_of_one_batch_go_where_the_kernels_bridge_sends_them() -> None:
    """The source of each is known, so their order does not matter."""
    rng = random.Random(7)
    with both(*[DEFAULT] * 4) as two:
        for source in range(4):
            two.send(
                source,
                frame(bytes(46), BROADCAST, bytes((2, 0, 0, 0, 1, source))),
            )
        for _ in range(30):
            port = rng.randrange(4)
            own = bytes((2, 0, 0, 0, 1, port))
            packets = [
                random_packet(rng, number, 4)[1] for number in range(50)
            ]
            two.send(port, *(one[:6] + own + one[12:] for one in packets))


def test_many_ports() -> None:
    rng = random.Random(40)
    with both(*[DEFAULT] * 40) as two:
        for port in range(40):
            two.send(
                port, frame(bytes(46), BROADCAST, bytes((2, 0, 0, 0, 4, port)))
            )
        for _ in range(100):
            to, port = rng.randrange(40), rng.randrange(40)
            station = bytes((2, 0, 0, 0, 4, to))
            own = bytes((2, 0, 0, 0, 4, port))
            expected = [to] if to != port else []
            assert two.reached(port, station, own) == expected


@pytest.mark.parametrize("end", ["a", "b"])
def test_stations_of_a_link_that_goes_down_are_forgotten(end: str) -> None:
    """`a`: the far end, so that the port loses its carrier."""
    with both(*[DEFAULT] * 3) as two:
        assert two.reached(1, BROADCAST, B) == [0, 2]
        assert two.reached(0, B, A) == [1]
        two.set_link(1, end)
        assert two.reached(2, A, C) == [0], "other ports keep theirs"
        two.set_link(1, "up")
        assert two.reached(0, B, A) == [1, 2]
        assert two.reached(1, A, B) == [0]
        assert two.reached(0, B, A) == [1]


def test_silent_stations_are_forgotten() -> None:
    with both(*[DEFAULT] * 3, ageing=1) as two:
        assert two.reached(1, BROADCAST, B) == [0, 2]
        eventually(
            lambda: not two.model.knows(B), "the bridge does not forget it"
        )
        eventually(
            lambda: two.net.switch.table.find((1, B)) is None,
            "the switch does not forget it",
        )
        assert two.reached(0, B, A) == [1, 2]


def test_link_local_frames_can_be_dropped_but_teach() -> None:
    """The kernel's bridge, too, learns from frames that it does not
    forward."""
    lacp = bytes.fromhex("0180c2000002")
    with both(*[DEFAULT] * 3, passes_link_local=False) as two:
        two.model.forward_link_local("0")
        assert two.reached(1, lacp, B) == []
        assert two.reached(0, B, A) == [1]


def test_pause_frames_pass_unlike_in_the_kernels_bridge() -> None:
    pause = frame(bytes(46), bytes.fromhex("0180c2000001"), A)
    with both(*[DEFAULT] * 3) as two:
        assert two.model.ends.step(0, pause) == [[], [], []]
        assert two.ends.step(0, pause) == [[], [pause], [pause]]


def test_isolated_ports() -> None:
    with both(DEFAULT, ISOLATED, ISOLATED, DEFAULT) as two:
        assert two.reached(1, BROADCAST, B) == [0, 3]
        assert two.reached(2, B, C) == []
        assert two.reached(0, BROADCAST, A) == [1, 2, 3]
        assert two.reached(0, B, A) == [1]
        assert two.reached(1, A, B) == [0]

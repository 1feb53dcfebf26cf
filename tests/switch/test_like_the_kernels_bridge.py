"""Without VLANs, the switch forwards as the kernel's bridge does."""

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Final

import pytest
from support.frames import frame
from support.linux import ip
from support.switching import DEFAULT, lab, take

from rawmmsg import RawSocket
from rawmmsg.testing import veth_pair

PORTS: Final = 4
MARKER: Final = PORTS  # the number of the port whose frames end each step

STATIONS: Final = [bytes((2, 0, 0, 0, 1, i)) for i in range(10)]
UNKNOWN: Final = [bytes((2, 0, 0, 0, 2, i)) for i in range(3)]
GROUPS: Final = [b"\xff" * 6, bytes.fromhex("01005e0a0b0c")]
# Not the address of a station.
BAD_SOURCES: Final = [bytes(6), bytes.fromhex("0300000000ff")]


@contextlib.contextmanager
def kernel_bridge() -> Iterator[list[RawSocket]]:
    """Gives sockets at the far ends of the bridge's ports."""
    name = f"kbr{os.getpid()}"
    ip("link", "add", "name", name, "type", "bridge", "mcast_snooping", "0")
    try:
        ip("link", "set", "dev", name, "addrgenmode", "none", "up")
        with contextlib.ExitStack() as opened:
            ends = []
            for _ in range(PORTS + 1):
                link = opened.enter_context(veth_pair())
                ip("link", "set", "dev", link.b, "master", name)
                # The bridge is a host as well: it sends frames of its own.
                end = RawSocket(
                    link.a, ignore_outgoing=True, filter="ether proto 0x88b5"
                )
                ends.append(opened.enter_context(end))
            yield ends
    finally:
        ip("link", "delete", "dev", name)


def random_step(rng: random.Random, number: int) -> tuple[int, bytes]:
    """A port, and a frame to send there. Stations move at times."""
    source = rng.randrange(len(STATIONS))
    port = source % PORTS if rng.random() < 0.9 else rng.randrange(PORTS)
    address = STATIONS[source]
    if rng.random() < 0.05:
        address = rng.choice(BAD_SOURCES)
    to = rng.choice(rng.choice([STATIONS, STATIONS, UNKNOWN, GROUPS]))
    text = b"%d" % number
    return port, frame(text.ljust(46, b"."), to, address)


def step(
    ends: list[RawSocket], port: int, packet: bytes, marker: bytes
) -> list[list[bytes]]:
    """Sends a frame. Returns what arrives at each end before the marker."""
    ends[port].sendmmsg_all([packet])
    ends[MARKER].sendmmsg_all([marker])
    seen = []
    for end in ends[:MARKER]:
        arrived = take(end, 1)
        while marker not in arrived:
            arrived += take(end, 1)
        seen.append([one for one in arrived if one != marker])
    return seen


@pytest.mark.parametrize("seed", range(3))
def test_every_frame_goes_where_the_kernels_bridge_sends_it(
    seed: int,
) -> None:
    rng = random.Random(seed)
    with (
        kernel_bridge() as model,
        lab(*[DEFAULT] * (PORTS + 1)) as net,
    ):
        for number in range(300):
            port, packet = random_step(rng, number)
            marker = frame(
                b"marker %d" % number, GROUPS[0], bytes((2, 0, 0, 0, 3, 0))
            ).ljust(60, b".")
            expected = step(model, port, packet, marker)
            seen = step(net.ends, port, packet, marker)
            assert seen == expected, f"frame {number}: {packet.hex()}"
    assert net.switch.table.moved > 10

"""Attacks `rawmmsg bridge` with hostile front ends and their guests.

    python tests/fuzz/vhost_bridge.py --seed 1 --seconds 600

Runs in rounds, each in a new process. In a round, a bridge connects a guest
with an interface, a socket or another guest. Hostile front ends do the same as
in vhost_protocol.py, with each guest, while frames arrive from the other side.
A round fails if the bridge ends, prints a traceback, uses the CPU although
nobody does anything, or does not pass frames afterwards; or if its counters do
not add up. The program then prints how to repeat the round.

Needs the same privileges as the tests, but not pytest.
"""

import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[1]))

from rounds import run_rounds
from support.bridging import bridging
from support.datagrams import TCP, UDP, Datagram, add, data
from support.frames import numbered
from support.guest_links import guest_at
from support.peers import fd_peer
from vhost_descriptors import Passed
from vhost_guest import rewriting
from vhost_peers import Peers

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.testing import veth_pair

STEPS: Final = 1000
"""Of the front ends, in a round."""
OPTIONS: Final = (
    (),
    ("--batch", "1"),
    ("--trust-memory",),
    ("--filter-ab", "ip[ip[0] - 60] = 0x45", "--filter-ba", "not greater 900"),
)


@dataclass(frozen=True)
class Side:
    """The other side of the bridge. `arrive` makes frames arrive there;
    `path`: of another guest."""

    port: str
    arrive: Callable[[], object] = lambda: None
    pass_fds: Sequence[int] = ()
    path: Path | None = None


@contextmanager
def interface(draw: random.Random, directory: Path) -> Iterator[Side]:
    batch = PacketBatch(4, SUPER_FRAME)
    for _ in range(4):
        one = Datagram(data(30_000), draw.choice([TCP, UDP]))
        add(batch, one, draw.choice([500, 1400]))
    with (
        veth_pair() as pair,
        RawSocket(pair.a, vnet_hdr=True, protocol=0) as sock,
    ):
        sock.setblocking(False)
        yield Side(pair.b, lambda: sock.sendmmsg(batch))


@contextmanager
def datagrams(draw: random.Random, directory: Path) -> Iterator[Side]:
    kind = draw.choice([socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
    with fd_peer(kind) as peer:
        peer.sock.setblocking(False)

        def arrive() -> None:
            with suppress(BlockingIOError):
                while True:
                    peer.sock.recv(1)
            peer.sock.send(numbered(1))

        yield Side(peer.port, arrive, peer.pass_fds)


@contextmanager
def guest(draw: random.Random, directory: Path) -> Iterator[Side]:
    path = directory / "other"
    yield Side(f"vhost-user:{path}", path=path)


SIDES: Final = (interface, datagrams, guest)


def attack(
    draw: random.Random, side: Side, paths: list[Path], directory: Path
) -> None:
    with ExitStack() as opened:
        attackers = []
        for path in paths:
            passed = Passed(draw, directory)
            opened.callback(passed.close)
            # This process must not wait for what the bridge gives back.
            peers = Peers(draw, str(path), passed, lingers=False)
            opened.callback(peers.close)
            attackers.append(peers)
            if draw.randrange(2):
                opened.enter_context(rewriting(draw, passed))
        for number in range(STEPS):
            draw.choice(attackers).step()
            if not number % 5:
                # The bridge has its turn.
                time.sleep(0.0005)
                with suppress(BlockingIOError):
                    side.arrive()


def run_round(seed: int) -> None:
    draw = random.Random(seed)
    with ExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        side = opened.enter_context(SIDES[seed % 3](draw, directory))
        path = directory / "guest"
        paths = [path] if side.path is None else [path, side.path]
        bridge = opened.enter_context(
            bridging(
                *(side.port, f"vhost-user:{path}", *draw.choice(OPTIONS)),
                pass_fds=side.pass_fds,
            )
        )
        try:
            attack(draw, side, paths, directory)
        except FileNotFoundError:  # the path of a guest
            raise AssertionError(bridge.outcome().text) from None
        assert bridge.process.poll() is None, bridge.text
        bridge.stays_idle()
        for one in paths:
            with guest_at(one) as link:
                link.guest.send(numbered(7))
                link.finish_sent()
        outcome = bridge.end()
        assert outcome.code == 0, outcome.text
        for direction in outcome.directions:
            direction.adds_up()


if __name__ == "__main__":
    run_rounds(__doc__, run_round)

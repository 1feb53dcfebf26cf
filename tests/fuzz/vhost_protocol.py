"""Attacks a vhost-user back end with hostile front ends and their guests.

    python tests/fuzz/vhost_protocol.py --seed 1 --seconds 600

Runs in rounds, each in a new process. In a round, some front ends connect to a
server, send messages that are often right, in pieces, with descriptors of
every kind, kick, and disconnect, while their guests write to the rings. A
round fails if the process crashes; if a call of the server takes long or
raises an exception; if there are always events although nobody does anything;
if a descriptor or a mapping stays; or if a good front end is not served
afterwards. The program then prints how to repeat the round.

Needs the same privileges as the tests, but not pytest.
"""

import random
import select
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[1]))

from rounds import run_rounds
from support.calls import eventually
from support.front_end import (
    GET_VRING_BASE,
    FrontEnd,
    nothing_stays_open,
    state,
    threads_that_close,
)
from support.hard_descriptors import no_more_descriptors
from vhost_descriptors import Passed
from vhost_guest import rewriting
from vhost_peers import Peers
from vhost_rings import Port, Recorded

from rawmmsg.vhost import ListeningServer

STEPS: Final = 1000
"""Of the front ends, in a round."""
LONGEST: Final = 30.0
"""Seconds that a call may take. All that wait take longer: 100 seconds."""
EVENTS: Final = 10_000
"""Events that there may be although nobody does anything."""


class Life:
    """A server, and its poll loop."""

    def __init__(
        self,
        draw: random.Random,
        directory: Path,
        rings: Port | Recorded,
        opened: ExitStack,
    ) -> None:
        self.path = str(directory / "socket")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.enter_context(listener)
        listener.bind(self.path)
        listener.listen()
        self.rings = rings
        self.server = ListeningServer(
            listener,
            rings.rings if isinstance(rings, Port) else rings,
            self._report,
            trust_memory=draw.random() < 0.5,
        )

    def round(self) -> int:
        """One call of poll(2), which does not wait, and the calls for its
        events. Returns how many."""
        poll = select.poll()
        readers = self.server.readers
        for descriptor in readers:
            poll.register(descriptor, select.POLLIN)
        events = poll.poll(0)
        for descriptor, _ in events:
            self.timed(readers[descriptor])
        return len(events)

    def quiet(self) -> None:
        """Until there are no events."""
        for _ in range(EVENTS):
            if not self.round():
                return
        raise AssertionError("there is always an event")

    def timed(self, call: Callable[[], object]) -> None:
        began = time.monotonic()
        call()
        took = time.monotonic() - began
        assert took < LONGEST, f"{call} took {took:.1f} seconds"

    def _report(self, text: str) -> None:
        assert text.isprintable(), ascii(text)


def attack(life: Life, draw: random.Random, peers: Peers) -> None:
    for _ in range(STEPS):
        peers.step()
        life.timed(life.rings.work)
        match draw.randrange(40):
            case 0:
                life.timed(life.server.tend)
            case 1 if not draw.randrange(10):
                with no_more_descriptors():
                    life.round()
            case 2:
                life.rings.rest()
                life.quiet()
            case _:
                life.round()


def recover(life: Life, peers: Peers) -> None:
    """A good front end is served."""
    life.rings.rest()
    life.quiet()
    eventually(
        lambda: not threads_that_close(), "a descriptor cannot be closed"
    )
    life.timed(life.server.tend)
    life.quiet()
    life.rings.check()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(life.path)
        front = FrontEnd(sock)
        count = peers.set_up(sock)
        life.quiet()
        # The first request came before REPLY_ACK.
        for _ in range(count - 1):
            _, answer = front.reply()
            assert not any(answer), "a good request was refused"
        life.rings.check_guest(peers.guests)
        for index in range(2):
            front.send(GET_VRING_BASE, state(index, 0))
            life.quiet()
            assert front.reply()[0] == GET_VRING_BASE
    life.quiet()
    assert life.server.session is None
    life.rings.check()


def mappings() -> int:
    """How many there are of files in memory."""
    with open("/proc/self/maps") as maps:
        return sum("/memfd:" in line for line in maps)


def run_round(seed: int) -> None:
    draw = random.Random(seed)
    with ExitStack() as opened:
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        rings = Port(draw, opened) if seed % 4 else Recorded(draw)
        opened.enter_context(nothing_stays_open())
        passed = Passed(draw, directory)
        opened.callback(passed.close)
        before = mappings()
        life = Life(draw, directory, rings, opened)
        peers = Peers(draw, life.path, passed)
        opened.callback(passed.forget_lingering)
        rewrites = draw.randrange(4) == 0
        with rewriting(draw, passed) if rewrites else nullcontext():
            attack(life, draw, peers)
        peers.close()
        passed.forget_lingering()
        recover(life, peers)
        life.timed(life.server.close)
        assert mappings() == before, "a mapping was left"


if __name__ == "__main__":
    run_rounds(__doc__, run_round)

"""A switch that runs in a thread of the tests, and the far ends of its
ports."""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.bridge.ports import GuestOptions, Port
from rawmmsg.bridge.switching.counts import PortCounts
from rawmmsg.bridge.switching.fabric import Fabric
from rawmmsg.bridge.switching.members import PortRules
from rawmmsg.bridge.switching.specs import parse_spec
from rawmmsg.testing import Veth, veth_pair
from support import WAIT
from support.calls import eventually

DEFAULT: Final = PortRules()

_NONE: Final[Mapping[str, tuple[str, PortRules]]] = {}


def open_port(text: str, messages: list[str] | None = None) -> Port:
    """Opens a port. Its messages are added to the list."""
    kept: list[str] = [] if messages is None else messages
    options = GuestOptions(kept.append, kept.append)
    port, _ = parse_spec(text, options, {}, ())
    port.open(None)
    return port


@contextlib.contextmanager
def running(switch: Fabric) -> Iterator[None]:
    """Runs the switch in a thread until the end of the block, and closes its
    ports. The block must not call it."""
    reader, writer = os.pipe()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            switch.run(reader)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        os.write(writer, b"x")
        thread.join(WAIT)
        os.close(reader)
        os.close(writer)
        for name in switch.names:
            switch.remove(name).close()
    assert not failures, f"the switch ended early: {failures[0]!r}"


class Lab:
    """A switch between veth pairs. `ends`: a socket at the far end of each,
    which sees what the switch has sent. `messages`: of other ports."""

    def __init__(
        self, switch: Fabric, links: list[Veth], messages: list[str]
    ) -> None:
        self.switch = switch
        self.messages = messages
        self.links = links
        self.ends = [RawSocket(link.a, ignore_outgoing=True) for link in links]
        self.last: Mapping[str, PortCounts] = {}
        self.wrong: list[PortCounts] = []
        """Counts that do not add up."""
        self._sent = [0 for _ in links]
        self._snapshots = 0
        switch.every(0.005, self.take_snapshot)

    def send(self, port: int, *packets: bytes) -> None:
        self.ends[port].sendmmsg_all(packets)
        self._sent[port] += len(packets)

    def settle(self) -> None:
        """Waits until the switch has counted all frames that send() has
        sent."""
        eventually(self._is_settled, "frames are missing in the counts")

    def counts(self) -> Mapping[str, PortCounts]:
        """Counts that the switch has made, in its own thread, since this was
        called."""
        wanted = self._snapshots + 2
        eventually(lambda: self._snapshots >= wanted, "the switch is stuck")
        return self.last

    def take_snapshot(self) -> None:
        self.last = self.switch.statistics()
        self.wrong += [one for one in self.last.values() if not one.adds_up]
        self._snapshots += 1

    def _is_settled(self) -> bool:
        counts = self.counts()
        return all(one.adds_up for one in counts.values()) and all(
            counts[f"p{port}"].received >= sent
            for port, sent in enumerate(self._sent)
        )

    def arrives(self, port: int, *packets: bytes) -> None:
        """Asserts that these frames arrive at this end next."""
        assert take(self.ends[port], len(packets)) == list(packets)

    def is_quiet(self, *ports: int) -> None:
        """Asserts that nothing arrives at these ends any more."""
        self.settle()
        for port in ports:
            self.ends[port].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                packet = self.ends[port].recv(70_000)
                raise AssertionError(f"port {port} gets {packet.hex()}")


def take(sock: RawSocket, count: int) -> list[bytes]:
    batch = PacketBatch(64, 70_000)
    sock.settimeout(WAIT)
    packets: list[bytes] = []
    while len(packets) < count:
        sock.recvmmsg_into(batch)
        packets += batch.tolist()
    return packets


@contextlib.contextmanager
def lab(
    *rules: PortRules,
    others: Mapping[str, tuple[str, PortRules]] = _NONE,
    **options: Any,
) -> Iterator[Lab]:
    """Runs a switch whose ports 0, 1, ... have these rules and the names
    p0, p1, ... `others`: more ports, with their rules, by name."""
    switch = Fabric(**options)
    messages: list[str] = []
    with contextlib.ExitStack() as opened:
        links = [opened.enter_context(veth_pair()) for _ in rules]
        for number, (link, rule) in enumerate(zip(links, rules, strict=True)):
            switch.add(f"p{number}", open_port(link.b), rule)
        for name, (text, rule) in others.items():
            switch.add(name, open_port(text, messages), rule)
        result = Lab(switch, links, messages)
        for end in result.ends:
            opened.enter_context(end)
        with running(switch):
            yield result
            result.settle()
        assert not result.wrong, f"counts do not add up: {result.wrong[0]}"

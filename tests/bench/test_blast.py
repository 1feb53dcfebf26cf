"""What bench/forward sends through switches: frames that arrive changed or in
another order are found, and so are frames that the switch does not account
for."""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from support.child import tool
from support.frames import pending, receive

from bench.forward import blast, stations, switches
from bench.forward.blast import BATCH, End, Flow, Place, Stream
from bench.forward.switches import check_ports
from bench.lab.contender import GroundTruthError
from rawmmsg import RawSocket
from rawmmsg.testing import Veth, veth_pair

SIZE = 64

# Numbers of frames that are kept.
FIRST, SECOND, THIRD = 65, 130, 195


@dataclass
class Link:
    """A stream that nothing forwards, and the end where it arrives."""

    veth: Veth
    stream: Stream
    end: End

    def send(self, *numbers: int, change: int | None = None) -> None:
        """Sends frames of the stream that have these numbers. The last one is
        changed at this index."""
        frames = []
        for number in numbers:
            frame = bytearray(self.stream.packets[0])
            struct.pack_into("!Q", frame, 14, number)
            frames.append(frame)
        if change is not None:
            frames[-1][change] ^= 1
        with RawSocket(self.veth.a, protocol=0) as sock:
            sock.sendmmsg_all(frames)
        self.stream.raw.sent = SECOND


@pytest.fixture
def link() -> Iterator[Link]:
    with (
        veth_pair() as veth,
        RawSocket(veth.a, protocol=0) as sock,
        End(veth.b) as end,
    ):
        yield Link(veth, Stream(sock, SIZE, (0, 1)), end)


def test_frames_of_a_stream_are_accepted(link: Link) -> None:
    """Those of other streams are left out."""
    tool("gcc")
    other = Stream(link.end.tx, SIZE, (0, 1))
    with RawSocket(link.veth.a, protocol=0) as sock:
        sock.sendmmsg_all(other.packets)
    for _ in range(2):
        before, sent = link.end.arrived(), link.stream.sent
        assert blast.run([link.stream], 0.001) >= 0.001
        assert link.end.arrived() - before == link.stream.sent - sent > 0
        link.end.check(link.stream)
    assert link.stream.last_kept > 0


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((SECOND, FIRST), "frame 65 came after frame 130"),
        ((FIRST, FIRST), "frame 65 came after frame 65"),
        ((FIRST, THIRD), "frame 195 came after frame 65; 130 frames were"),
    ],
    ids=["order", "duplicate", "never sent"],
)
def test_frames_in_another_order_are_found(
    link: Link, numbers: tuple[int, int], words: str
) -> None:
    link.send(*numbers)
    with pytest.raises(GroundTruthError, match=words):
        link.end.check(link.stream)


@pytest.mark.parametrize("index", [0, 6, 13, 26, SIZE - 1])
def test_changed_frame_is_found(link: Link, index: int) -> None:
    link.send(FIRST, SECOND, change=index)
    with pytest.raises(GroundTruthError, match="frame 130 was changed"):
        link.end.check(link.stream)


def test_stations_send_in_turns() -> None:
    tool("gcc")
    count = 3
    with veth_pair() as veth, RawSocket(veth.b) as receiver:
        with RawSocket(veth.a, protocol=0) as sock:
            stream = Stream(sock, SIZE, (4, 5), stations=count)
            blast.run([stream], 1e-9)
        frames = receive(receiver, BATCH)
    assert [frame[:12] for frame in frames] == [
        blast.station(5, i % count) + blast.station(4, i % count)
        for i in range(BATCH)
    ]


def test_new_stations_have_addresses_of_their_own() -> None:
    tool("gcc")
    times = 3
    with veth_pair() as veth, RawSocket(veth.b) as receiver:
        with RawSocket(veth.a, protocol=0) as sock:
            stream = Stream(sock, SIZE, (4, 5), first_source=7)
            for _ in range(times):
                blast.run([stream], 1e-9)
        frames = receive(receiver, times * BATCH)
        assert pending(receiver) == []
    assert [frame[6:12] for frame in frames] == [
        b"\6\0" + (7 + i).to_bytes(4, "big") for i in range(times * BATCH)
    ]


def test_stream_has_pauses() -> None:
    tool("gcc")
    with veth_pair() as veth, RawSocket(veth.a, protocol=0) as sock:
        stream = Stream(sock, SIZE, (4, 5), count=1, per_second=1000)
        seconds = blast.run([stream], 0.05)
    assert 0 < stream.sent <= 1000 * seconds + 1


def test_switch_that_forwards_nothing_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blast, "PATIENCE", 0.1)
    with (
        veth_pair() as one,
        veth_pair() as other,
        End(one.a) as source,
        End(other.a) as sink,
    ):
        flow = Flow(Stream(source.tx, SIZE, (0, 1)), source, sink)
        with pytest.raises(GroundTruthError, match="forwards nothing"):
            flow.introduce()


PORT: dict[str, Any] = {
    "received": 10,
    "forwarded": 6,
    "filtered": 1,
    "dropped": {"vlan": 3},
    "copies": 8,
    "made": 2,
    "joined": 1,
    "sent": 5,
    "copies_dropped": {"queue_full": 4},
}


@pytest.mark.no_network
def test_report_that_does_not_add_up_is_found() -> None:
    check_ports({"a": PORT, "b": PORT})
    for name in ("received", "forwarded", "copies", "sent"):
        wrong = PORT | {name: PORT[name] + 1}
        with pytest.raises(GroundTruthError, match="port b"):
            check_ports({"a": PORT, "b": wrong})


def test_addresses_that_were_not_learned_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tool("gcc")

    @contextlib.contextmanager
    def forgetful(*ports: str) -> Iterator[tuple[int, dict[str, Any]]]:
        with switches.reporting_switch(*ports) as (pid, report):
            yield pid, report
        report["stations"]["learned"] //= 2

    for reporting in (switches.reporting_switch, forgetful):
        monkeypatch.setattr(stations, "reporting_switch", reporting)
        stack = contextlib.ExitStack()
        attacked = stations.Attacked(Place(stack, 0, 0, SIZE, 0.01))
        attacked.flood(10 * BATCH)
        assert attacked.memory() > 1
        if reporting is forgetful:
            with pytest.raises(GroundTruthError, match="640 new addresses"):
                stack.close()
        else:
            stack.close()

"""sendp_batch(): what arrives, at which pace, how it ends, and what it
reports."""

import errno
import os
import subprocess
import sys
import termios
import textwrap
import threading
import types
from array import array
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from scapy.config import conf
from scapy.interfaces import resolve_iface
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.plist import PacketList
from scapy.sendrecv import sendp
from support import WAIT
from support.calls import Call, eventually
from support.child import environment
from support.frames import numbered, pending
from support.linux import descriptors
from support.pacing import arrived, interrupting
from support.scapykit import logged

from rawmmsg import RawSocket
from rawmmsg.scapy import sendp_batch
from rawmmsg.testing import Veth


def udp(number: int) -> Packet:
    return (
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="192.0.2.1", dst="192.0.2.2", id=number)
        / UDP(sport=1, dport=2)
        / Raw(bytes([number]) * 40)
    )


def at(seconds: float, packet: Packet) -> Packet:
    packet.time = seconds
    return packet


# What is sent


GIVEN: Final[dict[str, Callable[[], Any]]] = {
    "list of bytes": lambda: [numbered(i) for i in range(5)],
    "tuple of bytes": lambda: tuple(numbered(i) for i in range(5)),
    "generator of bytes": lambda: (numbered(i) for i in range(5)),
    "bytes": lambda: numbered(7),
    "bytearray": lambda: bytearray(numbered(7)),
    "memoryview": lambda: memoryview(numbered(7)),
    "other buffers": lambda: [
        bytearray(numbered(1)),
        memoryview(numbered(2)),
        array("H", numbered(3)),
    ],
    "packet": lambda: udp(1),
    "list of packets": lambda: [udp(i) for i in range(5)],
    "PacketList": lambda: PacketList([udp(i) for i in range(5)]),
    "generator of packets": lambda: (udp(i) for i in range(5)),
    "packets and bytes": lambda: [udp(1), numbered(2), udp(3)],
    "frames of many sizes": lambda: [
        numbered(i, size) for i, size in enumerate([64, 1514, 100, 1000] * 9)
    ],
    "received packets": lambda: [Ether(bytes(udp(i))) for i in range(5)],
    "a packet for several": lambda: udp(1) / Raw(b"x"),
    "sets of addresses and ports": lambda: (
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="192.0.2.1", dst="192.0.2.0/30")
        / UDP(sport=1, dport=[5, 6, (8, 10)])
    ),
    "a set behind a received header": lambda: (
        Ether(bytes(Ether(dst="02:00:00:00:00:02") / Dot1Q(vlan=3)))
        / IP(src="192.0.2.1", dst=["192.0.2.2", "192.0.2.3"])
    ),
}

# sendp() does not take these.
NOT_FOR_SENDP: Final = {"tuple of bytes", "other buffers", "memoryview"}


@pytest.mark.parametrize("options", [{}, {"pps": 1e5}, {"loop": 3}], ids=str)
@pytest.mark.parametrize("name", GIVEN)
def test_packets_arrive_as_they_were_given(
    pair: Veth, receiver: RawSocket, name: str, options: dict[str, Any]
) -> None:
    """Whether they are sent while they are built, after that, or in a loop."""
    if name in NOT_FOR_SENDP:
        given = GIVEN[name]()
        single = isinstance(given, memoryview)
        expected = [bytes(given)] if single else [*map(bytes, given)]
    else:
        sendp(GIVEN[name](), iface=pair.a, verbose=0)
        expected = pending(receiver)
    expected *= options.get("loop", 1)
    result = sendp_batch(GIVEN[name](), pair.a, **options)
    assert pending(receiver) == expected
    assert result.frames == len(expected) > 0
    assert result.bytes == sum(map(len, expected))
    assert (result.retries, result.errors, result.refusal) == (0, 0, None)


def test_packet_is_built_once(pair: Veth, receiver: RawSocket) -> None:
    class Counting(Raw):
        built = 0

        def self_build(self) -> bytes:
            Counting.built += 1
            return bytes(super().self_build())

    sendp_batch(Ether() / Counting(bytes(50)), pair.a, loop=20)
    assert (len(pending(receiver)), Counting.built) == (20, 1)


@pytest.mark.parametrize("loop", [0, 1, 5])
@pytest.mark.parametrize(
    "empty",
    [[], iter([]), PacketList()],
    ids=["list", "iterator", "PacketList"],
)
def test_nothing_to_send_ends_at_once(
    pair: Veth, loop: int, empty: Any
) -> None:
    result = sendp_batch(empty, pair.a, loop=loop)
    assert (result.frames, result.bytes, result.rate) == (0, 0, 0.0)


def test_interfaces_are_named_as_scapy_names_them(
    pair: Veth, receiver: RawSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf.ifaces.reload()
    monkeypatch.setattr(conf, "iface", resolve_iface(pair.a))
    sendp_batch(numbered(1))
    sendp_batch(numbered(2), resolve_iface(pair.a))
    assert pending(receiver) == [numbered(1), numbered(2)]


def test_socket_is_closed(pair: Veth) -> None:
    """By a thread, because the kernel takes long for it."""
    before = descriptors()
    for _ in range(5):
        sendp_batch(numbered(1), pair.a)
    eventually(lambda: descriptors() <= before, "a descriptor was left open")
    eventually(
        lambda: "rawmmsg-close" not in {t.name for t in threading.enumerate()},
        "a thread is still running",
    )


def test_nothing_is_sent_if_one_packet_cannot_be_built(
    pair: Veth, receiver: RawSocket
) -> None:
    packets: Any = [numbered(1), None]
    with pytest.raises(TypeError, match="Packet objects or bytes, not None"):
        sendp_batch(packets, pair.a, loop=2)
    assert pending(receiver) == []


# Pace: with bounds that hold on a busy machine too


PACES: Final[dict[str, tuple[dict[str, Any], float]]] = {
    # and the seconds for 21 frames of 64 bytes that were recorded every 10 ms
    "pps": ({"pps": 200}, 0.1),
    "inter": ({"inter": 0.005}, 0.1),
    "mbps": ({"mbps": 0.1024}, 0.1),
    "realtime": ({"realtime": True}, 0.2),
    "realtime, twice as fast": ({"realtime": 2}, 0.1),
}


def recorded() -> list[Packet]:
    return [at(1e9 + i / 100, Ether(numbered(i))) for i in range(21)]


@pytest.mark.parametrize("make", [list, iter])
@pytest.mark.parametrize("name", PACES)
def test_pace_is_not_exceeded(
    pair: Veth, receiver: RawSocket, name: str, make: Callable[..., Any]
) -> None:
    pace, duration = PACES[name]
    result = sendp_batch(make(recorded()), pair.a, **pace)
    assert result.frames == len(pending(receiver)) == 21
    assert duration * 0.999 <= result.seconds < WAIT
    assert result.rate == pytest.approx(20 / result.seconds)


def test_packet_older_than_the_one_before_does_not_wait(pair: Veth) -> None:
    packets = [at(when, udp(1)) for when in (9.0, 9.05, 3.0, 9.05)]
    result = sendp_batch(packets, pair.a, realtime=True)
    assert result.frames == 4
    assert 0.0499 <= result.seconds < WAIT


# How it ends


@pytest.mark.parametrize("pace", [{}, {"pps": 2e4}], ids=str)
def test_stop_gives_an_exact_result(pair: Veth, pace: dict[str, Any]) -> None:
    """It counts every frame that arrived."""
    before = arrived(pair.b)
    stop = threading.Event()
    packets = [numbered(i, 64 + i) for i in range(100)]
    with Call(
        lambda: sendp_batch(packets, pair.a, loop=0, stop=stop, **pace)
    ) as call:
        eventually(
            lambda: arrived(pair.b)[0] > before[0] + 500, "nothing was sent"
        )
        stop.set()
    result = call.result()
    after = arrived(pair.b)
    assert result.frames == after[0] - before[0]
    assert result.bytes == after[1] - before[1]


@pytest.mark.parametrize(
    "options",
    [{}, {"pps": 2e4}, {"mbps": 100, "loop": 1}],
    ids=["as fast as it goes", "paced", "streamed"],
)
def test_ctrl_c_gives_an_exact_result(
    pair: Veth, options: dict[str, Any], scaled: Callable[[int], int]
) -> None:
    """At whatever step it comes."""
    packets = [numbered(i, 64 + i) for i in range(100)]

    def endless() -> Iterator[bytes]:
        while True:
            yield from packets

    for i in range(scaled(5)):
        before = arrived(pair.b)
        with interrupting(pair.b, 200 * i + 1):
            if "loop" in options:
                result = sendp_batch(endless(), pair.a, **options)
            else:
                result = sendp_batch(packets, pair.a, loop=0, **options)
        after = arrived(pair.b)
        assert result.frames == after[0] - before[0] > 0
        assert result.bytes == after[1] - before[1]


# Errors


@pytest.mark.parametrize("pace", [{}, {"pps": 1e5}], ids=str)
def test_frames_that_the_kernel_refuses_are_counted(
    pair: Veth, receiver: RawSocket, pace: dict[str, Any]
) -> None:
    """The frames are longer than the MTU allows or shorter than the header.
    The others are sent."""
    packets = [
        *(numbered(0), numbered(1, 1515), numbered(2, 100)),
        *(b"short", numbered(3, 1514), b""),
    ]
    good = [numbered(0), numbered(2, 100), numbered(3, 1514)]
    with logged() as messages:
        result = sendp_batch(packets, pair.a, loop=2, **pace)
    assert pending(receiver) == good * 2
    assert (result.frames, result.errors) == (6, 6)
    assert result.bytes == sum(map(len, good)) * 2
    assert result.refusal is not None
    assert result.refusal.errno == errno.EMSGSIZE
    assert len(messages) == 1
    assert messages[0].startswith("sendp_batch: the kernel refused 6 packets")


def test_missing_interface_is_an_error() -> None:
    with pytest.raises(OSError, match="none such") as caught:
        sendp_batch(numbered(1), "none such")
    assert caught.value.errno == errno.ENODEV


REFUSED: Final[dict[str, tuple[dict[str, Any], type[Exception], str]]] = {
    "two paces": ({"pps": 1, "mbps": 1}, ValueError, "not pps and mbps"),
    "no pace": ({"pps": 0}, ValueError, "pps must be a positive"),
    "loop": ({"loop": -1}, ValueError, "loop must be 0"),
    "realtime": (
        {"realtime": True},
        TypeError,
        "realtime needs Packet objects",
    ),
    "realtime as str": (
        {"realtime": "2"},
        TypeError,
        "realtime must be a number, not '2'",
    ),
    "str": ({"packets": "text"}, TypeError, "not str"),
    "int": ({"packets": 5}, TypeError, "not int"),
    "list of int": ({"packets": [5]}, TypeError, "not int"),
    "list of str": ({"packets": ["text"]}, TypeError, "not str"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused(
    pair: Veth, receiver: RawSocket, name: str
) -> None:
    options, kind, words = REFUSED[name]
    packets = options.get("packets", [numbered(1)])
    options = {k: v for k, v in options.items() if k != "packets"}
    with pytest.raises(kind, match=words):
        sendp_batch(packets, pair.a, **options)
    assert pending(receiver) == []


def test_inter_0_means_no_pace(pair: Veth) -> None:
    """As in sendp()."""
    assert sendp_batch(numbered(1), pair.a, inter=0, pps=1e3).frames == 1


# Progress


class Bar:
    """Replaces a bar of tqdm."""

    made: Final[list["Bar"]] = []

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.total: float | None = None
        self.shown = 0
        self.open = True
        self.made.append(self)

    def __bool__(self) -> bool:
        raise TypeError("as tqdm does for a bar without a total")

    def reset(self, total: float) -> None:
        self.total = total

    def update(self, count: int) -> None:
        self.shown += count

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False


@pytest.mark.parametrize("loop", [1, 30])
def test_progress_is_shown(
    pair: Veth, monkeypatch: pytest.MonkeyPatch, loop: int
) -> None:
    tqdm: Any = types.ModuleType("tqdm")
    tqdm.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", tqdm)
    Bar.made.clear()
    sendp_batch([numbered(1)] * 50, pair.a, loop=loop, progress=True)
    (bar,) = Bar.made
    assert bar.shown == 50 * loop
    assert bar.total in (None, 50 * loop)
    assert bar.options["disable"] is None, (
        "the bar must be hidden off a terminal"
    )
    assert not bar.open


def test_progress_is_shown_on_a_terminal(pair: Veth) -> None:
    """With the real tqdm."""
    pytest.importorskip("tqdm", reason="the test needs tqdm: pip install tqdm")
    code = f"""
        from rawmmsg.scapy import sendp_batch
        sendp_batch([bytes(60)] * 50, "{pair.a}", loop=2, progress=True)
    """
    shown, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (25, 80))
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env=environment(),
            stderr=terminal,
            check=False,
        )
        os.close(terminal)
        text = os.read(shown, 65536).decode()
    finally:
        os.close(shown)
    assert done.returncode == 0, text
    assert "100/100" in text


def test_progress_without_tqdm_shows_nothing(
    pair: Veth,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert sendp_batch(numbered(1), pair.a, progress=True).frames == 1
    assert capfd.readouterr() == ("", "")

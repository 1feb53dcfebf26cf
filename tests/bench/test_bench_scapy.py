"""What the measurements with Scapy rest on: frames that are lost, changed or
out of order are found, and what is not installed is named."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from support.child import tool

from rawmmsg import RawSocket
from rawmmsg.testing import Veth


@pytest.fixture
def prefix(bench: Any) -> bytes:
    found: bytes = bench("network.scapy_frames").PREFIXES["UDP"]
    return found


def test_frames_are_what_they_are_called(bench: Any) -> None:
    """To Scapy: with a checksum that is right, and a layer for their bytes."""
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    frames = bench("network.scapy_frames")
    for kind, prefix in frames.PREFIXES.items():
        first, second = frames.numbered(prefix, 1, 2)
        assert len(first) == frames.SIZE
        assert first != second
        assert (UDP in Ether(first)) == (kind == "UDP")
    packet = Ether(frames.numbered(frames.PREFIXES["UDP"], 1, 1)[0])
    told = packet[IP].chksum
    del packet[IP].chksum
    assert Ether(bytes(packet))[IP].chksum == told
    assert len(packet[UDP]) == packet[UDP].len


@pytest.mark.parametrize("ours", [False, True])
def test_what_the_buffer_does_not_hold_is_found(
    bench: Any, prefix: bytes, ours: bool
) -> None:
    """Of either make."""
    listeners = bench("sides.scapy_listeners")
    with listeners.Inbox(ours) as inbox:
        inbox.listener.ins.setsockopt(1, 8, 0)  # SO_RCVBUF: the least
        with pytest.raises(
            bench("framework").GroundTruthError, match="dropped"
        ):
            inbox.fill(prefix)


@pytest.mark.parametrize(
    "fault",
    [
        lambda frames: frames[1:],
        lambda frames: [*frames, frames[-1]],
        lambda frames: [*frames[1:], frames[0]],
        lambda frames: [*frames[:-1], bytes(64)],
    ],
    ids=["lost", "doubled", "disordered", "changed"],
)
def test_reader_that_is_wrong_is_found(
    bench: Any, prefix: bytes, fault: Any
) -> None:
    listeners = bench("sides.scapy_listeners")
    memory = listeners.Memory()
    read = listeners.sniffing(memory)
    assert listeners.seconds_to_read(memory, read, prefix, 1) > 0
    with pytest.raises(bench("framework").GroundTruthError):
        listeners.seconds_to_read(
            memory, lambda count: fault(read(count)), prefix, 1
        )


class _Sender:
    """In place of a worker: sends at once, what a fault makes of it."""

    def __init__(self, fault: Callable[[list[bytes]], list[bytes]]) -> None:
        self._fault = fault

    def send(
        self, interface: str, frames: list[bytes], pps: float, loop: int = 1
    ) -> Any:
        from rawmmsg.scapy import sendp_batch

        sending: Future[Any] = Future()
        faulty = self._fault(frames * loop)
        sending.set_result(sendp_batch(faulty, interface))
        return sending


FAULTS = {
    "none": lambda frames: frames,
    "changed": lambda frames: [bytes(64), *frames[1:]],
    "disordered": lambda frames: [frames[1], frames[0], *frames[2:]],
    "doubled": lambda frames: [frames[0], frames[0], *frames[2:]],
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("ours", [False, True])
def test_stream_that_is_not_right_is_found(
    bench: Any, ours: bool, fault: str
) -> None:
    inbox_of = bench("sides.scapy_listeners").Inbox
    seen = bench("sides.scapy_loss").seen_of_stream
    worker = _Sender(FAULTS[fault])
    with inbox_of(ours) as inbox:
        assert seen(inbox, _Sender(FAULTS["none"]), 1000, 50) == 50
        if fault == "none":
            return
        with pytest.raises(bench("framework").GroundTruthError):
            seen(inbox, worker, 1000, 50)


def test_what_a_stream_has_lost_is_counted(bench: Any) -> None:
    """As much as the kernel says that it has dropped: otherwise it would be
    an error."""
    with bench("sides.scapy_listeners").Inbox(ours=False) as inbox:
        inbox.listener.ins.setsockopt(1, 8, 0)  # SO_RCVBUF: the least
        seen = bench("sides.scapy_loss").seen_of_stream(
            inbox, _Sender(FAULTS["none"]), 1000, 200
        )
    assert 0 < seen < 200


@pytest.mark.parametrize("fault", ["changed", "disordered", "doubled"])
def test_pace_of_wrong_frames_is_void(
    bench: Any, pair: Veth, fault: str
) -> None:
    pace = bench("measurements.scapy_pace")
    sound = pace._stamps(_Sender(FAULTS["none"]), pair, 1000, 0.1)
    assert len(sound) == 100
    assert sound == sorted(sound)
    with pytest.raises(bench("framework").GroundTruthError):
        pace._stamps(_Sender(FAULTS[fault]), pair, 1000, 0.1)


def test_system_calls_are_counted(bench: Any, pair: Veth) -> None:
    def work() -> str:
        for _ in range(10):
            os.getppid()
        with RawSocket(pair.a, protocol=0) as sock:
            sock.sendmmsg_all([bytes(60)] * 100)
        return "done"

    result, calls = bench("tools.system_calls").counted(work)
    assert result == "done"
    assert calls["getppid"] == 10
    assert calls["sendmmsg"] == 1


def test_work_that_fails_is_traced_no_longer(bench: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        bench("tools.system_calls").counted(lambda: 1 // 0)
    _, calls = bench("tools.system_calls").counted(os.getppid)
    assert calls["getppid"] == 1


def test_refused_trace_is_named(bench: Any) -> None:
    """There can be but one tracer."""
    tool("strace")
    counted = bench("tools.system_calls").counted
    with pytest.raises(bench("framework").Unavailable, match="right to trace"):
        counted(lambda: counted(os.getppid))


def test_missing_strace_is_named(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(bench("framework").Unavailable, match="strace"):
        bench("tools.system_calls").counted(os.getppid)


@pytest.mark.parametrize("name", ["scapy_sniff", "scapy_send", "scapy_pace"])
def test_missing_scapy_is_named(
    bench: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    framework, registry = bench("framework"), bench("registry")
    monkeypatch.setitem(sys.modules, "scapy", None)
    context = framework.Context(framework.Mode.BRIEF)
    section = registry.measure(name, context, lambda result: None)
    assert [one.what for one in section.missing] == ["scapy"]
    assert section.results == []

"""What the measurements with Scapy rely on: frames that are lost, changed or
out of order are found, and what is not installed is named."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from support.child import tool

from bench.__main__ import measure
from bench.lab.contender import GroundTruthError, UnavailableError
from bench.lab.runner import Lab, Mode
from bench.scapy import listeners
from bench.scapy.listeners import PREFIXES, SIZE, Inbox, Memory, numbered
from bench.scapy.pace import stamps_of
from bench.scapy.system_calls import counted
from bench.scapy.worker import Worker, seen_of_stream
from rawmmsg import RawSocket
from rawmmsg.scapy import sendp_batch
from rawmmsg.testing import Veth

PREFIX = PREFIXES["UDP"]


def test_frames_are_what_they_are_called() -> None:
    """To Scapy: with a correct checksum, and a layer for their bytes."""
    for kind, prefix in PREFIXES.items():
        first, second = numbered(prefix, 1, 2)
        assert len(first) == SIZE
        assert first != second
        assert (UDP in Ether(first)) == (kind == "UDP")
    packet = Ether(numbered(PREFIX, 1, 1)[0])
    told = packet[IP].chksum
    del packet[IP].chksum
    assert Ether(bytes(packet))[IP].chksum == told
    assert len(packet[UDP]) == packet[UDP].len


@pytest.mark.parametrize("ours", [False, True])
def test_frames_that_the_buffer_does_not_hold_are_found(ours: bool) -> None:
    with Inbox(ours) as inbox:
        inbox.listener.ins.setsockopt(1, 8, 0)  # SO_RCVBUF: the least
        with pytest.raises(GroundTruthError, match="dropped"):
            inbox.fill(PREFIX)


@pytest.mark.parametrize(
    "fault",
    [
        lambda frames: frames[1:],
        lambda frames: [*frames, frames[-1]],
        lambda frames: [*frames[1:], frames[0]],
        lambda frames: [*frames[:-1], bytes(64)],
    ],
    ids=["lost", "duplicated", "disordered", "changed"],
)
def test_wrong_reader_is_found(fault: Callable[[Any], list[bytes]]) -> None:
    memory = Memory()
    read = listeners.sniffing(memory)
    assert listeners.seconds_to_read(memory, read, PREFIX, 1) > 0
    with pytest.raises(GroundTruthError):
        listeners.seconds_to_read(
            memory, lambda count: fault(read(count)), PREFIX, 1
        )


class _Sender:
    """In place of a Worker: sends at once the frames as a fault has changed
    them."""

    def __init__(self, fault: Callable[[list[bytes]], list[bytes]]) -> None:
        self._fault = fault

    def send(
        self, interface: str, frames: list[bytes], loop: int, **_: float
    ) -> Any:
        sending: Future[Any] = Future()
        faulty = self._fault(frames * loop)
        sending.set_result(sendp_batch(faulty, interface))
        return sending


FAULTS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "none": lambda frames: frames,
    "changed": lambda frames: [bytes(64), *frames[1:]],
    "disordered": lambda frames: [frames[1], frames[0], *frames[2:]],
    "duplicated": lambda frames: [frames[0], frames[0], *frames[2:]],
}


def sender(fault: str) -> Worker:
    return cast(Worker, _Sender(FAULTS[fault]))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("ours", [False, True])
def test_wrong_stream_is_found(ours: bool, fault: str) -> None:
    with Inbox(ours) as inbox:
        assert seen_of_stream(inbox, sender("none"), 1000, 50) == 50
        if fault == "none":
            return
        with pytest.raises(GroundTruthError):
            seen_of_stream(inbox, sender(fault), 1000, 50)


def test_lost_frames_of_a_stream_are_counted() -> None:
    """As many as the kernel says that it dropped; a different number would be
    an error."""
    with Inbox(ours=False) as inbox:
        inbox.listener.ins.setsockopt(1, 8, 0)  # SO_RCVBUF: the least
        seen = seen_of_stream(inbox, sender("none"), 1000, 200)
    assert 0 < seen < 200


@pytest.mark.parametrize("fault", ["changed", "disordered", "duplicated"])
def test_pace_of_wrong_frames_is_void(pair: Veth, fault: str) -> None:
    stamps = stamps_of(sender("none"), pair, 1000, 0.1)
    assert len(stamps) == 100
    assert stamps == sorted(stamps)
    with pytest.raises(GroundTruthError):
        stamps_of(sender(fault), pair, 1000, 0.1)


def test_system_calls_are_counted(pair: Veth) -> None:
    def work() -> str:
        for _ in range(10):
            os.getppid()
        with RawSocket(pair.a, protocol=0) as sock:
            sock.sendmmsg_all([bytes(60)] * 100)
        return "done"

    result, calls = counted(work)
    assert result == "done"
    assert calls["getppid"] == 10
    assert calls["sendmmsg"] == 1


def test_work_that_fails_is_no_longer_traced() -> None:
    with pytest.raises(ZeroDivisionError):
        counted(lambda: 1 // 0)
    _, calls = counted(os.getppid)
    assert calls["getppid"] == 1


def test_refused_trace_is_named() -> None:
    """There can be only one tracer."""
    tool("strace")
    with pytest.raises(UnavailableError, match="right to trace"):
        counted(lambda: counted(os.getppid))


def test_missing_strace_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="strace"):
        counted(os.getppid)


def test_missing_scapy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scapy", None)
    section = measure("scapy", Lab(Mode.BRIEF))
    assert [one.what for one in section.missing] == ["scapy"]
    assert section.tables == []

"""`rawmmsg switch --record` records what a port receives and sends."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.bridging import Running
from support.frames import frame, numbered_frames
from support.switching import take

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.bridge import Switch
from rawmmsg.pcap import Reader
from rawmmsg.testing import Veth, veth_pair

A, B = (bytes((2, 0, 0, 0, 0, i)) for i in range(1, 3))
OURS = "ether proto 0x88b5"  # no kernel sends such frames


@pytest.fixture
def links() -> Iterator[tuple[Veth, Veth]]:
    with veth_pair() as one, veth_pair() as two:
        yield one, two


@contextmanager
def end_of(link: Veth) -> Iterator[RawSocket]:
    with RawSocket(link.a, filter=OURS, ignore_outgoing=True) as sock:
        yield sock


def read(file: Path) -> list[tuple[str, bytes]]:
    """The interface and the content of the frames that are ours."""
    with Reader(file) as reader:
        return [
            (reader.interfaces[batch.ifindexes[i]].name, bytes(batch[i]))
            for batch in reader
            for i in range(len(batch))
            if bytes(batch[i][12:14]) == b"\x88\xb5"
        ]


def test_both_directions_of_a_port_are_recorded(
    links: tuple[Veth, Veth], tmp_path: Path
) -> None:
    file = tmp_path / "vm.pcapng"
    ports = (links[0].b, f"interface:{links[1].b},name=vm")
    to, back = frame(bytes(46), B, A), frame(bytes(46), A, B)
    with (
        end_of(links[0]) as left,
        end_of(links[1]) as right,
        Running(*ports, "--record", f"vm={file}", command="switch") as switch,
    ):
        switch.says("switching")
        left.sendmmsg_all([to])
        assert take(right, 1) == [to]
        right.sendmmsg_all([back])
        assert take(left, 1) == [back]
        assert switch.end().code == 0
    assert read(file) == [("vm:out", to), ("vm:in", back)]


def test_a_port_that_no_other_program_sees_is_recorded(
    links: tuple[Veth, Veth], short_path: Path
) -> None:
    """A datagram socket, whose frames have no tags and no super-frames."""
    file = short_path / "vm.pcapng"
    ports = (links[0].b, f"unix:{short_path}/a,{short_path}/b,name=vm")
    peers = (links[1].b, f"unix:{short_path}/b,{short_path}/a")
    sent = numbered_frames(100, 200)
    with (
        end_of(links[0]) as left,
        end_of(links[1]) as right,
        Running(*ports, "--record", f"vm={file}", command="switch") as switch,
        Running(*peers, command="switch") as far,
    ):
        switch.says("switching")
        far.says("switching")
        left.sendmmsg_all(sent)
        assert take(right, 100) == sent
        assert switch.end().code == 0
        assert far.end().code == 0
    assert read(file) == [("vm:out", one) for one in sent]


def test_switch_goes_on_if_the_file_cannot_be_written(
    links: tuple[Veth, Veth], tmp_path: Path
) -> None:
    file = tmp_path / "left.pcapng"
    ports = (f"interface:{links[0].b},name=left", links[1].b)
    sent = numbered_frames(100, 200)
    with (
        end_of(links[0]) as left,
        end_of(links[1]) as right,
        Running(
            *ports, "--record", f"left={file}", command="switch"
        ) as switch,
    ):
        switch.says("switching")
        limit = (10_000, 10_000)
        resource.prlimit(switch.process.pid, resource.RLIMIT_FSIZE, limit)
        left.sendmmsg_all(sent)
        assert take(right, 100) == sent
        switch.says(f"{file}: File too large; left is not recorded any more")
        left.sendmmsg_all(sent)
        assert take(right, 100) == sent
        assert switch.end().code == 0
    found = [data for _, data in read(file)]
    assert 0 < len(found) < 100
    assert found == sent[: len(found)]


def test_recordings_of_a_program_are_complete_after_close(
    links: tuple[Veth, Veth], tmp_path: Path
) -> None:
    file = str(tmp_path / "left.pcapng")
    port = f"interface:{links[0].b},name=left"
    with Switch(port, links[1].b, record={"left": file}) as switch:
        assert switch.ports == ["left", links[1].b]
    with Reader(file) as reader:
        list(reader)
        names = [interface.name for interface in reader.interfaces]
        assert names == ["left:in", "left:out"]
        assert all(one.received is not None for one in reader.interfaces)


def test_a_file_is_left_alone_if_its_port_cannot_be_opened(
    links: tuple[Veth, Veth], tmp_path: Path
) -> None:
    """Opening it for the recording would empty it."""
    file = tmp_path / "old.pcapng"
    file.write_bytes(b"precious")
    record = {"vm": str(file)}
    with pytest.raises(
        OSError, match=r"vm \(interface:nope,name=vm\): No such device"
    ):
        Switch(links[0].b, "interface:nope,name=vm", record=record)
    with Switch(links[0].b, links[1].b, record=record):
        pass
    assert file.read_bytes() == b"precious"


def test_a_port_that_comes_back_is_recorded_in_the_same_file(
    links: tuple[Veth, Veth], tmp_path: Path
) -> None:
    file = tmp_path / "vm.pcapng"
    port = f"interface:{links[1].b},name=vm"
    with (
        end_of(links[1]) as right,
        Switch(links[0].b, port, record={"vm": str(file)}) as switch,
    ):
        for i in range(2):
            batch = PacketBatch(1)
            batch.append(numbered_frames(2, 200)[i])
            switch.send(links[0].b, batch)
            assert take(right, 1) == batch.tolist()
            switch.remove("vm")
            assert switch.add(port) == "vm"
    assert [data for _, data in read(file)] == numbered_frames(2, 200)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--record", "vm"], 2, "'vm' is not the name of a port and a file"),
        (["--record", "vm=-"], 2, "is not the name of a port and a file"),
        (["--record", "vm={f}"], 2, "no port has the name vm; the ports are"),
        (
            ["--record", "{a}={f}", "--record", "{a}={f}2"],
            2,
            "two files are given for one port",
        ),
        (
            ["--record", "{a}={f}", "--record", "{b}={f}"],
            2,
            "two ports are given for one file",
        ),
        (
            ["--record", "{a}={f}", "--record", "{b}={d}/./f"],
            2,
            "two ports are given for one file",
        ),
        (["--record", "{a}={pipe}"], 1, "this is a pipe, whose reader could"),
        (
            ["--record", "{a}=/missing/f"],
            1,
            "/missing/f: No such file or directory",
        ),
    ],
)
def test_errors_say_what_is_wrong(
    links: tuple[Veth, Veth],
    tmp_path: Path,
    options: list[str],
    code: int,
    message: str,
) -> None:
    a, b = links[0].b, links[1].b
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    names = {"a": a, "b": b, "d": tmp_path, "f": tmp_path / "f", "pipe": pipe}
    words = [one.format(**names) for one in options]
    with Running(a, b, *words, command="switch") as switch:
        outcome = switch.outcome()
    assert outcome.code == code, outcome.text
    assert message in outcome.text

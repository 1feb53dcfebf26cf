"""`rawmmsg switch`, run as a user runs it, and what it prints."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest
from support import WAIT
from support.bridging import Running
from support.calls import eventually
from support.child import environment
from support.frames import frame
from support.linux import ip, other_namespace
from support.switching import take

from rawmmsg import RawSocket
from rawmmsg.testing import Veth, veth_pair

A, B = (bytes((2, 0, 0, 0, 0, i)) for i in range(1, 3))
BROADCAST = b"\xff" * 6


@pytest.fixture
def links() -> Iterator[list[Veth]]:
    with veth_pair() as one, veth_pair() as two, veth_pair() as three:
        yield [one, two, three]


def switching(*arguments: str, stdout: int | None = None) -> Running:
    return Running(*arguments, command="switch", stdout=stdout)


@contextlib.contextmanager
def end_of(link: Veth) -> Iterator[RawSocket]:
    with RawSocket(link.a, ignore_outgoing=True) as sock:
        yield sock


def packet(dst: bytes, src: bytes) -> bytes:
    return frame(bytes(46), dst, src)


def test_it_forwards_until_a_signal_and_prints_a_summary(
    links: list[Veth],
) -> None:
    names = [link.b for link in links]
    with (
        end_of(links[0]) as left,
        end_of(links[1]) as right,
        switching(*names) as command,
    ):
        command.says("switching between " + ", ".join(names))
        left.sendmmsg_all([packet(BROADCAST, A)])
        assert take(right, 1) == [packet(BROADCAST, A)]
        right.sendmmsg_all([packet(A, B)])
        assert take(left, 1) == [packet(A, B)]
        outcome = command.end()
    assert outcome.code == 0
    assert (
        f"{names[0]}\n"
        "  1 frames received, 60 bytes\n"
        "  1 frames forwarded, 1 of them flooded\n"
        "  0 received frames dropped\n"
        "  1 copies for this port\n"
        "  1 frames sent\n"
        "  0 copies dropped\n"
    ) in outcome.text
    assert outcome.text.count("  1 frames sent\n") == 3


def test_json_goes_to_standard_output(links: list[Veth]) -> None:
    reader, writer = os.pipe()
    with (
        open(reader) as lines,
        end_of(links[0]) as left,
        switching(
            links[0].b,
            f"interface:{links[1].b},name=uplink",
            *("-q", "--json", "0.1"),
            stdout=writer,
        ) as command,
    ):
        os.close(writer)
        first = json.loads(lines.readline())
        assert set(first) == {"time", "stations", "ports"}
        assert set(first["ports"]) == {links[0].b, "uplink"}
        left.sendmmsg_all([packet(BROADCAST, A)])
        for line in lines:
            last = json.loads(line)
            if last["ports"]["uplink"]["sent"]:
                break
        assert last["stations"]["known"] == 1
        assert last["ports"][links[0].b]["flooded"] == 1
        outcome = command.end()
    assert (outcome.code, outcome.text) == (0, "")


def test_the_last_line_of_json_has_all_counts(links: list[Veth]) -> None:
    reader, writer = os.pipe()
    with (
        open(reader) as lines,
        end_of(links[0]) as left,
        end_of(links[1]) as right,
        switching(
            *(links[0].b, links[1].b, "--json", "1000"), stdout=writer
        ) as command,
    ):
        os.close(writer)
        command.says("switching")
        left.sendmmsg_all([packet(BROADCAST, A)] * 100)
        assert len(take(right, 100)) == 100
        command.end()
        (line,) = lines
    counts = json.loads(line)["ports"]
    assert counts[links[0].b]["received"] == 100
    assert counts[links[1].b]["sent"] == 100


def test_sigusr1_prints_the_address_table(links: list[Veth]) -> None:
    with (
        end_of(links[0]) as left,
        end_of(links[1]) as right,
        switching(
            links[0].b, f"interface:{links[1].b},native=7", "--stats", "0.1"
        ) as command,
    ):
        command.says("switching")
        right.sendmmsg_all([packet(BROADCAST, B)])
        assert take(left, 1)[0][12:16] == bytes.fromhex("81000007")
        command.process.send_signal(signal.SIGUSR1)
        command.says("VLAN  address            seconds ago  port\n")
        command.says(f"   7  02:00:00:00:00:02            0  {links[1].b}\n")
        command.says("busiest ports, frames/s\n")
        assert command.end(signal.SIGTERM).code == 0


def test_lines_of_statistics_fit_on_the_terminal(links: list[Veth]) -> None:
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 79, 0, 0))
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "rawmmsg", "switch"),
                *(links[0].b, f"interface:{links[1].b},name={'x' * 9}"),
                f"interface:{links[2].b},name={'y' * 40}",
                *("--stats", "0.1", "--duration", "1"),
            ],
            env=environment(),
            stderr=slave,
        ) as process:
            os.close(slave)
            slave = -1
            printed = b""
            # At the end, Linux reports an error instead of no bytes.
            with contextlib.suppress(OSError):
                while part := os.read(master, 4096):
                    printed += part
            assert process.wait(WAIT) == 0
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)
    lines = printed.decode().splitlines()
    first = next(i for i, one in enumerate(lines) if "stations" in one)
    table = [one for one in lines[first:] if one.startswith(" " * 8)]
    assert len(table) > 3, lines
    assert max(map(len, table)) <= 79
    assert any("xxxxxxxxx 0" in one for one in table)
    assert not any("yyy" in one for one in table)


def test_a_port_that_waits_comes_and_goes(links: list[Veth]) -> None:
    late = f"late{os.getpid() % 100_000}"
    with (
        end_of(links[0]) as left,
        switching(links[0].b, f"interface:{late},wait") as command,
    ):
        command.says(f"there is no interface {late}; waiting for it")
        for _ in range(2):
            with (
                veth_pair(name_b=late) as link,
                end_of(link) as right,
            ):
                eventually(
                    lambda: f"{late} is ready" in command.text,
                    "the port is not opened",
                )
                left.sendmmsg_all([packet(BROADCAST, A)])
                assert packet(BROADCAST, A) in take(right, 1)
            command.says(f"{late} has disappeared")
            command.lines.clear()
        outcome = command.end()
    assert outcome.code == 0
    assert f"{late}\n" in outcome.text
    assert "  2 frames sent\n" in outcome.text


def test_it_ends_when_all_ports_have_gone(links: list[Veth]) -> None:
    with switching(links[0].b, links[1].b) as command:
        command.says("switching")
        for link in links[:2]:
            ip("link", "delete", "dev", link.b)
        outcome = command.outcome()
    assert outcome.code == 1
    for link in links[:2]:
        assert f"rawmmsg: {link.b} has disappeared\n" in outcome.text


@pytest.mark.parametrize(
    ("ports", "code", "message"),
    [
        (["nope0", "nope1"], 1, "rawmmsg: nope0: No such device; `ip link`"),
        (["a,access=5", "lo"], 1, "with options is interface:a,access=5"),
        (["lo"], 2, "the following arguments are required: PORT"),
        (["fd:x", "lo"], 2, "must be a descriptor number"),
        (
            ["stream:unix:/missing/vm,listen", "lo"],
            1,
            "stream1 (stream:unix:/missing/vm,listen): No such file or",
        ),
        (["lo", "interface:lo,name=x"], 2, "lo: not an Ethernet interface"),
    ],
)
def test_it_explains_what_is_wrong(
    ports: list[str], code: int, message: str
) -> None:
    with switching(*ports) as command:
        outcome = command.outcome()
    assert outcome.code == code
    assert message in outcome.text


def test_an_interface_in_another_namespace(links: list[Veth]) -> None:
    with other_namespace() as pid:
        ip("link", "set", "dev", links[1].b, "netns", str(pid))
        netns = f"/proc/{pid}/ns/net"
        with (
            end_of(links[0]) as left,
            switching(
                links[0].b, f"interface:{links[1].b},netns={netns}"
            ) as command,
        ):
            command.says(f"{links[1].b} is down; waiting for it")
            left.sendmmsg_all([packet(BROADCAST, A)])

            def is_learned() -> bool:
                command.process.send_signal(signal.SIGUSR1)
                return "02:00:00:00:00:01" in command.text

            eventually(is_learned, "the frame does not arrive")
            outcome = command.end()
    assert outcome.code == 0
    assert "1 copies dropped: 1 link down" in outcome.text

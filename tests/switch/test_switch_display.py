"""What the user of `rawmmsg switch` sees on a terminal, and a program in a
pipe: whole lines that fit, and nobody waits for a reader."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest
from support import WAIT
from support.calls import eventually
from support.child import environment
from support.frames import frame
from support.switching import take

from rawmmsg import RawSocket
from rawmmsg.bridge.switching.output import Output
from rawmmsg.testing import Veth, veth_pair

BROADCAST = b"\xff" * 6


@pytest.fixture
def links() -> Iterator[list[Veth]]:
    with veth_pair() as one, veth_pair() as two:
        yield [one, two]


class Screen:
    """A switch on a terminal. `text`: what it has printed."""

    def __init__(
        self, width: int, *arguments: str, stdout: int | None = None
    ) -> None:
        self.master, slave = pty.openpty()
        size = struct.pack("4H", 24, width, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rawmmsg", "switch", *arguments],
            env=environment(),
            stdin=slave,
            stdout=stdout,
            stderr=slave,
        )
        os.close(slave)
        os.set_blocking(self.master, False)
        self.text = ""

    def read(self) -> str:
        # When the switch has ended, Linux reports an error.
        with contextlib.suppress(OSError):
            while part := os.read(self.master, 65536):
                self.text += part.decode().replace("\r\n", "\n")
        return self.text

    def until(self, text: str) -> None:
        eventually(lambda: text in self.read(), f"it never says {text!r}")

    def end(self) -> str:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(WAIT) == 0
        return self.read()


@contextlib.contextmanager
def screen(
    width: int, *arguments: str, stdout: int | None = None
) -> Iterator[Screen]:
    shown = Screen(width, *arguments, stdout=stdout)
    try:
        yield shown
        shown.end()
    finally:
        shown.process.kill()
        shown.process.wait()
        os.close(shown.master)


def packet(source: int) -> bytes:
    own = b"\x02\x01" + source.to_bytes(4, "big")
    return frame(bytes(46), BROADCAST, own)


@pytest.mark.parametrize("width", [10, 30, 50, 80, 200])
def test_lines_fit_on_terminals_of_any_width(
    links: list[Veth], width: int
) -> None:
    """Columns are left out, and never cut."""
    names = [link.b for link in links]
    with screen(width, *names, "--stats", "0.05") as shown:
        shown.until("frames/s\n" if width == 10 else "Mbit/s")
        eventually(
            lambda: shown.read().count("\n") > 5, "it prints no more lines"
        )
        table = [
            line
            for line in shown.text.splitlines()
            if re.match(r" +(\d|frames/s)", line)
        ]
    assert len(table) >= 3
    assert max(map(len, table)) <= width
    for line in table[1:]:
        assert re.fullmatch(r"[\d,]+", line.split()[0]), line
    assert ("stations" in table[0]) == (width >= 49)
    assert any(f"{names[0]} 0" in line for line in table) == (width >= 80)


def test_a_stopped_terminal_stops_no_frames(links: list[Veth]) -> None:
    """Neither the lines of statistics nor a long address table wait."""
    with (
        RawSocket(links[0].a, ignore_outgoing=True) as left,
        RawSocket(links[1].a, ignore_outgoing=True) as right,
        screen(80, *(link.b for link in links), "--stats", "0.05") as shown,
    ):
        shown.until("stations")
        for first in range(0, 4000, 100):
            left.sendmmsg_all([packet(first + i) for i in range(100)])
            take(right, 100)
        os.write(shown.master, b"\x13")  # Ctrl-S
        shown.process.send_signal(signal.SIGUSR1)
        for i in range(20):
            left.sendmmsg_all([packet(i)])
            assert take(right, 1) == [packet(i)]
        os.write(shown.master, b"\x11")  # Ctrl-Q
        shown.process.send_signal(signal.SIGUSR1)
        shown.until("02:01:00:00:0f:9f")
        table = re.findall(r"^ +1  (02:01\S+) +\d+  ", shown.text, re.M)
        assert len(set(table)) == 4000


def test_a_reader_that_stops_reading_stops_no_frames(
    links: list[Veth],
) -> None:
    """It gets whole objects when it reads again."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    names = [link.b for link in links]
    with (
        open(reader, encoding="ascii") as lines,
        RawSocket(links[0].a, ignore_outgoing=True) as left,
        RawSocket(links[1].a, ignore_outgoing=True) as right,
    ):
        with screen(80, *names, "--json", "0.01", stdout=writer) as shown:
            os.close(writer)
            shown.until("switching")
            for i in range(200):
                left.sendmmsg_all([packet(i)])
                assert take(right, 1) == [packet(i)]
            objects = [json.loads(lines.readline()) for _ in range(20)]
            shown.process.send_signal(signal.SIGINT)
            objects += map(json.loads, lines)
    times = [one["time"] for one in objects]
    assert times == sorted(times)
    last = objects[-1]["ports"]
    assert last[names[0]]["received"] == 200
    assert last[names[1]]["sent"] == 200


def test_text_that_is_not_taken_is_left_out() -> None:
    reader, writer = os.pipe()
    output = Output(writer)
    with open(reader, encoding="ascii") as lines, open(writer, "wb"):
        long = "x" * 600 + "\n"
        taken = [output.put(long) for _ in range(1000)]
        assert 0 < sum(taken) < 1000
        assert taken == sorted(taken, reverse=True)
        assert not output.flush()
        for _ in range(sum(taken) - 1):
            assert lines.readline() == long
        assert output.put("next\n")
        assert lines.readline() == long
        assert lines.readline() == "next\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb"):
        output = Output(writer)
        assert output.put("text\n")
        output.finish("more\n")

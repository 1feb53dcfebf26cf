"""Runs the programs in examples/ as a user would."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support import WAIT
from support.calls import eventually
from support.child import environment

FOLDER: Final = Path(__file__).resolve().parents[2] / "examples"


class Example:
    """A program that runs, in a process group of its own."""

    def __init__(self, name: str, *arguments: str) -> None:
        program = str(FOLDER / name)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", program, *arguments],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def lines(self, count: int) -> list[str]:
        """Waits for the next lines that it prints."""
        assert self.process.stdout is not None
        stream = self.process.stdout
        return [stream.readline().rstrip("\n") for _ in range(count)]

    def rest(self) -> str:
        """Waits until it has ended without an error; returns what it has
        printed since the last line that was read."""
        # communicate() would not find what readline() has left in its buffer.
        assert self.process.stdout is not None
        printed = self.process.stdout.read()
        self.process.wait(WAIT)
        assert self.process.returncode == 0, printed
        return printed

    def interrupted(self) -> str:
        """Presses Ctrl-C, which reaches the whole process group, as in a
        terminal. Returns rest()."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.rest()

    def children(self) -> list[int]:
        """The ids of its child processes."""
        pid = self.process.pid
        return [
            int(child)
            for child in Path(f"/proc/{pid}/task/{pid}/children")
            .read_text()
            .split()
        ]


@contextmanager
def example(name: str, *arguments: str) -> Iterator[Example]:
    """Runs an example, and kills it at the end of the block."""
    running = Example(name, *arguments)
    with running.process:
        try:
            yield running
        finally:
            if running.process.poll() is None:
                os.killpg(running.process.pid, signal.SIGKILL)


def until_open(*interfaces: str) -> None:
    """Waits until a socket listens on each of the interfaces."""
    eventually(
        lambda: all(len(_queues(one)) == 1 for one in interfaces),
        f"the program does not listen on {interfaces}",
    )


def until_read(interface: str) -> None:
    """Waits until the sockets on the interface have read every packet."""
    eventually(
        lambda: not any(_queues(interface)),
        f"the program does not read what arrives on {interface}",
    )


def _queues(interface: str) -> list[int]:
    """How many bytes wait in each socket that listens on the interface
    (net/packet/af_packet.c:packet_seq_show())."""
    index = socket.if_nametoindex(interface)
    table = Path("/proc/thread-self/net/packet").read_text().splitlines()
    queues = []
    for row in table[1:]:
        _, _, _, protocol, number, running, queued, *_ = row.split()
        if (int(number), running) == (index, "1") and int(protocol, 16):
            queues.append(int(queued))
    return queues

"""Files with the frames of a port: those that it receives, and those that it
sends. Other programs cannot see them if the port is not an interface."""

import errno
from collections.abc import Callable
from pathlib import Path
from time import time_ns

from ..._rawmmsg import PacketBatch
from ...pcap import Writer
from ..ports import Port

__all__ = ["Recording"]

_IN, _OUT = 0, 1


class Recording:
    """A recording of the port `name`. It has two interfaces, NAME:in for the
    frames that the switch receives from the port, and NAME:out for those that
    it sends there. Frames have the time at which they are written.

    The switch goes on if the file cannot be written; `report` is called with a
    line about it.
    """

    def __init__(
        self, name: str, file: str, report: Callable[[str], object]
    ) -> None:
        self.name = name
        self.file = file
        self._report = report
        self._was_opened = False
        self._writer: Writer | None = None

    def attach(self, port: Port) -> None:
        """Records what the port receives and sends from now on. Call it before
        anything else uses the port. Creates the file, the first time: raises
        OSError, whose strerror names it, if that fails."""
        if not self._was_opened:
            self._open()
        receive, send = port.recvmmsg_into, port.sendmmsg

        def recvmmsg_into(batch: PacketBatch) -> int:
            count = receive(batch)
            self._write(batch, 0, count, _IN)
            return count

        def sendmmsg(batch: PacketBatch, start: int) -> int:
            count = send(batch, start)
            self._write(batch, start, start + count, _OUT)
            return count

        port.recvmmsg_into = recvmmsg_into
        port.sendmmsg = sendmmsg

    def _open(self) -> None:
        try:
            if _is_pipe(self.file):
                raise OSError(
                    errno.EINVAL,
                    "this is a pipe, whose reader could stop the switch; name"
                    " a file",
                )
            names = [f"{self.name}:in", f"{self.name}:out"]
            self._writer = Writer(self.file, names)
        except OSError as error:
            error.strerror = f"{self.file}: {error.strerror}"
            raise
        self._was_opened = True

    def _write(
        self, batch: PacketBatch, start: int, stop: int, interface: int
    ) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write(
                batch, start, stop, interface=interface, times=time_ns()
            )
        except OSError as error:
            self._report(
                f"{self.file}: {error.strerror}; {self.name} is not recorded"
                " any more"
            )
            self.close()

    def close(self) -> None:
        """Completes the file."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
        except OSError as error:
            self._report(f"{self.file}: {error.strerror}")


def _is_pipe(file: str) -> bool:
    try:
        return Path(file).is_fifo()
    except ValueError:  # Writer says why
        return False

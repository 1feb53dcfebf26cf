"""The switch for programs, and for `rawmmsg switch`."""

import contextlib
import errno
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Final, Self

from ..._command.messages import name_port
from ..._rawmmsg import PacketBatch
from ..ports import GuestOptions
from .counts import PortCounts
from .fabric import Fabric
from .members import Hook
from .recordings import Recording
from .specs import parse_spec
from .table import AGEING, MOST_STATIONS

__all__ = ["Switch"]


def _keep_quiet(_: str) -> None:
    """Prints nothing."""


_NONE: Final[Mapping[str, str]] = MappingProxyType({})

# What one system call receives, and a _FrameSorter takes.
_MOST_FRAMES: Final = 1024


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be greater than 0, not {value}")


def _named(name: str, port: str) -> str:
    """The name of a port for a message about its description."""
    _, colon, rest = port.partition(":")
    is_named_so = not colon or rest.partition(",")[0] == name
    return name if is_named_so else f"{name} ({port})"


class Switch:
    """A switch between ports of any kind, with VLANs and an address table.

    Each port is described as on the command line of `rawmmsg switch`:
    `Switch("eth0", "interface:eth1,access=5", "vhost-user:/run/vm")`.

    ageing      forget a station that has sent nothing for so many seconds
    stations    know at most so many stations
    link_local  flood frames to 01:80:c2:00:00:00 to :0f, which LACP, LLDP and
                STP use, instead of dropping them
    merge       merge TCP segments that go from a socket to an interface into
                super-frames
    batch       receive at most so many frames with one system call; None: 64,
                or 8 while frames are large
    spin        for so many seconds after the last frame, look for the next
                one without sleeping: it is forwarded sooner, but a CPU is
                busy all that time; holds for ports without the option `spin`
    on_frames   called with the name of a port and the frames that have
                arrived there, before they are forwarded. It may change them.
                It may return the indices of frames that are not to be
                forwarded. It must leave as many frames as there were. The
                batch is used again as soon as it returns. It has offload
                headers; frames of ports with the option `plain` are complete
                without them.
    record      files in which ports are recorded, by the names of the ports:
                pcapng, with the frames that a port receives and those that it
                sends
    report      called with a line about a problem, such as a port that has
                disappeared
    notice      called with a line of other news

    Raises what add() raises. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        *ports: str,
        ageing: float = AGEING,
        stations: int = MOST_STATIONS,
        link_local: bool = True,
        merge: bool = True,
        batch: int | None = None,
        spin: float = 0.0,
        on_frames: Hook | None = None,
        record: Mapping[str, str] = _NONE,
        report: Callable[[str], object] = _keep_quiet,
        notice: Callable[[str], object] = _keep_quiet,
    ) -> None:
        _check_positive("ageing", ageing)
        _check_positive("stations", stations)
        if batch is not None and not 1 <= batch <= _MOST_FRAMES:
            raise ValueError(
                f"batch must be 1 to {_MOST_FRAMES:,}, not {batch}"
            )
        if not 0 <= spin < math.inf:
            raise ValueError(f"spin must be 0 or a time, not {spin}")
        self._fabric = Fabric(
            ageing=ageing,
            stations=stations,
            passes_link_local=link_local,
            merges=merge,
            batch=batch,
            on_frames=on_frames,
            on_end=self._ended,
        )
        self._spin = spin
        self._is_running = False
        self._report = report
        self._notice = notice
        self._guest_options = GuestOptions(report, notice)
        if batch is not None:
            self._guest_options = replace(self._guest_options, batch=batch)
        self._numbers: dict[str, int] = {}
        self._recordings: dict[str, Recording] = {}
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            for name, file in record.items():
                self._recordings[name] = Recording(name, file, report)
            for port in ports:
                self.add(port)
        except BaseException:
            self.close()
            raise

    # Ports

    @property
    def ports(self) -> list[str]:
        """The names of all ports."""
        return self._fabric.names

    def add(self, port: str) -> str:
        """Opens a port, adds it, and returns its name.

        Raises `PortError`, a ValueError, if the description is wrong, if the
        port does not carry Ethernet frames, or if the switch has a port with
        this name or the same port. Raises OSError if the port cannot be
        opened; an interface with the option `wait` need not exist.

        Call it before run(), or from what every() calls, as remove(). In
        `on_frames`, it raises RuntimeError.
        """
        new, rules = parse_spec(
            port, self._guest_options, self._numbers, self.ports
        )
        new.spin = new.spin or self._spin
        try:
            new.open(None)
        except OSError as error:
            name_port(_named(new.name, port), error)
            raise
        try:
            if new.name in self._recordings:
                self._recordings[new.name].attach(new)
            self._fabric.add(new.name, new, rules)
        except BaseException:
            new.close()
            raise
        missing = new.missing()
        if missing is not None:
            named = "" if new.name in missing.split() else f"{new.name}: "
            self._notice(f"{named}{missing}; waiting for it")
        return new.name

    def remove(self, name: str) -> None:
        """Removes a port and closes it. Raises KeyError if there is none with
        this name, and RuntimeError in `on_frames`."""
        self._fabric.remove(name).close()

    def _ended(self, name: str, error: Exception) -> None:
        """The fabric has removed a port."""
        if isinstance(error, OSError) and error.errno == errno.ENODEV:
            self._report(f"{name} has disappeared")
        elif isinstance(error, OSError):
            self._report(f"{name} has failed: {error.strerror}")
        else:
            self._report(str(error))
        if not self.ports:
            self.end()

    def close(self) -> None:
        """Closes all ports. What waits for them is dropped. Raises
        RuntimeError while run() runs."""
        if self._is_running:
            raise RuntimeError(
                "the switch cannot be closed while run() runs: call end(), and"
                " close it when run() has returned"
            )
        for name in self._fabric.names:
            self._fabric.remove(name).close()
        for recording in self._recordings.values():
            recording.close()
        if self._reader >= 0:
            os.close(self._reader)
            os.close(self._writer)
            self._reader = self._writer = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Running

    def run(self, wake: int | None = None) -> None:
        """Moves frames until end() is called, all ports have disappeared, or
        a byte can be read from the descriptor `wake`, except one for
        on_signal(). May be called once."""
        wakes = (self._reader,) if wake is None else (self._reader, wake)
        self._is_running = True
        try:
            self._fabric.run(*wakes)
        finally:
            self._is_running = False

    def end(self) -> None:
        """Makes run() return. May be called from any thread, and after
        close()."""
        if self._writer >= 0:
            with contextlib.suppress(BlockingIOError):  # called often before
                os.write(self._writer, b"\0")

    def every(self, seconds: float, call: Callable[[], object]) -> None:
        """Calls `call` every `seconds` seconds while run() runs, in its
        thread. Raises ValueError unless `seconds` is greater than 0."""
        _check_positive("seconds", seconds)
        self._fabric.every(seconds, call)

    def on_signal(self, number: int, call: Callable[[], object]) -> None:
        """Calls `call`, and goes on, when the byte that is read from the
        descriptor `wake` is this number: signal.set_wakeup_fd() writes it."""
        self._fabric.on_signal(number, call)

    def send(self, port: str, packets: PacketBatch) -> None:
        """Forwards frames as if they had arrived at this port now, but without
        `on_frames`. The batch can be used again when this returns.

        Call it before run(), or from what every() calls. In `on_frames`, it
        raises RuntimeError. Raises KeyError if there is no such port, or if it
        is missing.
        """
        self._fabric.send(port, packets)

    # Statistics

    def statistics(self) -> dict[str, PortCounts]:
        """Returns the counts of each port, by its name. They include those of
        the 1,000 ports that were removed last.

        While run() runs, call it from what every() calls: another thread may
        get a RuntimeError.
        """
        return self._fabric.statistics()

    def stations(self) -> dict[str, int]:
        """Returns how many stations are known, and how many were learned for
        the first time, moved to another port, forgotten because they were
        silent, or displaced because the table was full."""
        table = self._fabric.table
        return {
            "known": len(table),
            "learned": table.learned,
            "moved": table.moved,
            "aged": table.aged,
            "displaced": table.displaced,
        }

    def addresses(self) -> list[tuple[int, str, str, float]]:
        """Returns the VLAN and the address of each known station, its port,
        and how many seconds ago the switch noted that it had sent."""
        return self._fabric.addresses()

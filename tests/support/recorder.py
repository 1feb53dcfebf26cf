"""`rawmmsg record`, run as a user runs it, and what it has written."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rawmmsg.pcap import Reader
from support.bridging import Running

_SUMMARY = re.compile(
    r"^(?P<name>\S+ > .*)\n"
    r"  (?P<frames>[\d,]+) frames recorded, (?P<bytes>[\d,]+) bytes,"
    r" [\d.]+ frames per call\n"
    r"(?:  (?P<gained>[\d,]+) more frames by segmentation\n)?"
    r"(?:  (?P<whole>[\d,]+) frames could not be cut\n)?"
    r"(?:  [\d,]+ frames without a time stamp; .*\n)?"
    r"  (?P<dropped>[\d,]+) frames dropped by kernel\n"
    r"  (?P<files>[\d,]+) files?, (?P<size>[\d,]+) bytes\n",
    re.MULTILINE,
)

OURS = "ether proto 0x88b5"
"""A filter for frames that no kernel sends."""


@dataclass(frozen=True)
class Summary:
    """What the command prints at its end."""

    name: str
    frames: int
    bytes: int
    gained: int
    whole: int
    dropped: int
    files: int
    size: int


@dataclass(frozen=True)
class Recorded:
    """A frame in a recording."""

    data: bytes
    wire_length: int
    time: int
    packet_type: int


class Recording(Running):
    """The command while it runs. It records what can be told from frames of
    the kernel's own, unless `expression` is another filter."""

    def __init__(
        self,
        interface: str,
        file: Path | str,
        *options: str,
        expression: str = OURS,
        prefix: tuple[str, ...] = (),
        stdout: int | None = None,
    ) -> None:
        super().__init__(
            *(*options, interface, str(file), *expression.split()),
            command="record",
            prefix=prefix,
            stdout=stdout,
        )

    def summary(self) -> Summary:
        """What it has printed at its end."""
        found = _SUMMARY.search(self.text)
        assert found is not None, self.text
        values = found.groupdict()
        name = values.pop("name")
        numbers = {
            key: int((value or "0").replace(",", ""))
            for key, value in values.items()
        }
        return Summary(name, **numbers)

    def stop(self) -> Summary:
        """Ends it as Ctrl-C does."""
        outcome = self.end()
        assert outcome.code == 0, outcome.text
        return self.summary()


@contextlib.contextmanager
def recording(
    interface: str, file: Path | str, *options: str, expression: str = OURS
) -> Iterator[Recording]:
    """Records from the start of the block."""
    command = Recording(interface, file, *options, expression=expression)
    with command:
        command.says("recording")
        yield command


def read(file: Path) -> list[Recorded]:
    """All frames of a recording."""
    with Reader(file) as reader:
        found = [
            Recorded(
                bytes(batch[i]),
                batch.wire_lengths[i],
                batch.timestamps_ns[i],
                batch.packet_types[i],
            )
            for batch in reader
            for i in range(len(batch))
        ]
        assert reader.cut is None, f"cut at {reader.cut}"
    return found


def frames(file: Path) -> list[bytes]:
    return [one.data for one in read(file)]

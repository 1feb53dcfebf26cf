"""The corpora: text files of expressions, in sections, that a person can read
and extend.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parent.parent / "data"


class Entry(NamedTuple):
    """One expression and its section."""

    section: str
    expression: str


def read(name: str) -> list[Entry]:
    """The entries of a corpus file: ``[section]`` lines, comments, and one
    expression on each other line.
    """
    entries = []
    section = ""
    for line in (DATA / name).read_text().splitlines():
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif line and not line.startswith("# "):
            entries.append(Entry(section, line))
    return entries


def compiled() -> list[Entry]:
    """Expressions that libpcap compiles for Ethernet."""
    return read("corpus.txt")


def rejected() -> list[Entry]:
    """Expressions that libpcap refuses for Ethernet."""
    return read("rejected.txt")


def extensions() -> list[tuple[str, str]]:
    """Expressions that libpcap refuses and we compile, each with an equivalent
    that libpcap compiles.
    """
    return [
        (ours, theirs)
        for entry in read("extensions.txt")
        for ours, theirs in [entry.expression.split(" => ")]
    ]


def live() -> list[Entry]:
    """Expressions whose programs for a packet socket and for bytes in memory
    differ, and some that must not.
    """
    return read("live.txt")


def unsupported() -> list[Entry]:
    """Valid expressions that we do not support."""
    return read("unsupported.txt")


def disputed() -> list[Entry]:
    """Expressions that libpcap compiles wrongly, by its mistake."""
    return read("disputed.txt")

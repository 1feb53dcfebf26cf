"""What libpcap says: asked live where the ``cypcap`` wheel and netbase are
installed, read from committed goldens where they are not.
"""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import socket
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

from .machine import Instructions

SNAPLEN = 262144
ETHERNET, LOOPBACK, RAW_IP = 1, 772, 65534
# ARPHRD number to libpcap's DLT: DLT_EN10MB for Ethernet and the loopback,
# DLT_RAW for links without a header.
DATALINKS = {ETHERNET: 1, LOOPBACK: 1, RAW_IP: 12}
UNKNOWN_NETMASK = 0xFFFFFFFF

GOLDEN = Path(__file__).parent.parent / "data"


def _names_known() -> bool:
    try:
        return socket.getprotobyname("tcp") == 6
    except OSError:
        return False


NAMES_KNOWN = _names_known()
"""Asked at once: tests may replace what looks names up."""


# libpcap 1.10 takes a divisor or a shift count for a constant if only its
# first instruction loads one, as that of ``ip[0]`` and of ``33 - ip[0]`` does
# (gen_arth() looks no further). Generated expressions with such an answer say
# nothing.
MISTAKEN = (
    "division by zero",
    "modulus by zero",
    "shift by more than 31 bits",
)


class Pair(NamedTuple):
    """libpcap's program before and after its optimiser; ``optimised`` is None
    if only that pass refused.
    """

    optimised: Instructions | None
    unoptimised: Instructions


class Refused(NamedTuple):
    """libpcap's error message."""

    message: str


Answer = Pair | Refused


def mistaken(answer: Answer) -> bool:
    """Whether libpcap may have refused a sound expression."""
    return isinstance(answer, Refused) and answer.message in MISTAKEN


class Oracle(Protocol):
    """Something that knows libpcap's programs."""

    def ask(self, expression: str, link_type: int = ETHERNET) -> Answer:
        """libpcap's answer for an expression that it compiles with no live
        handle and no netmask.
        """


class LiveOracle:
    """The libpcap inside the cypcap wheel."""

    def __init__(self) -> None:
        self.cypcap = importlib.import_module("cypcap")
        self.version: str = self.cypcap.lib_version()

    def _compile(
        self, expression: str, link_type: int, optimise: bool
    ) -> Instructions:
        datalink = self.cypcap.DatalinkType(DATALINKS[link_type])
        program = self.cypcap.compile(
            datalink, SNAPLEN, expression, optimise, UNKNOWN_NETMASK
        )
        return tuple(
            (code, jt, jf, k & 0xFFFFFFFF) for code, jt, jf, k in program
        )

    def disassembly(self, expression: str, optimise: bool) -> str:
        """libpcap's own text of its program for Ethernet."""
        datalink = self.cypcap.DatalinkType(DATALINKS[ETHERNET])
        program = self.cypcap.compile(
            datalink, SNAPLEN, expression, optimise, UNKNOWN_NETMASK
        )
        return str(program.dumps(self.cypcap.BpfDumpType.DISASSEMBLY)).rstrip()

    def ask(self, expression: str, link_type: int = ETHERNET) -> Answer:
        try:
            unoptimised = self._compile(expression, link_type, False)
        except self.cypcap.Error as error:
            return Refused(str(error.args[-1]))
        try:
            return Pair(
                self._compile(expression, link_type, True), unoptimised
            )
        except self.cypcap.Error:
            return Pair(None, unoptimised)


def pack(program: Instructions | None) -> str:
    """A program as in ``tcpdump -ddd``, with commas for line ends; '-' for
    none.
    """
    if program is None:
        return "-"
    return ",".join(" ".join(map(str, instruction)) for instruction in program)


def unpack(text: str) -> Instructions | None:
    """The program that pack() wrote."""
    if text == "-":
        return None
    fields = (map(int, line.split()) for line in text.split(","))
    return tuple((code, jt, jf, k) for code, jt, jf, k in fields)


def write_goldens(
    path: Path, header: str, answers: dict[tuple[int, str], Answer]
) -> None:
    """One line per expression: link type, expression, then two packed programs
    or one message, between tabs.
    """
    lines = [f"# {line}" for line in header.splitlines()]
    for (link_type, expression), answer in answers.items():
        if isinstance(answer, Refused):
            result = ["!", answer.message]
        else:
            result = [pack(answer.optimised), pack(answer.unoptimised)]
        lines.append("\t".join([str(link_type), expression, *result]))
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def read_goldens(path: Path) -> dict[tuple[int, str], Answer]:
    """What write_goldens() wrote."""
    answers: dict[tuple[int, str], Answer] = {}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        if line.startswith("# "):
            continue
        link_type, expression, first, second = line.split("\t")
        if first == "!":
            answers[int(link_type), expression] = Refused(second)
        else:
            unoptimised = unpack(second)
            assert unoptimised is not None, (
                f"golden of {expression!r} is damaged"
            )
            answers[int(link_type), expression] = Pair(
                unpack(first), unoptimised
            )
    return answers


class GoldenOracle:
    """The goldens: it knows the corpus and a fixed sample of generated
    expressions, nothing else.
    """

    def __init__(self) -> None:
        self.corpus = read_goldens(GOLDEN / "golden-corpus.txt.gz")
        self.generated = read_goldens(GOLDEN / "golden-generated.txt.gz")
        self.live = read_goldens(GOLDEN / "golden-live.txt.gz")
        self.answers = self.corpus | self.generated

    def ask(self, expression: str, link_type: int = ETHERNET) -> Answer:
        return self.answers[link_type, expression]


@cache
def goldens() -> GoldenOracle:
    """The one reading of the goldens."""
    return GoldenOracle()


@cache
def live() -> LiveOracle | None:
    """libpcap itself, or None where there is no cypcap, or no database of
    names (netbase), in which libpcap looks up "tcp" of ``ip proto \\tcp``."""
    found = NAMES_KNOWN and importlib.util.find_spec("cypcap")
    return LiveOracle() if found else None


def best() -> Oracle:
    """libpcap itself where it can be asked, the goldens elsewhere."""
    return live() or goldens()

"""libpcap's answers: from libpcap itself if the ``cypcap`` wheel and netbase
are installed, otherwise from the golden files.
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
"""Found out on import, because tests replace the functions that look up."""


# If the first instruction for a divisor or a shift count loads a constant,
# libpcap 1.10 assumes that it is a constant (gen_arth()). This is wrong for
# ``ip[0]`` and ``33 - ip[0]``. Generated expressions with such an answer are
# not compared.
MISTAKEN = (
    "division by zero",
    "modulus by zero",
    "shift by more than 31 bits",
)


class Pair(NamedTuple):
    """libpcap's program after and before its optimiser. ``optimised`` is None
    if only the optimiser refused the expression.
    """

    optimised: Instructions | None
    unoptimised: Instructions


class Refused(NamedTuple):
    """libpcap's error message."""

    message: str


Answer = Pair | Refused


def mistaken(answer: Answer) -> bool:
    """Whether libpcap may have refused a valid expression."""
    return isinstance(answer, Refused) and answer.message in MISTAKEN


class Oracle(Protocol):
    """A source of libpcap's answers."""

    def ask(self, expression: str, link_type: int = ETHERNET) -> Answer:
        """libpcap's answer for bytes in memory, without a netmask."""


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
        """libpcap's program for Ethernet, as libpcap prints it."""
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
    """A program as in ``tcpdump -ddd``, with commas instead of line ends. '-'
    if there is none.
    """
    if program is None:
        return "-"
    return ",".join(" ".join(map(str, instruction)) for instruction in program)


def unpack(text: str) -> Instructions | None:
    """The reverse of pack()."""
    if text == "-":
        return None
    fields = (map(int, line.split()) for line in text.split(","))
    return tuple((code, jt, jf, k) for code, jt, jf, k in fields)


def write_goldens(
    path: Path, header: str, answers: dict[tuple[int, str], Answer]
) -> None:
    """Write one line for each expression, with tabs in between: link type,
    expression, then two packed programs or one message.
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
    """The reverse of write_goldens()."""
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
    """The golden files: answers for the corpora and for a fixed sample of
    generated expressions only.
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
    """The golden files, read once."""
    return GoldenOracle()


@cache
def live() -> LiveOracle | None:
    """libpcap itself. None without cypcap, or without netbase, the database in
    which libpcap looks up "tcp" of ``ip proto \\tcp``."""
    found = NAMES_KNOWN and importlib.util.find_spec("cypcap")
    return LiveOracle() if found else None


def best() -> Oracle:
    """libpcap itself if it can be asked, otherwise the golden files."""
    return live() or goldens()

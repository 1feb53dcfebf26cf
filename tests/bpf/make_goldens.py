"""Write the golden files: libpcap's answers for all expressions in data/ and
for a fixed sample of generated ones.

Run it as root after a change in data/ or in the grammar, where cypcap, tcpdump
and netbase are installed: ``python tests/bpf/make_goldens.py``. Names in the
corpus are looked up in this system's databases. They must have the numbers
that bpfkit.names gives them.
"""

from __future__ import annotations

import socket
import subprocess

from bpfkit import corpus, grammar, names, oracle, packets
from bpfkit.machine import Instructions
from bpfkit.oracle import ETHERNET, RAW_IP, Answer, LiveOracle, Pair, Refused
from hypothesis import HealthCheck, given, settings

SAMPLE = 500
DISASSEMBLED = (
    "",
    "tcp port 80",
    "host 2001:db8::1",
    "ip multicast",
    "multicast",
    "len > 100",
    "ip[8] + 1 - 2 = 5 and ip[8] * 3 / 4 % 5 > 1",
    "ip[8] | 0x10 ^ 3 & 0xff = 5 and ip[8] << 2 >> 3 >= 2",
    "ip[8] + ip[9] - ip[1] = ip[2] * ip[3] / ip[4] % ip[5]",
    "ip[8] & ip[9] | ip[1] ^ ip[2] << ip[3] >> ip[4] > len",
    "- ip[8] = 0xffffffc0 and ip[12:4] - 0x80000000 > 0xfffffff0",
    "tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420",
    "net 10.0.0.0 mask 255.0.255.0 and portrange 80-443",
    "inbound",
    "ifindex 3",
)


def sample() -> list[str]:
    """The first different expressions that the grammar generates."""
    found: dict[str, None] = {}

    @settings(
        max_examples=2 * SAMPLE,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(grammar.expressions())
    def collect(expression: str) -> None:
        found[expression] = None

    collect()
    return list(found)[:SAMPLE]


def check_names() -> None:
    """Stop if the corpus's names have other numbers on this system."""
    for name, ports in names.SERVICES.items():
        for protocol, port in ports.items():
            if socket.getservbyname(name, protocol) != port:
                raise SystemExit(f"{name}/{protocol} is not {port} here")
    for name, number in names.PROTOCOLS.items():
        if socket.getprotobyname(name) != number:
            raise SystemExit(f"protocol {name} is not {number} here")


def write(libpcap: LiveOracle, name: str, keys: list[tuple[int, str]]) -> None:
    """Ask libpcap about each (link type, expression) and write the answers."""
    answers: dict[tuple[int, str], Answer] = {
        key: libpcap.ask(key[1], key[0]) for key in keys
    }
    header = (
        f"{libpcap.version}\n"
        "Written by make_goldens.py. Fields: link type, expression, then\n"
        "libpcap's program optimised and not (code jt jf k, ...; '-' where\n"
        "only the optimiser refused), or '!' and its message."
    )
    oracle.write_goldens(
        oracle.GOLDEN / f"golden-{name}.txt.gz", header, answers
    )


def tcpdump(expression: str, *options: str) -> Instructions:
    """The program that tcpdump would attach to a packet socket; root only."""
    command = ["tcpdump", "-i", "lo", *options, "-ddd", expression]
    _, *lines = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return tuple(
        (code, jt, jf, k)
        for code, jt, jf, k in (map(int, line.split()) for line in lines)
    )


def live_answer(expression: str) -> Answer:
    """tcpdump's programs, or its error message."""
    try:
        return Pair(tcpdump(expression), tcpdump(expression, "-O"))
    except subprocess.CalledProcessError as error:
        return Refused(error.stderr.splitlines()[-1])


def write_live() -> None:
    """Ask tcpdump for the programs of packet sockets."""
    answers = {
        (ETHERNET, entry.expression): live_answer(entry.expression)
        for entry in corpus.live()
    }
    version = subprocess.run(
        ["tcpdump", "--version"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    header = (
        f"{version[1]}\n"
        "tcpdump -i lo -ddd, optimised and not (-O), by make_goldens.py"
    )
    oracle.write_goldens(oracle.GOLDEN / "golden-live.txt.gz", header, answers)


def write_disassembly(libpcap: LiveOracle) -> None:
    """Write programs, optimised and not, as ``tcpdump -d`` prints them.
    Together they have every instruction that libpcap emits.
    """
    parts = [
        "# libpcap's disassembly, by make_goldens.py: an expression, then the "
        "program.\n"
    ]
    for expression in DISASSEMBLED:
        parts += [
            f"\n{expression}\n{libpcap.disassembly(expression, optimise)}\n"
            for optimise in (True, False)
        ]
    (oracle.GOLDEN / "golden-disassembly.txt").write_text("".join(parts))


def write_packets() -> None:
    """Write the frames on which executed instructions are counted."""
    lines = [
        "# The Ethernet frames that instruction counts are measured on: "
        "name and bytes, by make_goldens.py."
    ]
    for name, frame in packets.ethernet_frames().items():
        lines.append(f"{name} {frame.hex()}".rstrip())
    packets.PUBLISHED.write_text("\n".join(lines) + "\n")


def main() -> None:
    libpcap = oracle.live()
    if libpcap is None:
        raise SystemExit("install cypcap and netbase first")
    check_names()
    expressions = [
        entry.expression for entry in (*corpus.compiled(), *corpus.rejected())
    ]
    plain = [
        *(theirs for _, theirs in corpus.extensions()),
        *(entry.expression for entry in corpus.disputed()),
        *DISASSEMBLED,
    ]
    links = (ETHERNET, RAW_IP)
    write(
        libpcap,
        "corpus",
        [
            (link, text)
            for link in links
            for text in dict.fromkeys((*expressions, *plain))
        ],
    )
    drawn = [
        text for text in sample() if not oracle.mistaken(libpcap.ask(text))
    ]
    write(
        libpcap,
        "generated",
        [(link, text) for text in drawn for link in links],
    )
    write_packets()
    write_live()
    write_disassembly(libpcap)


if __name__ == "__main__":
    main()

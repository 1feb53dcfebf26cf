"""Fuzzes the code that checks and runs filters with libFuzzer.

    python tests/fuzz/filter.py --seconds 600

Builds filter.c beside this file with clang, AddressSanitizer and
UndefinedBehaviorSanitizer, and runs it for that time. Inputs are programs and
packets. An input that breaks a promise is kept in the working directory, and
how to repeat it is printed.

Needs clang with libFuzzer (on Debian: apt install clang), but neither
privilege nor pytest.
"""

import random
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[1] / "bpf"))

import libfuzzer
from bpfkit import packets, randomly

from rawmmsg import bpf

ANY_OPCODE: Final = 255
EXPRESSIONS: Final = (
    "",
    "tcp port 80",
    "vlan 5 and udp",
    "inbound",
    "ifindex 7",
    "host 2001:db8::1",
    "greater 100",
    "ip[8] / ip[9] > 5 or ip[ip[0] - 60] = 0x45",
    "geneve and tcp",
)
FIELDS: Final = tuple(range(0, 64, 4))


def encode(
    program: Iterable[tuple[int, int, int, int]],
    packet: bytes,
    known: int = 0,
    network_offset: int = 14,
) -> bytes:
    """An input, as filter.c reads it."""
    instructions = [
        struct.pack("=BHBBI", ANY_OPCODE, *item) for item in program
    ][:255]
    beside = struct.pack("=HIIH", known, 0x8100, len(packet), network_offset)
    return bytes(
        [len(instructions), *b"".join(instructions), *beside, *packet]
    )


def inputs() -> Iterator[bytes]:
    """Programs of the compiler and random ones, valid and not, with packets
    of the tests, whole and cut."""
    frames = [
        frame
        for frame in packets.ethernet_frames().values()
        if len(frame) < 200
    ]
    for expression in EXPRESSIONS:
        compiled = bpf.compile(expression).instructions
        for number, frame in enumerate(frames[::8]):
            yield encode(compiled, frame, known=number * 0x1111 & 0xFFFF)
            yield encode(compiled, frame[:40], 4, 0xFFFF)
    for seed in range(300):
        rng = random.Random(seed)
        program = randomly.Maker(rng, FIELDS, special=True).program()
        packet = rng.randbytes(rng.randrange(100))
        yield encode(program, packet, rng.getrandbits(16), rng.randrange(70))
        yield encode(randomly.spoiled(rng, program), packet)


def main() -> None:
    libfuzzer.main(__doc__, "_rawmmsg_filter.c", {"filter": inputs})


if __name__ == "__main__":
    main()

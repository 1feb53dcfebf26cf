"""Fuzzes the code that finds packets in recordings with libFuzzer.

    python tests/fuzz/recording.py --seconds 600

Builds recording.c beside this file with clang, AddressSanitizer and
UndefinedBehaviorSanitizer, and runs it for that time. Inputs are pcap and
pcapng files. An input that breaks a promise is kept in the working directory,
and how to repeat it is printed.

Needs clang with libFuzzer (on Debian: apt install clang), but neither
privilege nor pytest.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import libfuzzer
from support import recordings


def inputs() -> Iterator[bytes]:
    """Whole files of all kinds, cut files, and files with a changed byte."""
    rng = random.Random(1)
    for content in recordings.SAMPLES.values():
        for step in (0, 6, 255):
            yield bytes([rng.randrange(20), step]) + content
        for _ in range(10):
            cut = content[: rng.randrange(len(content))]
            yield bytes([3, rng.randrange(256)]) + cut
            spoiled = bytearray(content)
            spoiled[rng.randrange(len(content))] = rng.randrange(256)
            yield bytes([3, rng.randrange(256)]) + spoiled


def main() -> None:
    libfuzzer.main(__doc__, "_rawmmsg_pcap.c", {"recording": inputs})


if __name__ == "__main__":
    main()

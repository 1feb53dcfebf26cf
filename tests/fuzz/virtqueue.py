"""Fuzzes the code that reads and writes a guest's rings with libFuzzer.

    python tests/fuzz/virtqueue.py --seconds 600

Builds virtqueue.c beside this file with clang, AddressSanitizer and
UndefinedBehaviorSanitizer, and runs it for that time. Inputs are what a guest,
its back end and its socket choose to do. An input that breaks a promise is
kept in the working directory, and how to repeat it is printed.

Needs clang with libFuzzer (on Debian: apt install clang), but neither
privilege nor pytest.
"""

import random
from collections.abc import Iterator

import libfuzzer


def inputs() -> Iterator[bytes]:
    """Random choices. With small numbers, the guest follows the rules for
    longer."""
    for seed in range(100):
        rng = random.Random(seed)
        yield rng.randbytes(libfuzzer.LONGEST)
        yield bytes(
            rng.randrange(99) for _ in range(rng.randrange(libfuzzer.LONGEST))
        )


def main() -> None:
    libfuzzer.main(__doc__, "_rawmmsg_virtqueue.c", {"virtqueue": inputs})


if __name__ == "__main__":
    main()

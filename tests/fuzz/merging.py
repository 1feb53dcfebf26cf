"""Merges random frames and compares the result with a plain model.

    python tests/fuzz/merging.py --frames 10000000

Builds merging.c beside this file and runs it. It makes batches of frames from
a few flows, many of them unusual in one respect, merges them, and compares
every byte and every offload header with what plain code says. Then it cuts
them again, and must get the frames that it had.

A batch that breaks a promise has a seed, which is printed with how to repeat
it.

Needs a C compiler, but neither privilege nor pytest.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
FLAGS: Final = (
    *("-std=c11", "-g", "-O2", "-Wall", "-Wextra", "-Werror"),
    *("-DRANDOM", f"-I{ROOT}"),
)
SANITIZERS: Final = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
)


def build(folder: Path, *, sanitize: bool) -> Path:
    """Builds the program from the sources of this tree."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        sys.exit("merging.py: there is no C compiler: apt install gcc")
    target = folder / "merging"
    sources = (HERE / "merging.c", ROOT / "_rawmmsg_offload.c")
    options = (*FLAGS, *(SANITIZERS if sanitize else ()))
    subprocess.run([compiler, *options, *sources, "-o", target], check=True)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--frames",
        type=int,
        default=1_000_000,
        help="how many frames to merge, at least (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="chooses the first batch (default: %(default)s)",
    )
    parser.add_argument(
        "--sanitize",
        action="store_true",
        help="build with AddressSanitizer and UndefinedBehaviorSanitizer",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        target = build(Path(name), sanitize=arguments.sanitize)
        done = subprocess.run(
            [target, str(arguments.seed), str(arguments.frames)],
            env=os.environ
            | {
                "ASAN_OPTIONS": "abort_on_error=1",
                "UBSAN_OPTIONS": "abort_on_error=1:print_stacktrace=1",
            },
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    print(done.stderr, end="", file=sys.stderr)
    if done.returncode != 0:
        seed = re.search(r"^seed: (\d+)$", done.stderr, re.MULTILINE)
        if seed is not None:
            option = " --sanitize" if arguments.sanitize else ""
            print(
                f"to repeat it: python tests/fuzz/merging.py --seed {seed[1]}"
                f" --frames 1{option}",
                file=sys.stderr,
            )
        sys.exit(1)


if __name__ == "__main__":
    main()

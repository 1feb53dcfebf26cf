"""Builds programs for libFuzzer from C code of this tree, and runs them."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
FLAGS: Final = [
    *("-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}"),
    "-fsanitize=fuzzer,address,undefined",
    "-fno-sanitize-recover=all",
]
LONGEST: Final = 4096
"""The most bytes of an input; what is made from it can have more."""

Inputs: TypeAlias = Callable[[], Iterable[bytes]]


def build(name: str, code: str, folder: Path) -> Path:
    """Builds a program: NAME.c in this folder, with the C file `code`."""
    clang = shutil.which("clang")
    if clang is None:
        sys.exit("there is no clang on PATH: apt install clang")
    target = folder / name
    sources = (HERE / f"{name}.c", ROOT / code)
    subprocess.run([clang, *FLAGS, *sources, "-o", target], check=True)
    return target


def fuzz(
    target: Path, first: Inputs, corpus: Path, found: Path, seconds: int
) -> int:
    """Runs it; returns its exit status."""
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(sorted(set(first()))):
        (corpus / f"first-{number:04}").write_bytes(content)
    done = subprocess.run(
        [
            target,
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST}",
            f"-artifact_prefix={found}/{target.name}-",
            *("-timeout=30", "-use_value_profile=1", "-verbosity=0"),
            *("-print_final_stats=1", corpus),
        ],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    print(f"{target.name}:", file=sys.stderr)
    for line in done.stderr.splitlines():
        if done.returncode != 0 or line.startswith("stat::"):
            print(line, file=sys.stderr)
    return done.returncode


def repeat(target: Path, paths: list[Path]) -> int:
    """Runs the inputs that an earlier run of it has kept. Their names begin
    with its own."""
    chosen = [path for path in paths if path.name.startswith(target.name)]
    if not chosen:
        return 0
    return subprocess.run([target, *chosen]).returncode


def keep(found: Path) -> None:
    """Copies inputs that break a promise to the working directory."""
    for path in found.iterdir():
        kept = Path.cwd() / path.name
        shutil.copy(path, kept)
        print(f"to repeat it: python {sys.argv[0]} {kept}", file=sys.stderr)


def main(description: str, code: str, programs: Mapping[str, Inputs]) -> None:
    """Fuzzes a C file. `programs` has the names of programs in this folder,
    and their inputs to begin with."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--seconds",
        type=int,
        default=60,
        help="how long to run each program (default: %(default)s)",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="DIR",
        help="folder of inputs to begin with, to which new ones are added: a"
        " folder in it for each program",
    )
    parser.add_argument(
        "inputs",
        type=Path,
        nargs="*",
        metavar="INPUT",
        help="run only these inputs, which an earlier run has kept",
    )
    arguments = parser.parse_args()
    status = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = folder / "found"
        found.mkdir()
        corpus = arguments.corpus or folder / "corpus"
        for program, first in programs.items():
            target = build(program, code, folder)
            status = status or (
                repeat(target, arguments.inputs)
                if arguments.inputs
                else fuzz(
                    *(target, first, corpus / program),
                    *(found, arguments.seconds),
                )
            )
        keep(found)
    sys.exit(status)

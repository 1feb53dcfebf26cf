"""Rounds of a fuzzer, each in a new process and network namespace."""

import argparse
import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final

from rawmmsg.testing import enter_namespace

HANGS: Final = 180
"""Seconds that a round may take."""


def run_rounds(description: str, run_round: Callable[[int], None]) -> None:
    """Calls it with one seed after the other, as the command line says. Ends
    the program at the first round that fails."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    for name, default, words in (
        ("--seed", 1, "chooses what the first round does"),
        ("--seconds", 60.0, "how long to run, at least one round"),
    ):
        parser.add_argument(
            name,
            type=type(default),
            default=default,
            help=f"{words} (default: %(default)s)",
        )
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    seed = args.seed
    while True:
        if not _supervise(seed, run_round):
            sys.exit(1)
        seed += 1
        if time.monotonic() >= deadline:
            break
    print(f"rounds: {seed - args.seed}")


def _supervise(seed: int, run_round: Callable[[int], None]) -> bool:
    """Runs one round in a new process; returns whether it succeeded."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 0
        try:
            enter_namespace()
            faulthandler.enable()
            faulthandler.dump_traceback_later(HANGS, exit=True)
            run_round(seed)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    if status:
        print(
            f"The process ended with status {status}. Again: python"
            f" {sys.argv[0]} --seed {seed} --seconds 0",
            file=sys.stderr,
        )
    return status == 0

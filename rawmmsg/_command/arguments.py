"""Values and options on the command line, for argparse."""

import argparse
from collections.abc import Callable

__all__ = ["LONGEST", "add_output", "number"]

LONGEST = 1_000_000
"""The longest time that may be given, in seconds."""


def add_output(command: argparse.ArgumentParser) -> None:
    """Adds --duration, --stats and --quiet."""
    command.add_argument(
        "--duration",
        type=number(float, LONGEST),
        metavar="SECONDS",
        help="end after SECONDS seconds",
    )
    command.add_argument(
        "--stats",
        type=number(float, LONGEST),
        metavar="SECONDS",
        help="print statistics every SECONDS seconds, even if standard error "
        "is not a terminal (default: every second, only on a terminal)",
    )
    command.add_argument(
        "-q", "--quiet", action="store_true", help="print only errors"
    )


def number(
    kind: type[int] | type[float], largest: int
) -> Callable[[str], float]:
    """Returns a function that converts text to a number for argparse."""

    def convert(text: str) -> float:
        value = kind(text)
        if not 0 < value <= largest:
            raise argparse.ArgumentTypeError(
                f"{text} must be greater than 0 and at most {largest:,}"
            )
        return value

    convert.__name__ = "number"  # for argparse's error message
    return convert

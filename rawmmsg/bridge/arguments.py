"""Values on the command line, for argparse."""

import argparse
from collections.abc import Callable
from typing import TypeVar

__all__ = ["LONGEST", "add_common", "mode", "number", "owner"]

_T = TypeVar("_T")

LONGEST = 1_000_000
"""The longest time that may be given, in seconds."""

_LARGEST_BATCH = 1024


def add_common(command: argparse.ArgumentParser) -> None:
    """Adds what all commands that join ports have."""
    command.add_argument(
        "--batch",
        type=number(int, _LARGEST_BATCH),
        metavar="N",
        help="receive at most N frames with one system call (default: 64, or "
        "8 while frames are large)",
    )
    command.add_argument(
        "--spin",
        type=_spin,
        default=0.0,
        metavar="MICROSECONDS",
        help="for MICROSECONDS after frames have arrived, look for more "
        "without sleeping: they are forwarded sooner, but a CPU is busy all "
        "that time (default: sleep at once)",
    )
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


def mode(text: str) -> int:
    from .ports import parse_mode

    return _converted(parse_mode, text)


def owner(text: str) -> tuple[int, int]:
    from .ports import parse_owner

    return _converted(parse_owner, text)


def _spin(text: str) -> float:
    from .ports import parse_spin

    return _converted(parse_spin, text)


def _converted(convert: Callable[[str], _T], text: str) -> _T:
    """argparse shows the message of this error only."""
    try:
        return convert(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None

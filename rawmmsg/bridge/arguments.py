"""Options of all commands that join ports, for argparse."""

import argparse
from collections.abc import Callable
from typing import TypeVar

from .._command.arguments import add_output, number

__all__ = ["add_common", "mode", "owner"]

_T = TypeVar("_T")

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
    add_output(command)


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

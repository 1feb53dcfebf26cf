"""Values on the command line, for argparse."""

import argparse
from collections.abc import Callable
from typing import TypeVar

__all__ = ["LONGEST", "mode", "number", "owner"]

_T = TypeVar("_T")

LONGEST = 1_000_000
"""The longest time that may be given, in seconds."""


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


def _converted(convert: Callable[[str], _T], text: str) -> _T:
    """argparse shows the message of this error only."""
    try:
        return convert(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None

"""Values on the command line, for argparse."""

import argparse
import grp
import pwd
import re
from collections.abc import Callable

__all__ = ["LONGEST", "mode", "number", "owner"]

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
    if not re.fullmatch(r"0?[0-7]{1,3}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an octal mode, such as 660"
        )
    return int(text, 8)


def owner(text: str) -> tuple[int, int]:
    """Converts USER, USER:GROUP or :GROUP to a uid and a gid. -1 means that
    one is not given."""
    user, _, group = text.partition(":")
    try:
        if not (user or group):
            raise KeyError
        return (
            _look_up(user, lambda: pwd.getpwnam(user).pw_uid),
            _look_up(group, lambda: grp.getgrnam(group).gr_gid),
        )
    except KeyError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: this machine has no such user or group"
        ) from None


def _look_up(name: str, find: Callable[[], int]) -> int:
    if not name:
        return -1
    return int(name) if re.fullmatch(r"[0-9]{1,9}", name) else find()

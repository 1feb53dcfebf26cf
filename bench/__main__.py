"""`python -m bench MEASUREMENT`, in a private network namespace."""

import argparse
import inspect
import sys
from collections.abc import Sequence
from typing import Final

from rawmmsg.testing import enter_namespace, in_namespace

from . import loop, stride
from .slices import CLOCKS

MEASUREMENTS: Final = {"loop": loop, "stride": stride}


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--slices", type=int, default=200, help="of each side (200)"
    )
    parser.add_argument(
        "--slice-ms", type=float, default=10, help="their length (10)"
    )
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: leave out the time that other processes take, and with"
        " CONFIG_IRQ_TIME_ACCOUNTING what the kernel does for the receiver",
    )
    parser.add_argument("--cpu", type=int, help="where to run")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench")
    commands = parser.add_subparsers(required=True, metavar="MEASUREMENT")
    for name, measurement in MEASUREMENTS.items():
        text = inspect.getdoc(measurement) or ""
        command = commands.add_parser(
            name, description=text, help=text.partition("\n")[0]
        )
        add_common_arguments(command)
        measurement.add_arguments(command)
        command.set_defaults(run=measurement.run)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if not in_namespace():
        try:
            enter_namespace()
        except OSError as error:
            sys.exit(error.strerror)
    options.run(options)


if __name__ == "__main__":
    main()

"""The command `rawmmsg`, also `python -m rawmmsg`."""

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .demo import run_demo


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns the exit code: 0, 1 for a failure, 2 for
    a command line that makes no sense."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except OSError as error:
        print(f"rawmmsg: {error.strerror or error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rawmmsg",
        description="Direct packet I/O in batches, from the command line.",
    )
    parser.add_argument(
        "--version", action="version", version=f"rawmmsg {__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="send and receive through a private pair of interfaces, and "
        "compare with the stdlib's socket",
        description="Sends numbered frames and receives a part of them "
        "through a kernel filter, on a veth pair in a network namespace of "
        "its own: no real interface is touched, and no privilege needed "
        "where user namespaces are allowed. Verifies every frame.",
    )
    demo.set_defaults(run=lambda _: run_demo())
    return parser

"""`rawmmsg doctor [IFACE]`."""

import argparse
from collections.abc import Callable, Iterable, Iterator

from .finding import CHECKS, Finding

__all__ = ["add_doctor"]

_MORE_HELP = """\
Each line begins with "ok", "note" or "problem", and the name of the check. A
line below it, which begins with ">", is the remedy. A note is about something
that only some programs need, or that could not be looked at.

Without an interface, doctor looks at this machine: privileges, namespaces,
buffers, the kernel, time stamping, and all packet sockets. With an interface,
it looks at its link, its offloads, its queues, and the packet sockets on it as
well. Counters of losses are read twice; what grows meanwhile is a problem.

It needs no privilege, and says what it could not look at. It changes nothing:
it sets options on sockets of its own only, sends one datagram to itself over
the loopback interface, and never makes an interface promiscuous.

Exit code: 0 if there is no problem, 1 if there is one, 2 for wrong arguments.
"""

_LONGEST = 3600
_LARGEST = 2**30
_DEFAULT_RCVBUF = 8 << 20  # of RawSocket


def add_doctor(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Adds the subcommand to the parser of `rawmmsg`."""
    command = commands.add_parser(
        "doctor",
        help="find out why packets are not received or sent, or are lost",
        description="Look at this machine, and at an interface if one is "
        "given, and print what prevents packets from being received or sent, "
        "or where they are lost, each with its remedy.",
        epilog=_MORE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "interface",
        nargs="?",
        metavar="IFACE",
        help="the interface to look at",
    )
    command.add_argument(
        "--check",
        action="append",
        default=[],
        choices=CHECKS,
        metavar="NAME",
        help="run only this check; can be given several times: "
        f"{', '.join(CHECKS)}",
    )
    command.add_argument(
        "--json",
        action="store_true",
        help="print an array of objects with the keys check, severity, "
        "message, remedy and values",
    )
    command.add_argument(
        "--seconds",
        type=_number(float, 0, _LONGEST),
        default=1.0,
        metavar="SECONDS",
        help="time between the two readings of the counters (default: 1)",
    )
    command.add_argument(
        "--rcvbuf",
        type=_number(int, 1, _LARGEST),
        default=_DEFAULT_RCVBUF,
        metavar="BYTES",
        help="the receive buffer that your program asks for (default: "
        f"{_DEFAULT_RCVBUF}, as RawSocket does)",
    )
    command.add_argument(
        "--sndbuf",
        type=_number(int, 1, _LARGEST),
        metavar="BYTES",
        help="the send buffer that your program asks for (default: the "
        "kernel's)",
    )
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    # Not at the top: `rawmmsg filter` need not wait for these.
    from .plan import Plan, examine
    from .printing import as_json, summary

    plan = Plan(
        interface=arguments.interface,
        only=frozenset(arguments.check),
        seconds=arguments.seconds,
        rcvbuf=arguments.rcvbuf,
        sndbuf=arguments.sndbuf,
    )
    if arguments.json:
        findings = list(examine(plan))
        print(as_json(findings))
    else:
        findings = list(_shown(examine(plan)))
        print(summary(findings))
    return int(any(finding.severity == "problem" for finding in findings))


def _shown(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Prints each finding as soon as it is known."""
    from .printing import as_text

    for finding in findings:
        print(as_text(finding), flush=True)
        yield finding


def _number(
    kind: type[int] | type[float], smallest: int, largest: int
) -> Callable[[str], float]:
    """Returns a function that converts text to a number for argparse."""

    def convert(text: str) -> float:
        value = kind(text)
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(
                f"{text} must be {smallest} to {largest:,}"
            )
        return value

    convert.__name__ = "number"  # for argparse's error message
    return convert

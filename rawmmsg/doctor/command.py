"""`rawmmsg doctor [IFACE]`."""

import argparse
import io
import sys
from collections.abc import Callable, Iterable, Iterator

from .finding import CHECKS, CHECKS_OF_INTERFACE, Finding

__all__ = ["add_doctor"]

_MORE_HELP = """\
Report:

Each line begins with ok, note or problem, and the name of the check. A note is
about something that matters to some programs only, or that doctor could not
look at. A line that begins with > is the remedy.

Checks:

Of the machine:

    privileges   the right to open packet sockets (CAP_NET_RAW)
    namespaces   the right to make private networks, for tests and the demo
    buffers      the receive buffer that the kernel grants
    kernel       features that the kernel lacks
    stamping     another process that makes the kernel time-stamp all packets

Of the interface IFACE:

    interface    whether it is here, or in another network namespace
    link         up, carrier, MTU
    promiscuity  whether promiscuous mode has an effect
    offloads     super-frames (up to 64 KiB), and sockets that truncate them
    qdisc        frames dropped in the output queue
    drops        packets lost in the interface or its driver

Of the packet sockets on IFACE, or on all interfaces, and of the machine:

    filters      filters that reject every packet
    sockets      packets lost because the queue of a socket was full
    softnet      packets lost in the queues of the CPUs

Counters are read twice, SECONDS apart, or when Ctrl-C is pressed. If one grows
meanwhile, that is a problem; earlier losses are a note.

Run it while your program runs: the counters of a socket end with the socket.

Doctor needs no privilege. It changes nothing: it sets options on sockets of
its own only, sends one datagram to itself over the loopback interface, and
never makes an interface promiscuous.

Exit status:

    0  there is no problem
    1  there is at least one problem
    2  a wrong argument

Examples:

Find out why no packets arrive on eth0:

    rawmmsg doctor eth0

Count for ten seconds what the sockets on eth0 lose:

    rawmmsg doctor eth0 --check sockets --seconds 10
"""

_LONGEST = 3600
_LARGEST = 2**30 - 1  # the kernel doubles it, in an int


def add_doctor(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Adds the subcommand to the parser of `rawmmsg`."""
    command = commands.add_parser(
        "doctor",
        help="find out why packets are not received or sent, or are lost",
        description="Print why packets are not received or sent, or where "
        "they are lost, and the\nremedies.",
        epilog=_MORE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "interface",
        nargs="?",
        metavar="IFACE",
        help="the interface to look at (default: only the machine and its "
        "packet sockets)",
    )
    command.add_argument(
        "--check",
        action="append",
        default=[],
        choices=CHECKS,
        metavar="NAME",
        help="run only this check (see below); can be given several times",
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
        metavar="BYTES",
        help="report a problem if the kernel grants a smaller receive buffer "
        "(default: a note if it grants less than RawSocket's 8 MiB)",
    )
    command.add_argument(
        "--sndbuf",
        type=_number(int, 1, _LARGEST),
        metavar="BYTES",
        help="report a problem if the kernel grants a smaller send buffer "
        "(default: the send buffer is not checked)",
    )
    command.set_defaults(run=_run, parser=command)


def _run(arguments: argparse.Namespace) -> int:
    # Not at the top: `rawmmsg filter` need not wait for these.
    from .plan import Plan, examine
    from .printing import as_json, summary

    if arguments.interface is None:
        for name in arguments.check:
            if name in CHECKS_OF_INTERFACE:
                arguments.parser.error(f"--check {name} needs IFACE")
    if isinstance(sys.stdout, io.TextIOWrapper):  # None: it is closed (>&-)
        # Names may have characters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
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

"""The command `rawmmsg`, also `python -m rawmmsg`."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from . import __version__
from .bpf import FilterError, compile
from .bridge.command import add_bridge
from .bridge.switching.command import add_switch
from .doctor.command import add_doctor
from .recording.command import add_record
from .replay.command import add_replay

_MORE_HELP = """\
Exit status:

    0  success
    1  failure; a message on standard error says what is wrong
    2  wrong arguments

Examples:

Send and receive in a private network, without root:

    rawmmsg demo

Show the program that the kernel runs for a filter:

    rawmmsg filter 'tcp port 80 and not vlan'

Join two interfaces until Ctrl-C:

    rawmmsg bridge eth0 eth1

Join two interfaces and a virtual machine, as a switch:

    rawmmsg switch eth0 eth1 vhost-user:vm

Record what eth0 receives and sends, until Ctrl-C:

    rawmmsg record eth0 trace.pcapng

Send it again:

    rawmmsg replay trace.pcapng eth0

Find out why packets on eth0 are not received, or are lost:

    rawmmsg doctor eth0
"""

_MORE_DEMO_HELP = """\
Exit status:

    0  every frame arrived unchanged
    1  frames were lost or changed, or the demo could not run

Examples:

    rawmmsg demo
"""

_MORE_FILTER_HELP = """\
Exit status:

    0  the expression was compiled
    1  the expression is wrong; a message on standard error shows where
    2  wrong arguments

Examples:

Show the instructions that the kernel runs for each packet:

    rawmmsg filter arp

Print the program of an expression with brackets, which the shell must not
change, as C structs:

    rawmmsg filter -dd 'udp and (port 53 or port 5353)'

Compile for a capture file, whose frames still contain their VLAN tags:

    rawmmsg filter --file vlan 5 and ip
"""

# tcpdump's names of link types, and the kernel's numbers (linux/if_arp.h).
_LINK_TYPES = {"EN10MB": 1, "RAW": 65534}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns its exit code: 1 after a failure, 2 for
    wrong arguments."""
    arguments = build_parser().parse_args(argv)
    try:
        code = int(arguments.run(arguments))
        if sys.stdout is not None:  # None: the descriptor is closed (>&-)
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has closed the pipe (| head). The interpreter flushes
        # again when it exits, and that must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # as shells say
    except OSError as error:
        print(f"rawmmsg: {error.strerror or error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line. The manual pages, the
    completion of shells and the reference are made from it."""
    parser = argparse.ArgumentParser(
        prog="rawmmsg",
        description="Tools for rawmmsg, a library that sends and receives "
        "many network packets\nwith one system call. `rawmmsg COMMAND --help` "
        "explains a command.",
        epilog=_MORE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"rawmmsg {__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="send and receive on a private pair of interfaces, and compare "
        "with Python's own sockets",
        description="""\
Send numbered frames through a pair of virtual interfaces, receive half of them
through a filter in the kernel, check every frame, and compare rawmmsg with
Python's own sockets.

The demo runs in a network namespace of its own, so it uses no real interface.
It needs no privilege if user namespaces are allowed, and takes four seconds.
""",
        epilog=_MORE_DEMO_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.set_defaults(run=_demo)
    _add_filter(commands)
    add_bridge(commands)
    add_switch(commands)
    add_record(commands)
    add_replay(commands)
    add_doctor(commands)
    return parser


def _demo(_: argparse.Namespace) -> int:
    from .demo import run_demo

    return run_demo()


def _add_filter(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    command = commands.add_parser(
        "filter",
        help="compile a filter expression and print its program",
        description="Compile a filter expression, as in pcap-filter(7), for "
        "an AF_PACKET\nsocket, and print the BPF program as tcpdump -d does.",
        epilog=_MORE_FILTER_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "-d",
        dest="form",
        action="count",
        default=0,
        help="print the program as assembler text (the default); -dd: as C "
        "structs; -ddd: as decimal numbers",
    )
    command.add_argument(
        "--file",
        action="store_true",
        help="compile for a capture file, in which VLAN tags are part of the "
        "frame (the kernel removes them before a socket receives the frame)",
    )
    command.add_argument(
        "-y",
        dest="link_type",
        choices=_LINK_TYPES,
        default="EN10MB",
        help="link type: packets begin with an Ethernet header (EN10MB, the "
        "default) or with an IP header, as on a tun device (RAW)",
    )
    command.add_argument(
        "expression",
        nargs="*",
        metavar="EXPRESSION",
        help="the filter expression, in one or more arguments; without it, "
        "the program accepts every packet",
    )
    command.set_defaults(run=_print_filter)


def _print_filter(arguments: argparse.Namespace) -> int:
    try:
        program = compile(
            " ".join(arguments.expression),
            link_type=_LINK_TYPES[arguments.link_type],
            live=not arguments.file,
        )
    except FilterError as error:
        print(f"rawmmsg: {error}", file=sys.stderr)
        return 1
    print(program.dump("d" * min(max(arguments.form, 1), 3)))
    return 0

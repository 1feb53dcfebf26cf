"""`rawmmsg switch PORT PORT [PORT ...]`."""

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING, TextIO

from ..._command.arguments import LONGEST, number
from ..._command.messages import fail, keep_quiet, say, signals
from ..arguments import add_common

if TYPE_CHECKING:
    from .output import Output
    from .switch import Switch

__all__ = ["add_switch"]

_MORE_HELP = """\
Ports:

A port is the name of an interface, or KIND:FIELD[,FIELD][,OPTION]...:

    eth0                     an Ethernet interface
    interface:NAME           the same, with options
    tap:NAME                 a tap for a virtual machine: the switch makes it,
                             and removes it at the end
    vhost-user:PATH          the memory of a virtual machine: the switch
                             creates the path PATH, and QEMU connects to it
    unix:LOCAL,REMOTE        a Unix datagram socket: the switch creates the
                             path LOCAL, the peer creates the path REMOTE
    udp:HOST:PORT,HOST:PORT  a UDP socket: local address, remote address
    stream:unix:PATH         a Unix stream socket to which the switch connects
                             (QEMU, passt); four bytes of length precede each
                             frame
    stream:HOST:PORT         the same, with TCP
    fd:N                     descriptor N, which the parent process opened

In a field or a value, a comma is written twice. Options of all ports:

    name=NAME                name in messages and statistics (default: the
                             interface, or the kind and a number, such as
                             unix1)
    spin=MICROSECONDS        as --spin, after frames of this port
    access=VLAN              the port of a machine that knows nothing of VLANs:
                             its frames are in this VLAN, and have no tags
    trunk=VLAN+VLAN...       frames with tags of these VLANs (default: all)
    native=VLAN              the VLAN of frames without a tag (default: 1; with
                             trunk=: none)
    isolated                 no frames pass between two isolated ports
    flood=FRAMES_PER_SECOND  flood at most so many frames from this port
    queue=FRAMES             how many frames wait for this port at most, if it
                             is slower than others (default: 256)
    plain                    cut super-frames that arrive at this port, and
                             complete checksums, even if the output takes
                             super-frames

Options of some ports:

    netns=NAME           (interface) its network namespace: a name, as of
                         `ip netns`, or a path
    wait                 (interface) it may be missing at the start, or be
                         deleted and made again
    listen               (stream) the peer connects to the switch
    connect              (vhost-user) QEMU creates the path
    trust-memory         (vhost-user) accept memory that another program could
                         shrink
    mode=OCTAL           (unix, vhost-user, stream with listen) permissions of
                         the path that the switch creates, such as 660
    owner=USER[:GROUP]   (the same) its owner; (tap) who may open the tap

Forwarding:

The switch learns behind which port a station is from the frames that it sends.
It forwards a frame to the port of its destination, and floods it (sends it to
all other ports) if the destination is not known, or is a group. It knows up to
8,192 stations; for a new one, it forgets the one that was silent for the
longest time.

Only 0x8100 marks a tag. A tag with VLAN 0 has only a priority: its frame is in
the native VLAN. Frames with VLAN 4095 are dropped.

A port that is slower than others keeps nobody waiting: frames wait for it in a
queue, and are dropped if that is full.

Recordings:

A file of --record has two interfaces: NAME:in has the frames that the switch
receives from the port, NAME:out those that it sends there, super-frames in one
piece. If the file cannot be written any more, the switch goes on without it.
The file must not be a pipe, whose reader could stop the switch.

Statistics:

Every second, a line on the terminal has these columns, as far as they fit:

    frames/s   frames received per second, by all ports
    Mbit/s     the same in megabits, without the gaps between frames
    flooded/s  frames per second that went to all other ports
    dropped    frames and copies dropped since the line before
    stations   known addresses

Then come the ports that receive most, with their frames per second. SIGUSR1
prints the address table. The summary at the end has, for each port:

    frames received          from this port
    frames forwarded         of these, passed to at least one other port
    frames filtered          of these, already behind the right port
    received frames dropped  of these, passed to no port, with the reasons
    copies for this port     frames that other ports have passed to it
    copies dropped           of these, not sent, with the reasons

These are the reasons, besides those of `rawmmsg bridge --help`:

    vlan         the port is not a member of the VLAN
    no port      no other port may get it: none is a member of the VLAN, or
                 all that are members are isolated
    isolated     both ports are isolated
    link local   --no-link-local
    flood limit  the option flood= of the port

All of this goes to standard error. With --json, only objects of JSON go to
standard output, one a line. The objects in "ports" have these names:

    received        frames received, and made by cutting at a plain port
    bytes, calls    bytes of these; system calls that received them
    forwarded       passed to at least one other port
    flooded         of these, passed to all other ports
    filtered        already behind the right port
    dropped         passed to no port: an object with a count by reason
    kernel_dropped  dropped by the kernel before they were received
    copies          frames that other ports have passed to this one
    made            how many more there are after cutting super-frames
    joined          how many fewer there are after merging
    sent, waiting   sent; waiting in the queue of the port
    copies_dropped  copies not sent: an object with a count by reason

These add up:

    received = forwarded + filtered + the sum of dropped
    copies + made - joined = sent + waiting + the sum of copies_dropped

"stations" counts addresses: known now, learned, moved to another port, aged
(silent for too long), and displaced by new ones. "time" is in seconds since
1970.

Exit status:

    0  the switch ended after SIGINT, SIGTERM or --duration
    1  a port could not be opened, or all ports have disappeared
    2  a wrong argument or port

Examples:

Join two interfaces and a virtual machine until Ctrl-C:

    rawmmsg switch eth0 eth1 vhost-user:vm

Record what a virtual machine receives and sends:

    rawmmsg switch eth0 vhost-user:vm,name=vm --record vm=vm.pcapng

Connect two virtual machines to VLAN 5 of a trunk:

    rawmmsg switch eth0 unix:sw1,vm1,access=5 unix:sw2,vm2,access=5
"""

_MOST_STATIONS = 1_000_000

# Seconds between two attempts to print what a slow reader has not taken.
_FLUSH = 0.25


def add_switch(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Adds the subcommand to the parser of `rawmmsg`."""
    command = commands.add_parser(
        "switch",
        help="forward frames between any number of interfaces and virtual "
        "machines, by their addresses and VLANs",
        description="Forward Ethernet frames between ports, as a switch with "
        "VLANs does.",
        epilog=_MORE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("first", metavar="PORT", help="a port")
    command.add_argument(
        "others", metavar="PORT", nargs="+", help="the other ports"
    )
    command.add_argument(
        "--ageing",
        type=number(float, LONGEST),
        default=300,
        metavar="SECONDS",
        help="forget a station that has sent nothing for SECONDS seconds "
        "(default: 300)",
    )
    command.add_argument(
        "--stations",
        type=number(int, _MOST_STATIONS),
        default=8192,
        metavar="N",
        help="know at most N stations (default: 8192)",
    )
    command.add_argument(
        "--no-link-local",
        action="store_true",
        help="drop frames to the addresses 01:80:c2:00:00:00 to :0f, which "
        "LACP, LLDP and STP use (default: flood them)",
    )
    command.add_argument(
        "--no-merge",
        action="store_true",
        help="do not merge TCP segments that go from a socket to an interface "
        "into super-frames",
    )
    command.add_argument(
        "--json",
        type=number(float, LONGEST),
        metavar="SECONDS",
        help="print all counts every SECONDS seconds, and at the end, on "
        "standard output, as a line of JSON",
    )
    command.add_argument(
        "--record",
        type=_recording,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="record the frames that the port with this name receives and "
        "sends in a pcapng file; can be given several times",
    )
    add_common(command)
    command.set_defaults(run=_run)


def _recording(text: str) -> tuple[str, str]:
    name, _, file = text.partition("=")
    if not name or not file or file == "-":
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the name of a port and a file: NAME=FILE"
        )
    return name, file


def _run(arguments: argparse.Namespace) -> int:
    from ..ports import PortError
    from .switch import Switch

    try:
        # Before a port is opened: then SIGUSR1 does not end the process.
        with (
            signals(signal.SIGUSR1) as wake,
            Switch(
                *(arguments.first, *arguments.others),
                ageing=arguments.ageing,
                stations=arguments.stations,
                link_local=not arguments.no_link_local,
                merge=not arguments.no_merge,
                batch=arguments.batch,
                spin=arguments.spin,
                record=_files(arguments),
                report=say,
                notice=keep_quiet if arguments.quiet else say,
            ) as switch,
        ):
            return _run_switch(switch, arguments, wake)
    except PortError as error:
        say(str(error))
        return 2
    except OSError as error:
        return fail(error)


def _files(arguments: argparse.Namespace) -> dict[str, str]:
    """The file in which each port is recorded."""
    from ..ports import PortError

    files = dict(arguments.record)
    if len(files) < len(arguments.record):
        raise PortError("--record: two files are given for one port")
    if len(set(map(os.path.realpath, files.values()))) < len(files):
        raise PortError("--record: two ports are given for one file")
    return files


def _run_switch(
    switch: "Switch", arguments: argparse.Namespace, wake: int
) -> int:
    from ..._command.terminal import is_terminal, print_line
    from ..ports import PortError
    from .display import Reporter, Ticker, addresses, summary

    for name, _ in arguments.record:
        if name not in switch.ports:
            raise PortError(
                f"--record: no port has the name {name}; the ports are"
                f" {', '.join(switch.ports)}"
            )
    if arguments.duration is not None:
        switch.every(arguments.duration, switch.end)
    errors = _output(switch, sys.stderr)
    if errors is not None:
        show = errors.put
        switch.on_signal(signal.SIGUSR1, lambda: show(addresses(switch)))
    reporter = None
    lines = None if arguments.json is None else _output(switch, sys.stdout)
    if lines is not None:
        reporter = Reporter(switch, lines)
        switch.every(arguments.json, reporter.show)
    if not arguments.quiet:
        if errors is not None and (
            arguments.stats is not None or is_terminal()
        ):
            ticker = Ticker(switch, errors)
            switch.every(arguments.stats or 1.0, ticker.show)
        say(f"switching between {', '.join(switch.ports)}")
    try:
        switch.run(wake)
    finally:
        if reporter is not None:
            reporter.finish()
        if errors is not None:
            errors.finish()
        if not arguments.quiet:
            for name, counts in switch.statistics().items():
                print_line(summary(name, counts))
    return 0 if switch.ports else 1


def _output(switch: "Switch", stream: TextIO | None) -> "Output | None":
    """Returns an output that writes what is left while the switch runs. None
    if the stream is closed."""
    from .output import Output

    if stream is None:
        return None
    output = Output(stream.fileno(), stream.encoding)
    switch.every(_FLUSH, output.flush)
    return output

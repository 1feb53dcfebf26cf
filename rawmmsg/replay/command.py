"""`rawmmsg replay FILE IFACE`."""

import argparse
import errno
import math
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .._command.arguments import LONGEST, add_output, number
from .._command.messages import fail, keep_quiet, name_file, name_port, say

if TYPE_CHECKING:
    from .._rawmmsg import RawSocket
    from ..bpf import Program
    from ..pacing.pace import Pace
    from ..pcap import Reader
    from .edits import Edits
    from .packets import Packets
    from .player import Player, Watch

__all__ = ["add_replay"]

_MORE_HELP = """\
Recording:

FILE is in the format pcap or pcapng, as tcpdump, Wireshark and rawmmsg record
write it. Its packets must begin with an Ethernet header. A packet that the
recording has only a part of (as with tcpdump -s) is skipped and counted.

A packet that the interface does not take, because it is longer than the MTU
allows, is skipped, too, and counted as refused. Recordings of a machine whose
network card cuts super-frames often have such packets.

Interface:

IFACE is the name of an interface, or interface:NAME,netns=NETNS for one in
another network namespace: a name, as of `ip netns`, or a path.

Pace:

Each packet has a time at which it is due, so single delays do not add up.
Packets that are due within 0.2 ms leave together. After a delay of up to one
second, rawmmsg replay catches up at no more than twice the pace. A packet that
was recorded with an earlier time than the one before follows it at once, and
so does the first packet of the next round (--loop).

Two interfaces:

With --split, the packets of one direction are sent on another interface. If
the recording has two interfaces, those are the packets of the second one, and
packets of any further ones are skipped and counted. If it has one interface,
they are the packets that this interface had sent. --split-filter chooses them
by an expression instead. The order of all packets stays as it was recorded;
with --merge, only that of each direction does.

Privileges:

To open an interface, rawmmsg replay needs CAP_NET_RAW (root has it). It opens
the file first, and gives up all capabilities before it sends.

Statistics:

The lines of statistics and the summary go to standard error:

    packets/s  packets sent per second
    Mbit/s     megabits of packets sent per second
    refused    packets that the kernel did not take
    sent       packets sent since the beginning
    file       the number of the round (#2), and how much of it has been read

Exit status:

    0  all packets were sent, except those that are counted as skipped or
       refused; or SIGINT, SIGTERM, --limit or --duration ended the command
    1  the interface could not be opened, or went down; or the file could not
       be read, or is damaged. The packets before the damage were sent.
    2  a wrong argument or filter

Examples:

Send a recording as it was recorded:

    rawmmsg replay trace.pcapng eth0

Send it ten times as fast, and again and again until Ctrl-C:

    rawmmsg replay trace.pcapng eth0 --speed 10 --loop 0

Send it as fast as possible, to another station:

    rawmmsg replay trace.pcapng eth0 --top-speed --dst-mac 02:00:00:00:00:0b

Put a device between eth0 and eth1, and send what the clients had sent on eth0,
and what the servers had sent on eth1:

    rawmmsg replay trace.pcapng eth0 --split eth1 --split-filter 'src port 443'
"""

_MOST = 10**12

_MAC = re.compile(
    r"[0-9a-f]{1,2}(?:([:-])[0-9a-f]{1,2})(?:\1[0-9a-f]{1,2}){4}"
)
_MOST_VLAN = 4094

_KEPT = 32 << 20
"""The most bytes of a file that is prepared once, and then sent several
times."""


def add_replay(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Adds the subcommand to the parser of `rawmmsg`."""
    command = commands.add_parser(
        "replay",
        help="send the packets of a recording",
        description="Send the packets of a recording, at the times of the "
        "recording or at another\npace.",
        epilog=_MORE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "file", metavar="FILE", help="the recording; - for standard input"
    )
    command.add_argument(
        "interface", metavar="IFACE", help="the interface (see below)"
    )
    _add_pace(command)
    _add_amount(command)
    _add_changes(command)
    add_output(command)
    command.set_defaults(run=_run, parser=command)


def _add_pace(command: argparse.ArgumentParser) -> None:
    pace = command.add_mutually_exclusive_group()
    pace.add_argument(
        "--speed",
        type=number(float, LONGEST),
        default=1.0,
        metavar="FACTOR",
        help="send FACTOR times as fast as recorded (default: 1)",
    )
    pace.add_argument(
        "--pps",
        type=number(float, _MOST),
        metavar="N",
        help="send N packets per second",
    )
    pace.add_argument(
        "--mbps",
        type=number(float, _MOST),
        metavar="N",
        help="send N megabits of packets per second",
    )
    pace.add_argument(
        "--top-speed",
        action="store_true",
        help="send as fast as the kernel takes packets",
    )


def _add_amount(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--loop",
        type=_rounds,
        default=1,
        metavar="N",
        help="send the recording N times; 0: until Ctrl-C (default: 1)",
    )
    command.add_argument(
        "--limit",
        type=number(int, _MOST),
        metavar="N",
        help="end after N packets, in all rounds together; those that are "
        "refused count, those that are skipped do not",
    )
    command.add_argument(
        "--merge",
        action="store_true",
        help="send consecutive packets of a TCP or UDP flow that are due "
        "together as one super-frame, which is cut into the same packets "
        "later",
    )


def _add_changes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--split",
        metavar="IFACE",
        help="send the packets of one direction on this interface (see below)",
    )
    command.add_argument(
        "--split-filter",
        metavar="EXPRESSION",
        help="send the packets that match this pcap-filter(7) expression on "
        "the interface of --split",
    )
    for option, what in (("dst", "destination"), ("src", "source")):
        command.add_argument(
            f"--{option}-mac",
            type=_addresses,
            metavar="MAC[,MAC]",
            help=f"replace the {what} address of each packet; the second "
            "address is for the packets on the interface of --split",
        )
    command.add_argument(
        "--vlan",
        type=_vlan,
        metavar="ID",
        help="give each packet an 802.1Q tag of VLAN ID, in place of one that "
        "it has; none: take this tag away",
    )


def _rounds(text: str) -> int:
    value = int(text)
    if not 0 <= value <= _MOST:
        raise argparse.ArgumentTypeError(f"{text} must be 0 to {_MOST:,}")
    return value


_rounds.__name__ = "number"  # for argparse's error message


def _addresses(text: str) -> list[bytes]:
    addresses = text.lower().split(",")
    if len(addresses) > 2 or not all(map(_MAC.fullmatch, addresses)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not MAC or MAC,MAC, where a MAC is such as"
            " 02:00:00:00:00:01"
        )
    return [
        bytes(int(part, 16) for part in re.split("[:-]", address))
        for address in addresses
    ]


def _vlan(text: str) -> int:
    from .edits import WITHOUT_TAG

    if text == "none":
        return WITHOUT_TAG
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_VLAN:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the number of a VLAN, 1 to {_MOST_VLAN}, or none"
        )
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    from .._command.grammar import PortError
    from .._command.privileges import give_up
    from ..bpf import FilterError
    from ..pcap import Reader, RecordingError
    from .packets import LinkTypeError
    from .sides import SplitError

    _check(arguments)
    name = "standard input" if arguments.file == "-" else arguments.file
    try:
        with ExitStack() as opened, _sigterm_as_interrupt():
            program = _compile(arguments.split_filter)
            reader = opened.enter_context(Reader(arguments.file))
            if arguments.loop != 1 and not reader.is_mapped:
                arguments.parser.error(
                    "--loop needs a file that can be read again, not a pipe"
                )
            sockets = [
                opened.enter_context(_open(interface, arguments.merge))
                for interface in (arguments.interface, arguments.split)
                if interface is not None
            ]
            give_up(None)
            return _replay(reader, name, sockets, program, arguments)
    except (FilterError, PortError) as error:
        say(str(error))
        return 2
    except RecordingError as error:
        say(str(error))
        return 1
    except (LinkTypeError, SplitError) as error:
        say(f"{name}: {error}")
        return 1
    except OSError as error:
        name_file(error)
        return fail(error)


def _check(arguments: argparse.Namespace) -> None:
    """Ends the program if options do not fit together."""
    error = arguments.parser.error
    if arguments.split is None:
        if arguments.split_filter is not None:
            error("--split-filter needs --split IFACE")
        for addresses in (arguments.dst_mac, arguments.src_mac):
            if addresses is not None and len(addresses) > 1:
                error("a second MAC needs --split IFACE")


def _compile(expression: str | None) -> "Program | None":
    from ..bridge.filters import for_datagrams

    return for_datagrams(expression)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Lets SIGTERM end the command as Ctrl-C does. A descriptor to wait for
    would not do: while standard input is read, only an exception ends the
    read."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _open(text: str, vnet_hdr: bool) -> "RawSocket":
    from .._command.grammar import PortError, read_interface
    from .._rawmmsg import RawSocket
    from ..pcap import link_type_of

    written = read_interface(text)
    (name,) = written.fields
    try:
        sock = RawSocket(
            name,
            netns=written.options.get("netns"),
            protocol=0,
            vnet_hdr=vnet_hdr,
        )
    except ValueError as error:
        raise PortError(str(error)) from None
    except OSError as error:
        if error.errno == errno.ENETDOWN:
            error.strerror = f"the interface is down: ip link set {name} up"
        name_port(name, error)
        raise
    sock.setblocking(False)
    try:
        is_ethernet = link_type_of(sock.link_type or 0) == 1
    except ValueError:
        is_ethernet = False
    if not is_ethernet:
        sock.close()
        raise PortError(f"{name}: not an Ethernet interface")
    return sock


def _pace(arguments: argparse.Namespace, reader: "Reader") -> "Pace":
    from ..pacing.pace import choose_pace
    from .packets import time_since_first

    pps, mbps = arguments.pps, arguments.mbps
    is_other = arguments.top_speed or pps is not None or mbps is not None
    return choose_pace(
        pps=pps,
        mbps=mbps,
        inter=None,
        realtime=0 if is_other else arguments.speed,
        time_of=time_since_first(reader),
    )


def _edits(arguments: argparse.Namespace) -> "list[Edits]":
    """One for each interface."""
    from .edits import Edits

    sides = 1 if arguments.split is None else 2
    destinations = arguments.dst_mac or [None]
    sources = arguments.src_mac or [None]
    return [
        Edits(
            destinations[min(side, len(destinations) - 1)],
            sources[min(side, len(sources) - 1)],
            arguments.vlan,
        )
        for side in range(sides)
    ]


def _replay(
    reader: "Reader",
    name: str,
    sockets: "list[RawSocket]",
    program: "Program | None",
    arguments: argparse.Namespace,
) -> int:
    from .._command.terminal import print_line
    from .display import skipped_lines, summary
    from .edits import Editor
    from .packets import Packets
    from .player import Merging, Player, Watch
    from .sides import ByFilter, ByRecording

    pace = _pace(arguments, reader)
    keep = arguments.loop != 1 and (reader.size or 0) <= _KEPT
    editors = [
        Editor(edits, keep=keep) if edits else None
        for edits in _edits(arguments)
    ]
    splitter: ByFilter | ByRecording | None = None
    if program is not None:
        splitter = ByFilter(program)
    elif arguments.split is not None:
        splitter = ByRecording(reader)
    packets = Packets(reader, pace, editors, splitter)
    notice = keep_quiet if arguments.quiet else say
    merging = None
    if arguments.merge:
        merging = Merging(keep and not pace.is_limited, notice)
    watch = Watch(arguments.duration or math.inf)
    player = Player(sockets, pace, merging, watch)
    interfaces = [str(sock.interface) for sock in sockets]
    notice(f"replaying {name} on {' and '.join(interfaces)}")
    _wake_up_exactly()
    try:
        return _play(player, watch, reader, packets, keep, arguments)
    finally:
        if not arguments.quiet:
            rows = zip(
                interfaces, player.results(), player.frames(), strict=True
            )
            for row in rows:
                print_line(summary(*row))
            for line in skipped_lines(packets.skipped, reader):
                print_line(line)


def _wake_up_exactly() -> None:
    """Lets the kernel not delay the end of a sleep by 50 us, which it does to
    wake up less often (prctl(2), PR_SET_TIMERSLACK)."""
    with suppress(OSError):  # /proc is not mounted, or read-only
        Path("/proc/self/timerslack_ns").write_text("1")


def _play(
    player: "Player",
    watch: "Watch",
    reader: "Reader",
    packets: "Packets",
    keep: bool,
    arguments: argparse.Namespace,
) -> int:
    from .._command.terminal import is_terminal
    from .display import Ticker
    from .passes import Limit, in_passes

    passes = in_passes(packets, arguments.loop, keep=keep)
    if arguments.limit is not None:
        passes = Limit(arguments.limit).apply(passes)
    if not arguments.quiet and (arguments.stats is not None or is_terminal()):
        ticker = Ticker(player, packets, reader)
        watch.every(arguments.stats or 1.0, ticker.show)
    try:
        player.play(passes)
    except OSError as error:
        if error.errno in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO):
            error.strerror = "the interface is down, or was deleted"
        raise
    return 0

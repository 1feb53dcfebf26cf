"""`rawmmsg record IFACE FILE [EXPRESSION]`."""

import argparse
import errno
import math
import os
import sys
import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from .._command.arguments import LONGEST, add_output, number
from .._command.messages import fail, name_file, name_port, say, signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._command.privileges import User
    from .._rawmmsg import RawSocket
    from ..pcap import Writer
    from .files import Files, Rotation
    from .recorder import Recorder

__all__ = ["add_record"]

_MORE_HELP = """\
Interface:

IFACE is the name of an interface, or interface:NAME,netns=NETNS for one in
another network namespace: a name, as of `ip netns`, or a path. The interface
may be down; its frames are recorded when it is up.

Files:

With -C or -G, FILE is only the pattern of the names: trace.pcapng stands for
trace_00001_20261130235959.pcapng, with the number of the file and the local
time at which it was begun. Wireshark shows such files as a set. A file ends
with the frame with which it reaches its size, or at its time. If no frames
arrive, the next file is begun later, with the first frame.

If the disk is full, rawmmsg record cuts the file back to its last whole block,
and ends. If it is killed, only the last block can be incomplete. If FILE is a
pipe and its reader takes nothing, it ends three seconds after SIGINT or
SIGTERM, and the end of the recording is missing.

The files are in the format pcapng, with the name of the interface, the filter,
the direction of each frame, and how many frames the kernel has dropped. Such a
number is written as soon as it is known, so the dropped frames are missing
some frames later: those that were waiting in the queue.

Privileges:

To open an interface, rawmmsg record needs CAP_NET_RAW (root has it). Then it
gives up all capabilities, but keeps the user, so that it can create files in
the folders of this user. Root without capabilities cannot create files in the
folders of others: use --user there.

Super-frames:

Network cards, and virtual interfaces, pass packets of up to 64 KiB that are
cut into segments later, or were merged from segments. They are recorded in one
piece, and outgoing frames without the checksums that the network card would
fill in. With --cut, the file has the segments, with their checksums, as they
would be on a wire; each has the time stamp of its super-frame.

Statistics:

The lines of statistics and the summary go to standard error:

    frames/s     frames recorded per second
    Mbit/s       megabits recorded per second
    dropped      frames that the kernel dropped because the queue was full
    frames/call  average number of frames received by one system call
    file         megabytes written to all files

Exit status:

    0  the recording ended after SIGINT, SIGTERM, -c or --duration
    1  the interface or a file could not be opened; the interface disappeared;
       or a file could not be written
    2  a wrong argument or filter

Examples:

Record eth0 until Ctrl-C:

    rawmmsg record eth0 trace.pcapng

Record the next hundred frames that are not SSH:

    rawmmsg record -c 100 eth0 trace.pcapng not tcp port 22

Keep the last ten files of 100 million bytes:

    rawmmsg record -C 100 -W 10 eth0 trace.pcapng

Show what arrives:

    rawmmsg record eth0 - | tshark -r -
"""

_LONGEST_PACKET = 262_144  # as of tcpdump
_LARGEST_BUFFER = 2**20 - 1  # KiB: the kernel doubles it, in an int
_BUFFER = 64 * 1024
_MOST = 10**12


def add_record(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Adds the subcommand to the parser of `rawmmsg`."""
    command = commands.add_parser(
        "record",
        help="record what an interface receives and sends in a file",
        description="Record the frames that an interface receives and sends "
        "in a file, with time\nstamps in nanoseconds.",
        epilog=_MORE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "interface", metavar="IFACE", help="the interface (see below)"
    )
    command.add_argument(
        "file",
        metavar="FILE",
        help="the file to write, which is replaced if it exists; - for "
        "standard output",
    )
    command.add_argument(
        "expression",
        nargs="*",
        metavar="EXPRESSION",
        help="record only frames that match this pcap-filter(7) expression, "
        "in one or more arguments",
    )
    _add_what(command)
    _add_files(command)
    _add_how(command)
    command.set_defaults(run=_run, parser=command)


def _add_what(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-c",
        dest="count",
        type=number(int, _MOST),
        metavar="COUNT",
        help="end after COUNT frames",
    )
    command.add_argument(
        "-s",
        dest="snap_length",
        type=number(int, _LONGEST_PACKET),
        default=_LONGEST_PACKET,
        metavar="BYTES",
        help="record only the first BYTES bytes of each frame, and its length "
        f"(default: {_LONGEST_PACKET})",
    )
    command.add_argument(
        "--cut",
        action="store_true",
        help="cut super-frames into the frames that a wire would carry, and "
        "complete their checksums (see below)",
    )
    command.add_argument(
        "-p",
        dest="promisc",
        action="store_false",
        help="do not make the interface promiscuous",
    )


def _add_files(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-C",
        dest="size",
        type=number(float, LONGEST),
        metavar="MEGABYTES",
        help="begin a new file when one has MEGABYTES million bytes",
    )
    command.add_argument(
        "-G",
        dest="seconds",
        type=number(float, LONGEST),
        metavar="SECONDS",
        help="begin a new file after SECONDS seconds",
    )
    command.add_argument(
        "-W",
        dest="keep",
        type=number(int, LONGEST),
        metavar="FILES",
        help="keep the last FILES files: delete the oldest one when a new one "
        "is begun (default: keep all)",
    )
    command.add_argument(
        "--format",
        choices=("pcapng", "pcap"),
        default="pcapng",
        help="pcap is for programs that do not read pcapng; it has no place "
        "for names, directions and dropped frames (default: pcapng)",
    )


def _add_how(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--time",
        choices=("software", "hardware"),
        default="software",
        help="whose clock stamps the frames: the kernel's, or that of the "
        "network card, which the administrator must have switched on "
        "(default: software)",
    )
    command.add_argument(
        "-B",
        dest="buffer",
        type=number(int, _LARGEST_BUFFER),
        default=_BUFFER,
        metavar="KIB",
        help="size of the receive buffer in KiB (default: "
        f"{_BUFFER}); without CAP_NET_ADMIN, net.core.rmem_max limits it",
    )
    command.add_argument(
        "-Z",
        "--user",
        type=_user,
        metavar="USER",
        help="become USER after the interface was opened, and before the "
        "first file is created (default: only give up all capabilities)",
    )
    add_output(command)


def _user(text: str) -> "User":
    from .._command.privileges import User

    try:
        return User.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _run(arguments: argparse.Namespace) -> int:
    from .._command.grammar import PortError
    from ..bpf import FilterError
    from .stalls import not_for_ever

    rotation = _rotation(arguments)
    try:
        with (
            signals() as wake,
            not_for_ever(arguments.file),
            _open(arguments) as sock,
        ):
            return _record(sock, rotation, arguments, wake)
    except (FilterError, PortError) as error:
        say(str(error))
        return 2
    except BrokenPipeError:
        raise  # the reader of standard output has seen enough
    except OSError as error:
        name_file(error)
        return fail(error)


def _rotation(arguments: argparse.Namespace) -> "Rotation":
    from .files import Rotation

    rotation = Rotation(keep=arguments.keep)
    if arguments.size is not None:
        rotation = replace(rotation, size=arguments.size * 1e6)
    if arguments.seconds is not None:
        rotation = replace(rotation, seconds=arguments.seconds)
    error = arguments.parser.error
    if arguments.keep is not None and not rotation.is_on:
        error("-W needs -C or -G")
    if not arguments.file:
        error("the name of FILE must not be empty")
    if arguments.file == "-":
        if rotation.is_on:
            error("-C and -G need a FILE, not standard output")
        if sys.stdout is None or sys.stdout.isatty():
            error("standard output must be a file or a pipe, not a terminal")
    return rotation


def _open(arguments: argparse.Namespace) -> "RawSocket":
    """Opens the socket. Nothing can change its filter afterwards."""
    from .._command.grammar import PortError, read_interface
    from .._rawmmsg import RawSocket

    written = read_interface(arguments.interface)
    (name,) = written.fields
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            sock = RawSocket(
                name,
                netns=written.options.get("netns"),
                filter=" ".join(arguments.expression) or None,
                promisc=arguments.promisc,
                addresses=True,
                timestamps=arguments.time,
                vnet_hdr=arguments.cut or None,
                rcvbuf=arguments.buffer * 1024,
                allow_down=True,
            )
    except ValueError as error:
        raise PortError(str(error)) from None
    except OSError as error:
        name_port(name, error)
        raise
    if not arguments.quiet:
        for warning in caught:
            say(str(warning.message))
    sock.setblocking(False)
    sock.lock_filter()
    return sock


def _record(
    sock: "RawSocket",
    rotation: "Rotation",
    arguments: argparse.Namespace,
    wake: int,
) -> int:
    from .._command.terminal import print_line
    from .display import summary
    from .files import Files
    from .recorder import Recorder

    make_writer = _writers(sock, arguments)
    _give_up(arguments.user)
    files = Files(arguments.file, rotation, make_writer)
    recorder = Recorder(
        sock,
        files,
        snap_length=arguments.snap_length,
        most=arguments.count or math.inf,
        clock_of_interface=arguments.time == "hardware",
    )
    _open_first(files, arguments.user)
    where = "standard output" if arguments.file == "-" else files.path
    if not arguments.quiet:
        say(f"recording {sock.interface} to {where}")
    try:
        return _run_recorder(recorder, arguments, wake)
    finally:
        if not arguments.quiet:
            print_line(summary(f"{sock.interface} > {where}", recorder))


def _writers(
    sock: "RawSocket", arguments: argparse.Namespace
) -> "Callable[[str], Writer]":
    """Returns what creates a file. Raises PortError if frames of the interface
    cannot be recorded."""
    from .._command.grammar import PortError
    from ..pcap import Interface, Writer, link_type_of

    try:
        link_type = link_type_of(sock.link_type or 0)
    except ValueError as error:
        raise PortError(f"{sock.interface}: {error}") from None
    interface = Interface(
        link_type,
        arguments.snap_length,
        name=sock.interface or "",
        filter=" ".join(arguments.expression),
    )
    return partial(
        Writer,
        interfaces=[interface],
        format=arguments.format,
        link_type=link_type,
        snap_length=arguments.snap_length,
    )


def _give_up(user: "User | None") -> None:
    """Gives up all capabilities, and becomes another user."""
    from .._command.privileges import give_up

    try:
        give_up(user)
    except OSError as error:
        wish = "give up all capabilities"
        if user is not None:
            wish = f"become the user {user.name} and {wish}"
        error.strerror = f"cannot {wish}: {error.strerror}"
        raise


def _open_first(files: "Files", user: "User | None") -> None:
    try:
        files.open()
    except PermissionError as error:
        if os.geteuid() == 0 and user is None:
            error.add_note(
                "rawmmsg record has given up root's right to write into the"
                " folders of others; name their owner with --user"
            )
        raise


def _run_recorder(
    recorder: "Recorder", arguments: argparse.Namespace, wake: int
) -> int:
    from .._command.terminal import is_terminal
    from .display import Ticker

    if not arguments.quiet and (arguments.stats is not None or is_terminal()):
        recorder.every(arguments.stats or 1.0, Ticker(recorder).show)
    try:
        recorder.run(wake, arguments.duration or math.inf)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        say(f"{error.filename} has disappeared")
        return 1
    return 0

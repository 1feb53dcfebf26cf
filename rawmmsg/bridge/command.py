"""`rawmmsg bridge A B`."""

import argparse
import errno
import grp
import os
import pwd
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loop import Bridge
    from .ports import Access, Port

__all__ = ["add_bridge"]

_PORTS = """\
A and B are each the name of an Ethernet interface, or a socket that carries
one frame in each message:

  eth0                        an Ethernet interface
  unix:LOCAL,REMOTE           a datagram socket: the bridge creates the path
                              LOCAL, the peer the path REMOTE
  udp:HOST:PORT,HOST:PORT     a UDP socket: local and remote address
  fd:N                        descriptor N, which the parent process opened: a
                              packet, datagram or SOCK_SEQPACKET socket

Between interfaces, super-frames and unfinished checksums pass unchanged,
except that SCTP's checksums are completed. Before a frame goes to a socket, a
super-frame is cut into segments, and checksums are completed. The bridge
changes no setting of an interface.

The bridge runs until SIGINT or SIGTERM (exit code 0), or until an interface
disappears or the peer of a SOCK_SEQPACKET socket closes it (exit code 1).
Statistics and the summary go to standard error.
"""


_LARGEST_BATCH = 1024
_LONGEST = 1_000_000


def add_bridge(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Adds the subcommand to the parser of `rawmmsg`."""
    command = commands.add_parser(
        "bridge",
        help="switch frames between two interfaces, or an interface and a "
        "virtual machine",
        description="Moves every Ethernet frame that enters at one of two "
        "ports to the other port.",
        epilog=_PORTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("a", metavar="A", help="one port")
    command.add_argument("b", metavar="B", help="the other port")
    for way, port in (("ab", "A"), ("ba", "B")):
        command.add_argument(
            f"--filter-{way}",
            metavar="EXPRESSION",
            help=f"take only frames that match this pcap-filter(7) "
            f"expression at {port}",
        )
    command.add_argument(
        "--mode",
        type=_mode,
        metavar="OCTAL",
        help="permissions of the path LOCAL, such as 660; a peer needs write "
        "permission (default: 777 less the umask)",
    )
    command.add_argument(
        "--owner",
        type=_owner,
        metavar="USER[:GROUP]",
        help="owner of the path LOCAL (default: the user who runs the bridge)",
    )
    command.add_argument(
        "--batch",
        type=_number(int, _LARGEST_BATCH),
        metavar="N",
        help="receive up to N frames with one system call (default: 64, or 8 "
        "while frames are large)",
    )
    command.add_argument(
        "--duration",
        type=_number(float, _LONGEST),
        metavar="SECONDS",
        help="end after SECONDS",
    )
    command.add_argument(
        "--stats",
        type=_number(float, _LONGEST),
        metavar="SECONDS",
        help="print statistics every SECONDS seconds, even if standard error "
        "is not a terminal (default: every second on a terminal)",
    )
    command.add_argument(
        "-q", "--quiet", action="store_true", help="print errors only"
    )
    command.set_defaults(run=_run)


def _number(
    kind: type[int] | type[float], largest: int
) -> Callable[[str], float]:
    """Returns a converter for argparse: to a number above 0."""

    def convert(text: str) -> float:
        value = kind(text)
        if not 0 < value <= largest:
            raise argparse.ArgumentTypeError(
                f"{text} is not above 0 and at most {largest:,}"
            )
        return value

    convert.__name__ = "number"  # what argparse calls it in its message
    return convert


def _mode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{1,3}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an octal mode, such as 660"
        )
    return int(text, 8)


def _owner(text: str) -> tuple[int, int]:
    """The numbers of USER, USER:GROUP or :GROUP; -1 for one that is not
    given."""
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


def _run(arguments: argparse.Namespace) -> int:
    from ..bpf import FilterError
    from .ports import Access, PortError, UnixSocket, parse_port

    try:
        access = _access(arguments)
        a = parse_port(arguments.a, access)
        b = parse_port(arguments.b, access)
        if access != Access() and not (
            isinstance(a, UnixSocket) or isinstance(b, UnixSocket)
        ):
            raise PortError("--mode and --owner are for a unix: port")
        with ExitStack() as opened, _signals() as wake:
            for port, expression in (
                (a, arguments.filter_ab),
                (b, arguments.filter_ba),
            ):
                _open(port, expression)
                opened.callback(port.close)
            if a.is_same(b):
                raise PortError(f"{a.name} and {b.name} are the same port")
            return _bridge(a, b, arguments, wake)
    except (FilterError, PortError) as error:
        _say(str(error))
        return 2
    except OSError as error:
        return _fail(error)


def _access(arguments: argparse.Namespace) -> "Access":
    from .ports import Access

    user, group = arguments.owner or (-1, -1)
    return Access(arguments.mode, user, group)


def _open(port: "Port", expression: str | None) -> None:
    """An error says which port it is about."""
    try:
        port.open(expression)
    except OSError as error:
        error.strerror = f"{port.name}: {error.strerror}"
        raise


def _bridge(
    a: "Port", b: "Port", arguments: argparse.Namespace, wake: int
) -> int:
    from .console import Ticker, is_terminal, say, summary
    from .loop import Bridge

    bridge = Bridge(a, b, arguments.batch)
    if arguments.duration is not None:
        bridge.every(arguments.duration, bridge.end)
    if not arguments.quiet:
        if arguments.stats is not None or is_terminal():
            ticker = Ticker(bridge.directions)
            bridge.every(arguments.stats or 1.0, ticker.show)
        _say(f"bridging {a.name} and {b.name}")
        for port in (a, b):
            missing = port.missing()
            if missing is not None:
                _say(f"{missing}; waiting for it")
    try:
        return _run_bridge(bridge, wake)
    finally:
        if not arguments.quiet:
            for direction in bridge.directions:
                say(summary(direction))


def _run_bridge(bridge: "Bridge", wake: int) -> int:
    from .ports import PortClosed

    try:
        bridge.run(wake)
    except PortClosed as error:
        _say(str(error))
        return 1
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        _say(f"{error.filename} has disappeared")
        return 1
    return 0


def _fail(error: OSError) -> int:
    from .console import say

    _say(error.strerror or str(error))
    for note in getattr(error, "__notes__", ()):
        say(note)
    return 1


def _say(message: str) -> None:
    from .console import say

    say(f"rawmmsg: {message}")


@contextmanager
def _signals() -> Iterator[int]:
    """A descriptor that can be read once SIGINT or SIGTERM has come, however
    long before it is looked at."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    # Before the handlers, which do nothing: what came in between would be
    # lost.
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield reader
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous)
        os.close(reader)
        os.close(writer)

"""`rawmmsg bridge A B`."""

import argparse
import errno
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from .._command.messages import fail, keep_quiet, name_port, say, signals
from .arguments import add_common, mode, owner

if TYPE_CHECKING:
    from .loop import Bridge
    from .merging import Merging
    from .ports import Access, GuestOptions, Port

__all__ = ["add_bridge"]

_MORE_HELP = """\
Ports:

A and B are ports. A port is an Ethernet interface, the memory of a virtual
machine, or a socket that carries frames:

    eth0                     an Ethernet interface
    interface:NAME           the same, with options
    tap:NAME                 a tap for a virtual machine: the bridge makes it,
                             and removes it at the end
    vhost-user:PATH          the memory of a virtual machine: the bridge
                             creates the path PATH, and QEMU connects to it
    unix:LOCAL,REMOTE        a Unix datagram socket: the bridge creates the
                             path LOCAL, the peer creates the path REMOTE
    udp:HOST:PORT,HOST:PORT  a UDP socket: local address, remote address
    stream:unix:PATH         a Unix stream socket to which the bridge connects;
                             four bytes of length precede each frame
    stream:HOST:PORT         the same, with TCP
    fd:N                     descriptor N, which the parent process opened: a
                             packet, datagram or SOCK_SEQPACKET socket

Options follow, each after a comma, such as vhost-user:vm,mode=660,name=vm.
A comma inside a path or a name is written twice:

    name=NAME            the name of the port in messages and statistics
    netns=NAME           (interface) the network namespace of the interface: a
                         name, as of `ip netns`, or a path
    wait                 (interface) the interface may be missing at the start,
                         or be deleted and made again
    listen               (stream) the peer connects to the bridge
    connect              (vhost-user) QEMU creates the path
    trust-memory         (vhost-user) as --trust-memory
    mode=OCTAL           (unix, vhost-user, stream with listen) as --mode
    owner=USER[:GROUP]   (the same) as --owner; (tap) who may open the tap
    spin=MICROSECONDS    as --spin, after frames of this port

Both interfaces are promiscuous while the bridge runs. The bridge changes no
other setting of an interface. To open an interface, it needs CAP_NET_RAW, and
to make a tap, CAP_NET_ADMIN (root has both).

Between interfaces and virtual machines, super-frames (packets that the network
card will cut into segments) pass in one piece. Before a frame goes to a
socket, or to a virtual machine whose driver does not take such frames, the
bridge fills in missing checksums, and cuts super-frames into segments. From a
socket to an interface or a virtual machine, it merges TCP segments into
super-frames, which the network card cuts into the same segments again. It
merges only what it has received with one system call, so no frame waits for
another.

With vhost-user, the bridge uses the memory of the virtual machine itself. That
memory must be shared, and sealed so that no program can shrink it, as QEMU's
memory-backend-memfd is. While no virtual machine is connected, frames to it
are dropped. While a virtual machine that is connected takes no frames, they
wait in the queue of the other port.

Statistics:

Statistics and the summary go to standard error. For each direction:

    frames/s     frames received from its first port, per second
    Mbit/s       megabits received from its first port, per second
    dropped      frames received, but not sent; or dropped by the kernel
                 before the bridge could receive them
    frames/call  average number of frames received by one system call

The summary counts frames as they were received. "more frames by segmentation"
came from super-frames that were cut. "merged into" says how many frames were
left after merging. These are the reasons for dropped frames:

    queue full      the output queue was full for 50 ms
    too long        longer than the output, the buffers of a virtual machine,
                    or the bridge can take
    link down       the output is down or missing, or no virtual machine or
                    peer is connected
    refused         the kernel refused the frame (nftables, tc, or no peer at
                    the other end of a socket)
    malformed       not an Ethernet frame, or its offload header does not fit
                    it
    from strangers  the sender is not the peer of the socket

Exit status:

    0  the bridge ended after SIGINT, SIGTERM or --duration
    1  a port could not be opened; an interface without the option wait
       disappeared; or the peer of a SOCK_SEQPACKET socket closed it
    2  a wrong argument, port or filter

Examples:

Join two interfaces until Ctrl-C:

    rawmmsg bridge eth0 eth1

Give a virtual machine the network of this machine, without root (passt):

    passt -f -s uplink
    rawmmsg bridge stream:unix:uplink vhost-user:vm

Connect a virtual machine to eth0, but keep SSH away from it:

    rawmmsg bridge eth0 unix:br,vm --filter-ab 'not tcp port 22'

QEMU makes the path vm, with these options:

    -device virtio-net,netdev=n -netdev \\
      dgram,id=n,local.type=unix,local.path=vm,remote.type=unix,remote.path=br

The same, but super-frames pass in one piece, and the kernel moves frames
directly between eth0 and the memory of the virtual machine:

    rawmmsg bridge eth0 vhost-user:vm --filter-ab 'not tcp port 22'

QEMU connects to the path vm, with these options:

    -object memory-backend-memfd,id=m,size=1G,share=on \\
    -machine q35,memory-backend=m -m 1G \\
    -chardev socket,id=c,path=vm,reconnect=1 \\
    -netdev vhost-user,id=n,chardev=c -device virtio-net,netdev=n
"""


# Seconds between two looks at a port that is missing at the start.
_LOOK = 0.25


def add_bridge(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Adds the subcommand to the parser of `rawmmsg`."""
    command = commands.add_parser(
        "bridge",
        help="forward frames between two interfaces, or between an interface "
        "and a virtual machine",
        description="Forward every Ethernet frame that arrives at one port "
        "to the other port.",
        epilog=_MORE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("a", metavar="A", help="one port")
    command.add_argument("b", metavar="B", help="the other port")
    for direction, source, sink in (("ab", "A", "B"), ("ba", "B", "A")):
        command.add_argument(
            f"--filter-{direction}",
            metavar="EXPRESSION",
            help=f"from {source} to {sink}, forward only frames that match "
            "this pcap-filter(7) expression, such as 'not port 22'",
        )
    command.add_argument(
        "--mode",
        type=mode,
        metavar="OCTAL",
        help="permissions of a path that the bridge creates (LOCAL, PATH of "
        "vhost-user:PATH, or PATH of stream:unix:PATH,listen), such as 660; "
        "the peer needs write permission (default: 777 less the umask)",
    )
    command.add_argument(
        "--owner",
        type=owner,
        metavar="USER[:GROUP]",
        help="owner of that path (default: the user who runs the bridge)",
    )
    command.add_argument(
        "--trust-memory",
        action="store_true",
        help="accept the memory of a virtual machine even if another program "
        "could shrink it: a file that is not sealed, or that has huge pages; "
        "if a program does so, the bridge ends (default: refuse such memory)",
    )
    merging = command.add_mutually_exclusive_group()
    merging.add_argument(
        "--merge",
        type=_protocols,
        default="tcp",
        metavar="PROTOCOLS",
        help="merge the frames of these protocols into super-frames when they "
        "go from a socket to an interface: tcp, or tcp,udp; if UDP is merged, "
        "a program with a packet socket on the far side may see several "
        "datagrams as one (default: tcp)",
    )
    merging.add_argument(
        "--no-merge",
        dest="merge",
        action="store_const",
        const=None,
        help="merge nothing",
    )
    add_common(command)
    command.set_defaults(run=_run)


def _protocols(text: str) -> frozenset[str]:
    names = text.split(",")
    if sorted(names) not in (["tcp"], ["tcp", "udp"]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a valid choice: use tcp, tcp,udp or --no-merge"
        )
    return frozenset(names)


def _run(arguments: argparse.Namespace) -> int:
    from ..bpf import FilterError
    from .ports import PortError, parse_port

    try:
        access, guest_options = _access(arguments), _guest_options(arguments)
        a = parse_port(arguments.a, access, guest_options)
        b = parse_port(arguments.b, access, guest_options)
        _check_options(arguments, (a, b))
        with ExitStack() as opened, signals() as wake:
            for port, expression in (
                (a, arguments.filter_ab),
                (b, arguments.filter_ba),
            ):
                _open(port, expression)
                opened.callback(port.close)
                port.spin = port.spin or arguments.spin
            if a.is_same(b):
                raise PortError(_same(a, b))
            if a.name == b.name:
                raise PortError(
                    f"both ports have the name {a.name}; name one of them"
                    " with the option name=NAME"
                )
            return _bridge(a, b, arguments, wake)
    except (FilterError, PortError) as error:
        say(str(error))
        return 2
    except OSError as error:
        return fail(error)


def _access(arguments: argparse.Namespace) -> "Access":
    from .ports import Access

    user, group = arguments.owner or (-1, -1)
    return Access(arguments.mode, user, group)


def _guest_options(arguments: argparse.Namespace) -> "GuestOptions":
    from .ports import GuestOptions

    notice = keep_quiet if arguments.quiet else say
    batch = arguments.batch or GuestOptions.batch
    return GuestOptions(say, notice, arguments.trust_memory, batch)


def _check_options(
    arguments: argparse.Namespace, ports: tuple["Port", "Port"]
) -> None:
    """Raises PortError for options that no port uses, and if both ports are
    the same guest: the second one could not be opened."""
    from .ports import Access, PortError, VhostUser

    guests = [port for port in ports if isinstance(port, VhostUser)]
    if len(guests) == 2 and guests[0].is_same(guests[1]):
        raise PortError(_same(*ports))
    if arguments.trust_memory and not guests:
        raise PortError("--trust-memory needs a vhost-user: port")
    makes_path = any(port.makes_path for port in ports)
    if _access(arguments) != Access() and not makes_path:
        raise PortError(
            "--mode and --owner need a port whose path the bridge creates:"
            " unix:LOCAL,REMOTE, vhost-user:PATH or stream:unix:PATH,listen"
        )


def _same(a: "Port", b: "Port") -> str:
    return f"{a.name} and {b.name} are the same port"


def _open(port: "Port", expression: str | None) -> None:
    """Opens the port. The message of an OSError names it."""
    try:
        port.open(expression)
    except OSError as error:
        name_port(port.name, error)
        raise


def _bridge(
    a: "Port", b: "Port", arguments: argparse.Namespace, wake: int
) -> int:
    from .._command.terminal import is_terminal, print_line
    from .console import Ticker, summary
    from .loop import Bridge

    bridge = Bridge(a, b, arguments.batch, _merging(arguments))
    if arguments.duration is not None:
        bridge.every(arguments.duration, bridge.end)
    if not arguments.quiet:
        if arguments.stats is not None or is_terminal():
            ticker = Ticker(bridge.directions)
            bridge.every(arguments.stats or 1.0, ticker.show)
        say(f"bridging {a.name} and {b.name}")
        waiting = set()
        for port in (a, b):
            missing = port.missing()
            if missing is not None:
                say(f"{missing}; waiting for it")
                waiting.add(port)
        if waiting:
            bridge.every(_LOOK, partial(_look_for, waiting))
    try:
        return _run_bridge(bridge, wake)
    finally:
        if not arguments.quiet:
            for direction in bridge.directions:
                print_line(summary(direction))


def _look_for(waiting: "set[Port]") -> None:
    """Tells once that a port which was missing is there."""
    for port in [port for port in waiting if port.missing() is None]:
        waiting.remove(port)
        if not port.tells_of_peers:
            say(f"{port.name} is ready")


def _merging(arguments: argparse.Namespace) -> "Merging | None":
    from .merging import Merging

    if arguments.merge is None:
        return None
    report = keep_quiet if arguments.quiet else say
    return Merging("udp" in arguments.merge, report)


def _run_bridge(bridge: "Bridge", wake: int) -> int:
    from .ports import PortClosed

    try:
        bridge.run(wake)
    except PortClosed as error:
        say(str(error))
        return 1
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        say(f"{error.filename} has disappeared")
        return 1
    return 0

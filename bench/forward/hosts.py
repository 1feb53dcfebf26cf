"""Two hosts, the ports of a forwarder between them, and iperf3 over TCP.

    host a                 here                  host b
    eth0 ------- veth ------- a.port   b.port ------- veth ------- eth0

A host is a network namespace of its own with one interface and an address. The
hosts reach each other through whatever joins the two ports, which are in the
caller's namespace.
"""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rawmmsg.testing import veth_pair

from ..lab import native, peers
from ..lab.contender import GroundTruthError

ADDRESSES: Final = ("192.0.2.1", "192.0.2.2")  # RFC 5737

# Without these a host sends only frames that fit a wire, with complete
# checksums, and merges none of the frames that it receives.
OFFLOADS: Final = ("tx", "tso", "gso", "gro")

PATIENCE: Final = 30.0  # seconds, for operations that take milliseconds

# Prints a line when it is ready. It ends with its standard input, and so with
# the process that started it.
_HOLD: Final = "ip link set lo up && echo ready && exec cat"


@dataclass(frozen=True)
class Host:
    """A machine at the end of a veth pair."""

    address: str  # IPv4
    port: str  # the interface here that leads to it
    pid: int  # of a process in its namespace

    def argv(self, command: Sequence[str]) -> list[str]:
        """The command line that runs a command on this host."""
        namespace = f"--net=/proc/{self.pid}/ns/net"
        return [peers.program("nsenter"), namespace, *command]

    def run(self, *command: str) -> str:
        """Runs a command on this host; returns what it prints."""
        return run(self.argv(command))

    def set_offloads(self, on: bool) -> None:
        """Chooses whether it may leave segmenting and checksums to its
        interface."""
        state = "on" if on else "off"
        settings = [word for name in OFFLOADS for word in (name, state)]
        self.run(peers.program("ethtool"), "-K", "eth0", *settings)

    def checksum_errors(self) -> int:
        """How many damaged TCP segments it has received."""
        text = Path(f"/proc/{self.pid}/net/snmp").read_text()
        # A line of names, and a line of values.
        names, values = (
            line.split()
            for line in text.splitlines()
            if line.startswith("Tcp:")
        )
        return int(values[names.index("InCsumErrors")])


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Makes two hosts, whose ports are up and not yet joined. Raises
    UnavailableError if a command is missing."""
    with contextlib.ExitStack() as stack:
        first, second = (
            stack.enter_context(_host(address)) for address in ADDRESSES
        )
        # A link carries frames a moment after both ends are up.
        wait_until(
            lambda: _is_up(first.port) and _is_up(second.port),
            "the link of a port is down",
        )
        yield first, second


@contextlib.contextmanager
def _host(address: str) -> Iterator[Host]:
    with veth_pair(up=False) as pair, host_of(pair.b, address, pair.a) as host:
        run([peers.program("ip"), "link", "set", pair.a, "up"])
        yield host


@contextlib.contextmanager
def host_of(interface: str, address: str, port: str) -> Iterator[Host]:
    """Makes a host of an interface, which is moved there."""
    ip = peers.program("ip")
    command = [peers.program("unshare"), "--net", "sh", "-c", _HOLD]
    with native.start(command) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        if not holder.stdout.readline():
            raise RuntimeError(f"{command}: {holder.stderr.read()}")
        host = Host(address, port, holder.pid)
        try:
            run([ip, "link", "set", interface, "netns", str(holder.pid)])
            host.run(ip, "link", "set", interface, "name", "eth0")
            # IPv6 would send frames of its own.
            host.run(ip, "link", "set", "eth0", "addrgenmode", "none")
            host.run(ip, "address", "add", f"{address}/24", "dev", "eth0")
            host.run(ip, "link", "set", "eth0", "up")
            yield host
        finally:
            holder.stdin.close()


def _is_up(port: str) -> bool:
    link = show(port)
    return bool(link["operstate"] == "UP" and link["qdisc"] != "noop")


def wait_until(condition: Callable[[], bool], problem: str) -> None:
    """Waits until `condition` holds; raises TimeoutError with the problem."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(problem)
        time.sleep(0.002)


def show(interface: str) -> Any:
    """What ip(8) prints about an interface."""
    command = [peers.program("ip"), "-json", "-details", "link", "show"]
    (link,) = json.loads(run([*command, interface]))
    return link


def wait_until_listening(
    ports: Iterable[str], program: "subprocess.Popen[str]"
) -> None:
    """Waits until `program`, which is starting, has packet sockets that listen
    on all these interfaces."""
    wanted = {str(socket.if_nametoindex(port)) for port in ports}

    def is_listening() -> bool:
        check_runs(program)
        # The sixth column says whether a socket receives, the fifth from which
        # interface (net/packet/af_packet.c:packet_seq_show()).
        text = Path("/proc/thread-self/net/packet").read_text()
        rows = [line.split() for line in text.splitlines()[1:]]
        return wanted <= {row[4] for row in rows if row[5] == "1"}

    wait_until(is_listening, f"{program.args!r} does not listen")


def check_runs(program: "subprocess.Popen[str]") -> None:
    """Raises RuntimeError with its words if a program has ended."""
    if program.poll() is not None:
        _, words = program.communicate()
        raise RuntimeError(f"{program.args!r} has ended: {words}")


def run(command: Sequence[str]) -> str:
    """Runs a command here; returns what it prints. Raises RuntimeError with
    its error message if it fails."""
    done = native.run(command)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


# ---- iperf3 ----------------------------------------------------------------


@dataclass(frozen=True)
class Transfer:
    """What iperf3 measured, in both directions together."""

    gigabits: float  # received per second
    retransmits: int


def transfer(client: Host, server: Host, amount: Sequence[str]) -> Transfer:
    """Sends TCP in both directions at once; raises the errors of iperf3()."""
    end = iperf3(client, server, ("--bidir", *amount))
    received = [end[key] for key in end if key.startswith("sum_received")]
    sent = [end[key] for key in end if key.startswith("sum_sent")]
    return Transfer(
        sum(one["bits_per_second"] for one in received) / 1e9,
        sum(one["retransmits"] for one in sent),
    )


def iperf3(client: Host, server: Host, options: Sequence[str]) -> Any:
    """Sends TCP; returns the part of iperf3's report about all of it.

    `options` are those of iperf3, such as how long ("-t", seconds) or how much
    ("-n", bytes). Raises GroundTruthError if iperf3 fails, for example because
    the hosts do not reach each other.
    """
    iperf3 = peers.program("iperf3")
    command = [iperf3, "--client", server.address, "--json"]
    # It ends after its first client.
    listener = native.start(
        server.argv([iperf3, "--server", "--one-off", "--forceflush"])
    )
    try:
        assert listener.stdout is not None
        if not any(one.startswith("Server list") for one in listener.stdout):
            raise GroundTruthError("iperf3 does not listen")
        done = native.run(client.argv([*command, *options]))
    except subprocess.TimeoutExpired as error:
        raise GroundTruthError(f"iperf3: {error}") from None
    finally:
        listener.kill()
        listener.communicate()
    report = json.loads(done.stdout or "{}")
    if "error" in report or "end" not in report:
        raise GroundTruthError(
            f"iperf3: {report.get('error')} {done.stderr.strip()}"
        )
    return report["end"]

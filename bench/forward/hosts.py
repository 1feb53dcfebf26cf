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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rawmmsg.testing import veth_pair

from ..lab import native, peers
from ..lab.contender import GroundTruthError

INTERFACE: Final = "eth0"

# For documentation (RFC 5737).
ADDRESSES: Final = ("192.0.2.1", "192.0.2.2")

# Without these a host sends only frames that fit a wire, with complete
# checksums, and merges none of the frames that it receives.
OFFLOADS: Final = ("tx", "tso", "gso", "gro")

PATIENCE: Final = 30.0  # seconds, for operations that take milliseconds
_TRANSFER_PATIENCE: Final = 60.0

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
        return [
            peers.program("nsenter"),
            f"--net=/proc/{self.pid}/ns/net",
            *command,
        ]

    def run(self, *command: str) -> str:
        """Runs a command on this host; returns what it prints."""
        return run(self.argv(command))

    def set_offloads(self, on: bool) -> None:
        """Chooses whether it may leave segmenting and checksums to its
        interface."""
        state = "on" if on else "off"
        settings = [word for name in OFFLOADS for word in (name, state)]
        self.run(peers.program("ethtool"), "-K", INTERFACE, *settings)

    def checksum_errors(self) -> int:
        """How many damaged TCP segments and datagrams it has received."""
        found = 0
        for path, protocols in (
            ("snmp", ("Tcp:", "Udp:", "Icmp:")),
            ("snmp6", ("Udp6", "Icmp6")),
        ):
            for name, value in _counters(self.pid, path):
                if name.startswith(protocols) and name.endswith("CsumErrors"):
                    found += value
        return found


def _counters(pid: int, path: str) -> Iterator[tuple[str, int]]:
    """The counters of /proc/net/snmp or snmp6 in a process's namespace."""
    file = Path(f"/proc/{pid}/net/{path}")
    lines = [line.split() for line in file.read_text().splitlines()]
    if path == "snmp6":
        for name, value in lines:
            yield name, int(value)
        return
    # A line of names, a line of values; both begin with the protocol.
    for (protocol, *names), (_, *values) in zip(
        lines[::2], lines[1::2], strict=True
    ):
        for name, value in zip(names, values, strict=True):
            yield protocol + name, int(value)


@contextlib.contextmanager
def two_hosts(mtu: int = 1500) -> Iterator[tuple[Host, Host]]:
    """Makes two hosts, whose ports are up and not yet joined. Raises
    UnavailableError if a command is missing."""
    with contextlib.ExitStack() as stack:
        first, second = (
            stack.enter_context(_host(address, mtu)) for address in ADDRESSES
        )
        for host in (first, second):
            _wait_for(host.port)
        yield first, second


@contextlib.contextmanager
def _host(address: str, mtu: int) -> Iterator[Host]:
    ip = peers.program("ip")
    command = [peers.program("unshare"), "--net", "sh", "-c", _HOLD]
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(_until_closed(command))
        pair = stack.enter_context(veth_pair(mtu=mtu, up=False))
        host = Host(address, pair.a, holder.pid)
        run([ip, "link", "set", pair.b, "netns", str(holder.pid)])
        host.run(ip, "link", "set", pair.b, "name", INTERFACE)
        # IPv6 would send frames of its own.
        host.run(ip, "link", "set", INTERFACE, "addrgenmode", "none")
        host.run(ip, "address", "add", f"{address}/24", "dev", INTERFACE)
        host.run(ip, "link", "set", INTERFACE, "up")
        run([ip, "link", "set", pair.a, "up"])
        yield host


@contextlib.contextmanager
def _until_closed(
    command: Sequence[str],
) -> Iterator[subprocess.Popen[str]]:
    """Runs a program that prints a line when it is ready, and ends with its
    standard input."""
    process = native.start(command)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if not process.stdout.readline():
            raise RuntimeError(f"{command}: {process.stderr.read()}")
        try:
            yield process
        finally:
            process.stdin.close()


def _wait_for(port: str) -> None:
    """Waits until a link carries frames, a moment after both ends are up."""
    command = [peers.program("ip"), "-json", "link", "show", port]
    deadline = time.monotonic() + PATIENCE
    while True:
        (link,) = json.loads(run(command))
        if link["operstate"] == "UP" and link["qdisc"] != "noop":
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{port} has no link")
        time.sleep(0.005)


def wait_until_listening(
    ports: Iterable[str], program: "subprocess.Popen[str]"
) -> None:
    """Waits until `program`, which is starting, has packet sockets that listen
    on all these interfaces."""
    wanted = {str(socket.if_nametoindex(port)) for port in ports}
    deadline = time.monotonic() + PATIENCE
    while not wanted <= _listening():
        if program.poll() is not None:
            _, words = program.communicate()
            raise RuntimeError(f"{program.args!r} has ended: {words}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{program.args!r} does not listen")
        time.sleep(0.002)


def _listening() -> set[str]:
    """The indexes of the interfaces that packet sockets receive from
    (net/packet/af_packet.c:packet_seq_show())."""
    text = Path("/proc/thread-self/net/packet").read_text()
    rows = [line.split() for line in text.splitlines()[1:]]
    return {row[4] for row in rows if row[5] == "1"}


def run(command: Sequence[str]) -> str:
    """Runs a command here; returns what it prints. Raises RuntimeError with
    its error message if it fails."""
    done = subprocess.run(
        command,
        env=native.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
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
    """Sends TCP in both directions at once.

    `amount` is iperf3's option for how long ("-t", seconds) or how much ("-n",
    bytes). Raises GroundTruthError if iperf3 fails, for example because the
    hosts do not reach each other.
    """
    iperf3 = peers.program("iperf3")
    command = [iperf3, "--client", server.address, "--json", "--bidir"]
    # It ends after its first client.
    listener = native.start(
        server.argv([iperf3, "--server", "--one-off", "--forceflush"])
    )
    try:
        _wait_for_server(listener)
        done = subprocess.run(
            client.argv([*command, *amount]),
            env=native.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=_TRANSFER_PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise GroundTruthError(f"iperf3: {error}") from None
    finally:
        listener.kill()
        listener.communicate()
    if not done.stdout:
        raise GroundTruthError(f"iperf3: {done.stderr}")
    return _parse(json.loads(done.stdout))


def _wait_for_server(listener: "subprocess.Popen[str]") -> None:
    assert listener.stdout is not None
    for line in listener.stdout:
        if line.startswith("Server listening"):
            return
    raise GroundTruthError("iperf3 does not listen")


def _parse(report: dict[str, Any]) -> Transfer:
    if "error" in report:
        raise GroundTruthError(f"iperf3: {report['error']}")
    end = report["end"]
    received = [key for key in end if key.startswith("sum_received")]
    sent = [key for key in end if key.startswith("sum_sent")]
    return Transfer(
        sum(end[key]["bits_per_second"] for key in received) / 1e9,
        sum(end[key]["retransmits"] for key in sent),
    )

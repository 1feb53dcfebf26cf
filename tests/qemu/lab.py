"""A host, which is this program, and a guest in QEMU, joined by a bridge:

the tests' namespace       the switch's namespace
this program, veth.a ===== veth.b, bridge ----- QEMU
"""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import image
from guest import PATIENCE, Guest, network_card, shared_memory_card
from support.linux import other_namespace

from rawmmsg.testing import veth_pair

_HOST_END: Final = "host"
_SWITCH_END: Final = "switch"

BRIDGE: Final = [sys.executable, "-m", "rawmmsg", "bridge"]


@dataclass(frozen=True)
class Family:
    """A version of IP, the two addresses, and the kernel's names of what it
    counts."""

    version: int
    kind: socket.AddressFamily
    host: str
    guest: str
    prefix: int
    sent: str
    received: str
    datagrams_refused: str


FAMILIES: Final = (
    Family(
        version=4,
        kind=socket.AF_INET,
        host="10.9.0.1",  # as in datagrams.Datagram
        guest="10.9.0.2",
        prefix=24,
        sent="Ip.OutRequests",
        received="Ip.InReceives",
        datagrams_refused="Udp.NoPorts",
    ),
    Family(
        version=6,
        kind=socket.AF_INET6,
        host="2001:db8::1",
        guest="2001:db8::2",
        prefix=64,
        sent="Ip6OutRequests",
        received="Ip6InReceives",
        datagrams_refused="Udp6NoPorts",
    ),
)

# How bridge and QEMU exchange frames: the name of the bridge's port, and the
# words for QEMU. Those for "vhost-user" are made by shared_memory_card().
TRANSPORTS: Final = {
    "unix": (
        "unix:bridge.sock,guest.sock",
        "dgram,id=net,local.type=unix,local.path=guest.sock,"
        "remote.type=unix,remote.path=bridge.sock",
    ),
    "udp": (
        "udp:127.0.0.1:7001,127.0.0.1:7002",
        "dgram,id=net,local.type=inet,local.host=127.0.0.1,local.port=7002,"
        "remote.type=inet,remote.host=127.0.0.1,remote.port=7001",
    ),
    "fd": ("fd:{}", "dgram,id=net,local.type=fd,local.str={}"),
    "vhost-user": ("vhost-user:card.sock", ""),
    "vhost-user,connect": ("vhost-user:card.sock,connect", ""),
}


class Lab:
    """Host, bridge and guest, running and with addresses. The context manager
    ends them all.

    guest       runs commands; each boot() replaces it
    interface   this program's end of the veth pair
    bridge_pid  the bridge's process

    `options` are those of the bridge.
    """

    guest: Guest
    _bridge: "subprocess.Popen[bytes]"

    def __init__(
        self,
        folder: Path,
        *,
        transport: str = "unix",
        mtu: int = 1500,
        options: Sequence[str] = (),
    ) -> None:
        self.mtu = mtu
        self._folder = folder
        self._log = folder / "bridge.log"
        self._port, self._netdev = TRANSPORTS[transport]
        self._options = options
        self._initramfs = image.make_initramfs(folder)
        with contextlib.ExitStack() as stack:
            namespace = (
                f"/proc/{stack.enter_context(other_namespace())}/ns/net"
            )
            self.interface = stack.enter_context(link(namespace, mtu))
            self._inside = within(namespace)
            self._sockets = socket.socketpair(
                socket.AF_UNIX, socket.SOCK_DGRAM
            )
            for end in self._sockets:
                stack.enter_context(end)
            self._bridges = stack.enter_context(contextlib.ExitStack())
            self.start_bridge()
            self._guests = stack.enter_context(contextlib.ExitStack())
            self.boot()
            self._stack = stack.pop_all()

    @property
    def bridge_pid(self) -> int:
        return self._bridge.pid

    def boot(self) -> None:
        """Starts the guest, after killing an earlier one, and configures its
        addresses."""
        self.kill_guest()
        self.guest = self._guests.enter_context(
            Guest(
                image.kernel(),
                self._initramfs,
                self._card(),
                folder=self._folder,
                program=(*self._inside, "qemu-system-x86_64"),
                pass_fds=[self._sockets[1].fileno()],
            )
        )
        self.configure()

    def _card(self) -> list[str]:
        if not self._netdev:
            path, _, connects = self._port.partition(":")[2].partition(",")
            return shared_memory_card(path, self.mtu, listens=bool(connects))
        netdev = self._netdev.format(self._sockets[1].fileno())
        return network_card(netdev, self.mtu)

    def configure(self) -> None:
        """Sets the guest's card up, with its addresses."""
        # At once, without a second of duplicate address detection; and they
        # stay while the card is down.
        settings = "/proc/sys/net/ipv6/conf/eth0"
        self.guest.run(f"echo 0 >{settings}/accept_dad")
        self.guest.run(f"echo 1 >{settings}/keep_addr_on_down")
        self.guest.run("ip link set eth0 up")
        for one in FAMILIES:
            self.guest.run(f"ip addr add {one.guest}/{one.prefix} dev eth0")

    def kill_guest(self) -> None:
        self._guests.close()

    @property
    def waiting(self) -> int:
        """How many bytes wait in the bridge's packet socket."""
        table = Path(f"/proc/{self._bridge.pid}/net/packet").read_text()
        names, *rows = [line.split() for line in table.splitlines()]
        column = names.index("Rmem")
        return sum(int(row[column]) for row in rows)

    def stop_bridge(self, number: signal.Signals) -> str:
        """Ends the bridge with the signal; returns what it has printed."""
        self._bridge.send_signal(number)
        status = self._bridge.wait(PATIENCE)
        printed = self.printed()
        assert status == 0, f"the bridge ended with status {status}: {printed}"
        return printed

    def printed(self) -> str:
        """What the bridge has printed since its last start."""
        return self._log.read_text()

    def start_bridge(self) -> None:
        """Starts the bridge, after killing an earlier one, and waits until
        frames can pass."""
        self._bridges.close()
        port = self._port.format(self._sockets[0].fileno())
        with open(self._log, "wb") as log:
            self._bridge = subprocess.Popen(
                [*self._inside, *BRIDGE, _SWITCH_END, port, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                pass_fds=[self._sockets[0].fileno()],
            )
        self._bridges.enter_context(self._bridge)
        self._bridges.callback(self._bridge.kill)
        while "bridging" not in self.printed():
            assert self._bridge.poll() is None, self.printed()
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if failure is not None:
            self._bridge.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._bridge.wait(PATIENCE / 10)
            print(self._log.read_text())  # pytest shows it
        self._stack.close()


def within(namespace: str) -> list[str]:
    """A command prefix that runs a program in the namespace, and kills it when
    this program ends."""
    kill = ["setpriv", "--pdeathsig", "KILL"]
    return ["nsenter", f"--net={namespace}", *kill]


@contextlib.contextmanager
def link(
    namespace: str, mtu: int, far_end: str = _SWITCH_END
) -> Iterator[str]:
    """Makes a veth pair into the namespace, with the host's addresses on the
    near end; returns the near end's name."""
    with veth_pair(_HOST_END, far_end, mtu=mtu, ipv6=True, up=False) as veth:
        _run("ip", "link", "set", veth.b, "netns", namespace)
        # The kernel sends no frames of its own there.
        inside = (*within(namespace), "ip", "link", "set", veth.b)
        _run(*inside, "addrgenmode", "none")
        _run(*inside, "up")
        for one in FAMILIES:
            address = f"{one.host}/{one.prefix}"
            dad = ["nodad"] if one.version == 6 else []
            _run("ip", "addr", "add", address, "dev", veth.a, *dad)
        _run("ip", "link", "set", veth.a, "up")
        yield veth.a


def _run(*command: str) -> None:
    subprocess.run(command, check=True)

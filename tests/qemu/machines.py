"""Five machines on one `rawmmsg switch`, each joined in another way, and passt
as an uplink:

the tests' namespace       the switch's namespace
host    veth.a ========== veth.b ------------ switch --- datagrams (QEMU)
                                                |------- stream    (QEMU)
                                                |------- memory    (QEMU)
                                                |------- uml
router  veth.a ========== veth.b --- passt -----|

All ports are in VLAN 1, except that of passt, which is in VLAN 2, because
passt answers ARP requests for every address.
"""

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Final, Self

import image
from guest import Guest, network_card, shared_memory_card, uml_options
from lab import link, within
from support.bridging import Running
from support.calls import eventually
from support.linux import ip, other_namespace

from rawmmsg.bridge.switching.counts import PortCounts
from rawmmsg.testing import veth_pair

UPLINK: Final = "192.0.2.2"
"""The address of passt's namespace, which passt assigns."""

UPLINK_VLAN: Final = 2

SERVER: Final = "203.0.113.1"
"""An address of the router. The machines have no route to it."""

_ROUTER: Final = "192.0.2.1"
_MTU: Final = 1500

_HOST: Final = "host"
_UML: Final = "uml"
_NAMES: Final = (_HOST, "datagrams", "stream", "memory", _UML)

# A shell that speaks as the guests' does (image.py). The argument is a folder
# for busybox's commands, in which it works.
_SCRIPT: Final = f"""\
busybox --install -s "$0"
cd "$0"
PATH=$0
echo '{image.MARK} 0'
while read -r command; do
    eval "$command" </dev/null && status=0 || status=$?
    echo "{image.MARK} $status"
done
"""


@dataclass(frozen=True)
class Machine:
    """A machine with addresses in VLAN 1, and 10 MB in the file `data`, with
    their digest. Its name is that of its port."""

    name: str
    shell: Guest
    ipv4: str
    ipv6: str
    digest: str

    @classmethod
    def made(cls, name: str, shell: Guest) -> Self:
        number = _NAMES.index(name) + 1
        shell.run("dd if=/dev/urandom of=data bs=1M count=10")
        shell.run("mkfifo open")
        machine = cls(
            *(name, shell, f"10.9.0.{number}", f"2001:db8::{number}"),
            digest=shell.run("sha256sum <data"),
        )
        if name != _HOST:  # which has its addresses
            machine._configure("vec0" if name == _UML else "eth0")
        return machine

    def _configure(self, card: str) -> None:
        run = self.shell.run
        run(f"echo 0 >/proc/sys/net/ipv6/conf/{card}/accept_dad")
        run(f"ip link set {card} up")
        run(f"ip addr add {self.ipv4}/24 dev {card}")
        run(f"ip addr add {self.ipv6}/64 dev {card}")

    def begin_receiving(self, nc: str) -> None:
        """Receives data over TCP with nc, which has these arguments. Then
        shell.finish() returns their digest."""
        # Its input does not end, so it ends when the sender does.
        self.shell.begin(f"nc {nc} <>open | sha256sum")

    def send(self, nc: str) -> None:
        """Sends the data over TCP, as soon as somebody listens."""
        self.shell.run(f"until nc {nc} <data 2>/dev/null; do sleep 0.1; done")


@dataclass(frozen=True)
class Machines:
    """The machines, by name, and the switch between them."""

    by_name: dict[str, Machine]
    switch: Running

    def pairs(self) -> Iterator[tuple[Machine, Machine]]:
        """Each machine with each other one."""
        return permutations(self.by_name.values(), 2)

    def end(self) -> dict[str, PortCounts]:
        """Ends the switch; returns the counts of its ports."""
        assert self.switch.process.stdout is not None
        with self.switch.process.stdout as lines:
            self.switch.process.send_signal(signal.SIGTERM)
            *_, last = lines
        assert self.switch.outcome().code == 0, self.switch.text
        counts: dict[str, dict[str, Any]] = json.loads(last)["ports"]
        return {name: PortCounts(**one) for name, one in counts.items()}


@contextlib.contextmanager
def five_machines(folder: Path) -> Iterator[Machines]:
    """Runs them, the switch and passt. `folder` has a short path."""
    folder.chmod(0o777)  # passt changes to the user nobody
    for name in _NAMES:
        (folder / name).mkdir()
    with contextlib.ExitStack() as stack:
        namespace = f"/proc/{stack.enter_context(other_namespace())}/ns/net"
        stack.enter_context(link(namespace, _MTU))
        stack.enter_context(_passt(namespace, folder))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            switch = stack.enter_context(
                Running(
                    *_ports(folder, ours.fileno()),
                    *("--json", "3600"),
                    prefix=within(namespace),
                    command="switch",
                    stdout=subprocess.PIPE,
                    pass_fds=[ours.fileno()],
                )
            )
            switch.says("switching between")
            machines = _boot(stack, folder, theirs.fileno())
        try:
            yield Machines(machines, switch)
        except BaseException:
            print(switch.text)  # pytest shows it
            raise


def _ports(folder: Path, descriptor: int) -> list[str]:
    datagrams = folder / "datagrams"
    return [
        f"interface:switch,name={_HOST}",
        f"unix:{datagrams}/switch,{datagrams}/guest,name=datagrams",
        f"stream:unix:{folder}/stream/switch,listen,name=stream",
        f"vhost-user:{folder}/memory/switch,name=memory",
        f"fd:{descriptor},name={_UML}",
        f"stream:unix:{folder}/passt,name=uplink,access={UPLINK_VLAN}",
    ]


@contextlib.contextmanager
def _passt(namespace: str, folder: Path) -> Iterator[None]:
    """Runs passt in the namespace, with a default route to a router, which is
    the namespace of the tests."""
    inside = within(namespace)
    path = folder / "passt"
    with (
        _uplink(inside, namespace),
        open(folder / "passt.log", "wb") as log,
        subprocess.Popen(
            [*inside, "passt", "-f", "-4", "-s", str(path)],
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            eventually(path.exists, "passt does not start")
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def _uplink(inside: list[str], namespace: str) -> Iterator[None]:
    with veth_pair("router", "uplink", up=False) as veth:
        for line in (
            f"link set {veth.b} netns {namespace}",
            f"address add {_ROUTER}/24 dev {veth.a}",
            f"address add {SERVER}/32 dev {veth.a}",
            f"link set {veth.a} up",
        ):
            ip(*line.split())
        for line in (
            f"address add {UPLINK}/24 dev {veth.b}",
            f"link set {veth.b} up",
            f"route add default via {_ROUTER}",
        ):
            subprocess.run([*inside, "ip", *line.split()], check=True)
        yield


def _boot(
    stack: contextlib.ExitStack, folder: Path, descriptor: int
) -> dict[str, Machine]:
    """Boots all machines at once."""
    initramfs = image.make_initramfs(folder)

    def boot(name: str) -> Machine:
        if name == _HOST:
            guest = _shell(folder / name)
        elif name == _UML:
            guest = _uml(folder / name, descriptor)
        else:
            guest = Guest(
                *(image.kernel(), initramfs, _cards()[name]),
                folder=folder / name,
            )
        return Machine.made(name, stack.enter_context(guest))

    with ThreadPoolExecutor(len(_NAMES)) as pool:
        return dict(zip(_NAMES, pool.map(boot, _NAMES), strict=True))


def _cards() -> dict[str, list[str]]:
    """The network cards of QEMU's guests."""
    return {
        "datagrams": network_card(
            "dgram,id=net,local.type=unix,local.path=guest,"
            "remote.type=unix,remote.path=switch",
            *(_MTU, b"\2\0\0\0\0\2"),
        ),
        "stream": network_card(
            "stream,id=net,server=off,addr.type=unix,addr.path=switch",
            *(_MTU, b"\2\0\0\0\0\3"),
        ),
        "memory": shared_memory_card("switch", _MTU, b"\2\0\0\0\0\4"),
    }


def _uml(folder: Path, descriptor: int) -> Guest:
    initramfs = image.make_initramfs(folder, modules=image.uml_modules())
    return Guest(
        folder,  # it is its own kernel
        initramfs,
        [f"vec0:transport=fd,fd={descriptor}"],
        folder=folder,
        program=["linux.uml"],
        options=uml_options,
        pass_fds=[descriptor],
    )


def _shell(folder: Path) -> Guest:
    """A shell on this machine, in the namespace of the tests."""
    return Guest(
        folder,  # no kernel, and nothing to boot
        folder,
        [],
        folder=folder,
        program=["busybox", "sh", "-euc", _SCRIPT, str(folder)],
        options=lambda _, __: [],
    )

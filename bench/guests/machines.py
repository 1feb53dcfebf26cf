"""Two guests in QEMU, joined by `rawmmsg bridge`.

    guest ----- bridge ----- guest
    eth0                     eth0

They boot Debian's kernel, with the program tcp.c. QEMU emulates their
processors, so it runs everywhere where it is installed.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..forward.hosts import ADDRESSES, wait_until
from ..forward.sides import rawmmsg_bridge
from ..lab import cpus, native, peers
from ..lab.contender import GroundTruthError, Ready, Slice, UnavailableError

# The guest of the tests.
sys.path.append(str(native.SOURCES.parent / "tests/qemu"))

import guest as virtual
import image

MTU: Final = 1500
PORT: Final = 5001
BLOCK: Final = 64 * 1024  # as in tcp.c

_MACS: Final = (b"\2\0\0\0\0\1", b"\2\0\0\0\0\2")


@dataclass(frozen=True)
class Place:
    """What all guests boot. `stack` ends them."""

    stack: ExitStack
    folder: Path
    kernel: Path
    initramfs: Path


def place(stack: ExitStack, folder: Path) -> Place:
    """Raises UnavailableError if QEMU or what it boots is missing."""
    for name in ("qemu-system-x86_64", "busybox"):
        peers.program(name)
    try:
        kernel = image.kernel()
    except FileNotFoundError:
        raise UnavailableError(
            "a kernel for guests", "python tests/qemu/run.py"
        ) from None
    program = native.program("guests/tcp.c")
    return Place(
        stack, folder, kernel, image.make_initramfs(folder, [program])
    )


def by_datagrams(place: Place) -> Ready:
    """Each frame is a datagram between QEMU and the bridge."""
    folders = _folders(place, "datagrams")
    ports = [f"unix:{one}/bridge,{one}/guest" for one in folders]
    cards = [
        virtual.network_card(
            "dgram,id=net,local.type=unix,local.path=guest,"
            "remote.type=unix,remote.path=bridge",
            *(MTU, mac),
        )
        for mac in _MACS
    ]
    return _ready(place, ports, folders, cards)


def by_memory(place: Place) -> Ready:
    """The bridge copies frames from one guest's memory to the other's."""
    folders = _folders(place, "memory")
    ports = [f"vhost-user:{one}/card" for one in folders]
    cards = [virtual.shared_memory_card("card", MTU, mac) for mac in _MACS]
    return _ready(place, ports, folders, cards)


def _folders(place: Place, kind: str) -> list[Path]:
    return [
        Path(tempfile.mkdtemp(prefix=kind, dir=place.folder)) for _ in _MACS
    ]


def _ready(
    place: Place,
    ports: list[str],
    folders: list[Path],
    cards: list[list[str]],
) -> Ready:
    pair = Pair(place, ports)
    for folder, card, address in zip(folders, cards, ADDRESSES, strict=True):
        pair.boot(folder, card, address)
    return Ready(pair.run)


class Pair:
    """Two guests and their bridge."""

    def __init__(self, place: Place, ports: list[str]) -> None:
        self._place = place
        # It accounts for every frame when it ends.
        bridge = rawmmsg_bridge(ports[0], ports[1])
        self._bridge = place.stack.enter_context(bridge)
        paths = [port.partition(":")[2].split(",")[0] for port in ports]
        wait_until(
            lambda: all(Path(path).exists() for path in paths),
            "rawmmsg bridge has not opened its ports",
        )
        self._guests: list[virtual.Guest] = []

    def boot(self, folder: Path, card: list[str], address: str) -> None:
        guest = virtual.Guest(
            *(self._place.kernel, self._place.initramfs, card), folder=folder
        )
        self._guests.append(self._place.stack.enter_context(guest))
        guest.run("echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6")
        # No slice remembers how many frames an earlier one has lost.
        guest.run("echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save")
        guest.run(f"ip addr add {address}/24 dev eth0 && ip link set eth0 up")

    def run(self, blocks: int) -> Slice:
        """Sends so many blocks from the first guest to the second."""
        sender, receiver = self._guests
        try:
            receiver.begin(f"tcp receive {PORT} {blocks}")
            receiver.wait_for("listening")
            used = cpus.used_ns(self._bridge)
            begin = time.perf_counter_ns()
            sender.run(f"tcp send {ADDRESSES[1]} {PORT} {blocks}")
            ns = time.perf_counter_ns() - begin
            used = cpus.used_ns(self._bridge) - used
            receiver.finish()
        except virtual.GuestError as error:
            raise GroundTruthError(str(error)) from None
        size = blocks * BLOCK
        return Slice(size * 8 / ns, ns, {"bridge, s/GB": used / size})

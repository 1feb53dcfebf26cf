"""The commands in docs/virtual-machines join a guest and an interface. Run by
run.py.

In a block, "..." stands for the options of a machine that the reader knows.
Here they are those of the tests' guests.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import image
import pytest
from checks import (
    TEN_MB,
    check_no_wrong_checksum,
    check_receiving,
    check_sending,
    check_summary,
)
from guest import NO_BOOT_ROM, PATIENCE, Guest, qemu_options, uml_options
from lab import BRIDGE, FAMILIES, link, within
from support.blocks import ROOT, Block, blocks
from support.linux import other_namespace

from rawmmsg import SUPER_FRAME, PacketBatch, RawSocket
from rawmmsg.constants import PacketType

PLAIN: Final = 1514
"""The longest frame that is not a super-frame."""


@dataclass(frozen=True)
class Commands:
    """The commands of a block: those that prepare the network, the bridge (if
    the machine's program does not start it), and the machine, in two parts."""

    setup: Sequence[str]
    bridge: Sequence[str]
    program: Sequence[str]
    network: Sequence[str]

    @classmethod
    def of(cls, block: Block) -> Self:
        setup: list[str] = []
        bridge: list[str] = []
        machine: list[str] = []
        for line in block.text.replace("\\\n", "").splitlines():
            words = shlex.split(line.removesuffix("&"))
            if words[:2] == ["rawmmsg", "bridge"]:
                bridge = [*BRIDGE, *words[2:]]
            elif "..." in words:
                machine = words
            else:
                setup.append(line)
        dots = machine.index("...")
        return cls(setup, bridge, machine[:dots], machine[dots + 1 :])

    @property
    def is_uml(self) -> bool:
        return any("linux" in word for word in self.program)

    @property
    def takes_super_frames(self) -> bool:
        """Whether the frames have offload headers on this transport."""
        is_plain = any(
            word.startswith(("dgram,", "stream,")) for word in self.network
        )
        return bool(self.bridge) and not is_plain


BLOCKS: Final = [
    block
    for block in blocks()
    if block.page.startswith("docs/virtual-machines/")
    and block.not_run == "needs a virtual machine, see tests/qemu"
]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_commands_join_guest_and_interface(
    block: Block, tmp_path: Path
) -> None:
    """Echo, and 10 MB over TCP in each direction. Super-frames pass in one
    piece where the transport has offload headers."""
    commands = Commands.of(block)
    with joined(commands, tmp_path) as (guest, interface, end_bridge):
        for family in FAMILIES:
            ping = f"ping -A -c 3 -w {PATIENCE:.0f} {family.host}"
            printed = guest.run(ping)
            assert "3 packets received" in printed, printed
        data = os.urandom(TEN_MB)
        with super_frames(interface) as has_sent_any:
            check_receiving(guest, FAMILIES[0], data)
            assert has_sent_any(), "the host has sent no super-frame"
        check_sending(guest, FAMILIES[0], data)
        check_no_wrong_checksum(guest)
        guest.power_off()
        outcome = check_summary(end_bridge())
    to_guest, from_guest = outcome.directions
    if commands.takes_super_frames:
        assert not to_guest.gained, outcome.text
        assert from_guest.sent == from_guest.received, outcome.text
    else:
        assert to_guest.gained > 0, outcome.text
        assert from_guest.bytes <= PLAIN * from_guest.received, outcome.text


@contextmanager
def super_frames(interface: str) -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether the interface has sent a super-frame
    in this block."""
    with RawSocket(
        interface,
        filter=f"tcp and greater {PLAIN + 1}",
        vnet_hdr=True,
        addresses=True,
    ) as sock:
        sock.setblocking(False)
        batch = PacketBatch(64, SUPER_FRAME)

        def has_sent_any() -> bool:
            with suppress(BlockingIOError):
                while count := sock.recvmmsg_into(batch):
                    if PacketType.OUTGOING in batch.packet_types[:count]:
                        return True
            return False

        yield has_sent_any


@contextmanager
def joined(
    commands: Commands, folder: Path
) -> Iterator[tuple[Guest, str, Callable[[], str]]]:
    """Runs the commands in a namespace of their own. Gives the guest, which
    has its addresses, the host's interface, and a function that ends the
    bridge and returns what it has printed."""
    with other_namespace() as pid:
        namespace = f"/proc/{pid}/ns/net"
        inside = within(namespace)
        with link(namespace, 1500, "eth0") as interface:
            for line in commands.setup:
                subprocess.run(
                    [*inside, "bash", "-euc", line],
                    env=os.environ | {"USER": "root"},
                    check=True,
                )
            with (
                started(commands, inside, folder) as end_bridge,
                booted(commands, inside, folder) as guest,
            ):
                yield guest, interface, end_bridge


@contextmanager
def started(
    commands: Commands, inside: Sequence[str], folder: Path
) -> Iterator[Callable[[], str]]:
    """Runs the bridge, except where the machine's program does."""
    if not commands.bridge:
        yield (folder / "qemu.log").read_text
        return
    path = folder / "bridge.log"
    with (
        open(path, "wb") as log,
        subprocess.Popen(
            [*inside, *commands.bridge],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
        ) as bridge,
    ):

        def end() -> str:
            bridge.send_signal(signal.SIGTERM)
            status = bridge.wait(PATIENCE)
            assert status == 0, path.read_text()
            return path.read_text()

        try:
            yield end
        except BaseException:
            print(path.read_text())  # pytest shows it
            raise
        finally:
            bridge.kill()


@contextmanager
def booted(
    commands: Commands, inside: Sequence[str], folder: Path
) -> Iterator[Guest]:
    known = {"python": sys.executable}
    program = [
        known.get(word, str(ROOT / word) if word.endswith(".py") else word)
        for word in commands.program
    ]
    network = list(commands.network)
    modules = None
    if commands.is_uml:
        modules = image.uml_modules()
    else:
        # Emulated, and with MSI-X, QEMU 7.2 crashes with vhost-user.
        network += [*NO_BOOT_ROM, "-global", "virtio-net-pci.vectors=0"]
    card = "vec0" if commands.is_uml else "eth0"
    with Guest(
        image.kernel(),
        image.make_initramfs(folder, modules=modules),
        network,
        folder=folder,
        program=[*inside, *program],
        options=uml_options if commands.is_uml else qemu_options,
    ) as guest:
        guest.run(f"echo 0 >/proc/sys/net/ipv6/conf/{card}/accept_dad")
        guest.run(f"ip link set {card} up")
        for one in FAMILIES:
            guest.run(f"ip addr add {one.guest}/{one.prefix} dev {card}")
        yield guest

"""A guest in QEMU talks with this machine through `rawmmsg bridge`. Its
network stack is independent of rawmmsg. Run by run.py."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import image
import pytest
from counters import Counters, read_counters, since, wrong_checksums
from guest import MAC, NO_BOOT_ROM, PATIENCE, Guest
from lab import FAMILIES, TRANSPORTS, Family, Lab
from support.bridging import Outcome
from support.datagrams import TCP, UDP, Datagram
from support.examples import FOLDER
from support.linux import ip

from rawmmsg import RawSocket
from rawmmsg.testing import Veth

TEN_MB: Final = 10 << 20
NO_SUCH_PORT: Final = 9

# <linux/udp.h>
UDP_SEGMENT: Final = 103


@pytest.mark.parametrize(
    ("transport", "mtu"),
    [*((one, 1500) for one in TRANSPORTS), ("unix", 9000)],
)
def test_guest_and_host_exchange_data_through_the_bridge(
    transport: str, mtu: int, tmp_path: Path
) -> None:
    """Echo, 10 MB over TCP in each direction and super-frames of UDP, over
    IPv4 and IPv6. No receiver finds a wrong checksum."""
    with Lab(tmp_path, transport=transport, mtu=mtu) as lab:
        assert int(lab.guest.run("cat /sys/class/net/eth0/mtu")) == mtu
        for family in FAMILIES:
            check_echo(lab, family)
            check_tcp(lab.guest, family)
            check_udp_super_frame(lab.guest, family)
        check_no_wrong_checksum(lab.guest)
        check_wrong_checksums_are_counted(lab)
        lab.guest.power_off()
        check_summary(lab.stop_bridge(signal.SIGTERM))


def test_bridge_continues_with_a_new_guest(tmp_path: Path) -> None:
    """QEMU ends, and another guest uses the same addresses."""
    with Lab(tmp_path) as lab:
        check_echo(lab, FAMILIES[0])
        lab.guest.power_off()
        lab.boot()
        check_echo(lab, FAMILIES[0])
        lab.guest.power_off()
        check_summary(lab.stop_bridge(signal.SIGINT))


def test_example_runs_a_machine(veth: Veth, tmp_path: Path) -> None:
    """The example examples/virtual_machine.py, with its user's options."""
    family = FAMILIES[0]
    example = str(FOLDER / "virtual_machine.py")
    ip("address", "add", f"{family.host}/{family.prefix}", "dev", veth.a)
    with Guest(
        image.kernel(),
        image.make_initramfs(tmp_path),
        NO_BOOT_ROM,
        folder=tmp_path,
        program=(sys.executable, example, veth.b),
    ) as guest:
        guest.run("ip link set eth0 up")
        guest.run(f"ip addr add {family.guest}/{family.prefix} dev eth0")
        answers = guest.run(f"ping -A -c 3 -w {PATIENCE:.0f} {family.host}")
        assert "3 packets received" in answers, answers
        guest.power_off()


def check_echo(lab: Lab, family: Family) -> None:
    """Each side answers pings of the other, with little data and as full
    frames."""
    headers = 8 + (20 if family.version == 4 else 40)
    for size in (56, lab.mtu - headers):
        ping = f"ping -A -c 3 -w {PATIENCE:.0f} -s {size}"
        done = subprocess.run(
            ["busybox", *ping.split(), family.guest],
            capture_output=True,
            text=True,
            check=False,
        )
        printed = lab.guest.run(f"{ping} {family.host}")
        for answers in (done.stdout + done.stderr, printed):
            assert "3 packets received" in answers, answers


def check_tcp(guest: Guest, family: Family) -> None:
    """The guest receives 10 MB correctly, cut from super-frames, and sends
    them back."""
    data = os.urandom(TEN_MB)
    before = host_counters()
    with socket.create_server((family.host, 0), family=family.kind) as server:
        server.settimeout(PATIENCE)
        nc = f"nc {family.host} {server.getsockname()[1]}"
        guest.begin(f"{nc} | tee /data | sha256sum")
        with accept(server) as connection:
            connection.sendall(data)
        digest = guest.finish().split()[0]
        assert digest == hashlib.sha256(data).hexdigest()
        moved = since(before, host_counters())
        assert moved[family.frames_sent] < moved["Tcp.OutSegs"]

        guest.begin(f"{nc} </data >/dev/null")
        with accept(server) as connection:
            parts = iter(lambda: connection.recv(1 << 20), b"")
            assert b"".join(parts) == data
        guest.finish()


def check_udp_super_frame(guest: Guest, family: Family) -> None:
    """All datagrams of a super-frame reach the guest's UDP, which verifies
    checksums before it looks for a port."""
    size, count = 1000, 40

    def arrives() -> bool:
        before = guest_counters(guest)
        sender.sendto(bytes(size * count), (family.guest, NO_SUCH_PORT))

        def refused() -> int:
            moved = since(before, guest_counters(guest))
            return moved.get(family.datagrams_refused, 0)

        return wait_until(lambda: refused() == count, PATIENCE / 10)

    with socket.socket(family.kind, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, size)
        # Try again if QEMU was too slow to receive all of them.
        assert any(arrives() for _ in range(10))


def check_no_wrong_checksum(guest: Guest) -> None:
    for counters in (host_counters(), guest_counters(guest)):
        wrong = wrong_checksums(counters)
        assert {"IpExt.InCsumErrors", "Tcp.InCsumErrors"} <= wrong.keys()
        assert not any(wrong.values()), wrong


def check_wrong_checksums_are_counted(lab: Lab) -> None:
    """The bridge passes frames unchanged and the guest verifies them.
    Otherwise its counters would prove nothing."""
    before = guest_counters(lab.guest)
    with RawSocket(lab.interface, protocol=0) as sender:
        for protocol in (TCP, UDP):
            frame = Datagram(b"payload", protocol).build()
            sender.send(MAC + frame[len(MAC) : -1] + b"\0")

    def moved() -> Counters:
        return wrong_checksums(since(before, guest_counters(lab.guest)))

    both = {"Tcp.InCsumErrors": 1, "Udp.InCsumErrors": 1}
    assert wait_until(lambda: moved() == both), moved()


def check_summary(printed: str) -> None:
    """In both directions, every frame received or made by segmentation was
    sent or dropped, and some were sent."""
    for one in Outcome(0, printed).directions:
        assert one.sent > 0, printed


def accept(server: socket.socket) -> socket.socket:
    connection, _ = server.accept()
    connection.settimeout(PATIENCE)
    return connection


def host_counters() -> Counters:
    return read_counters(lambda path: Path(path).read_text())


def guest_counters(guest: Guest) -> Counters:
    return read_counters(lambda path: guest.run(f"cat {path}"))


def wait_until(
    condition: Callable[[], bool], patience: float = PATIENCE
) -> bool:
    """Returns whether the condition soon becomes true."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True

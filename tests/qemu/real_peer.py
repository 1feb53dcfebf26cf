"""A guest in QEMU talks with this machine through `rawmmsg bridge`. Its
network stack is independent of rawmmsg. Run by run.py."""

import signal
import sys
from pathlib import Path

import image
import pytest
from checks import (
    check_echo,
    check_no_wrong_checksum,
    check_summary,
    check_tcp,
    check_udp_super_frame,
    check_wrong_checksums_are_counted,
)
from guest import NO_BOOT_ROM, PATIENCE, Guest
from lab import FAMILIES, TRANSPORTS, Lab
from support.examples import FOLDER
from support.linux import ip

from rawmmsg.testing import Veth


@pytest.mark.parametrize(
    ("transport", "mtu"),
    [
        *((one, 1500) for one in TRANSPORTS if "connect" not in one),
        *((one, 9000) for one in ("unix", "vhost-user")),
    ],
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

"""A guest in QEMU whose frames `rawmmsg bridge` takes out of its memory, and
puts there (vhost-user). Run by run.py."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from checks import (
    TEN_MB,
    check_echo,
    check_no_wrong_checksum,
    check_receiving,
    check_sending,
    check_summary,
    check_tcp,
    guest_counters,
    send_refused,
    wait_until,
)
from guest import Guest
from lab import FAMILIES, Family, Lab
from support.linux import interface_counters, ip
from tagging import untagged

ONE_MB: Final = 1 << 20
VLAN: Final = 5
IN_VAIN: Final = 20

# The bridge listens, or QEMU.
EITHER_LISTENS: Final = pytest.mark.parametrize(
    "transport", ["vhost-user", "vhost-user,connect"]
)

PLAIN: Final = 1514
"""The longest frame that is not a super-frame."""

RECEIVED: Final = 1
"""The packets that were received, among interface_counters()."""


@contextmanager
def joined(
    folder: Path, mtu: int = 1500, transport: str = "vhost-user"
) -> Iterator[Lab]:
    """Host, bridge and guest. At the end no receiver has found a wrong
    checksum, and the bridge accounts for every frame."""
    with Lab(folder, transport=transport, mtu=mtu) as lab:
        yield lab
        check_no_wrong_checksum(lab.guest)
        check_summary(lab.stop_bridge(signal.SIGTERM))


def check_all(lab: Lab) -> None:
    """Frames pass in both directions, and so does TCP."""
    for family in FAMILIES:
        check_echo(lab, family)
        check_tcp(lab.guest, family, ONE_MB)


def check_transfer_survives(lab: Lab, interrupt: Callable[[], object]) -> None:
    """TCP goes on after an interruption, and nothing is lost."""
    data = os.urandom(TEN_MB)
    check_receiving(lab.guest, FAMILIES[0], data)
    check_sending(lab.guest, FAMILIES[0], data, interrupt)


@pytest.mark.parametrize("family", FAMILIES, ids=["IPv4", "IPv6"])
def test_super_frames_are_neither_cut_nor_merged(
    family: Family, tmp_path: Path
) -> None:
    """Those of the guest and those of the host arrive as they are: the bridge,
    the guest's card and the host's interface count the same frames, which are
    too few for so many bytes."""
    data = os.urandom(TEN_MB)
    with Lab(tmp_path, transport="vhost-user") as lab:
        check_receiving(lab.guest, family, data)
        # cat uses sendfile(2). nc would write 8 KiB at a time, which makes
        # hardly any super-frame if the host is fast.
        check_sending(lab.guest, family, data, source="-e cat /data")
        check_no_wrong_checksum(lab.guest)
        outcome = check_summary(lab.stop_bridge(signal.SIGTERM))
        to_guest, from_guest = outcome.directions
        for one in (to_guest, from_guest):
            assert one.gained == one.merged == 0, outcome.text
            assert one.bytes > 2 * PLAIN * one.received, (
                f"{one.name}: most frames were not super-frames: {one}"
            )
        arrived = interface_counters(lab.interface)[RECEIVED]
        assert arrived == from_guest.sent, (
            f"the host received {arrived} frames, and the bridge sent"
            f" {from_guest.sent}"
        )
        wait_until(
            lambda: rx_packets(lab.guest) == to_guest.sent,
            lambda: (
                f"the guest received {rx_packets(lab.guest)} frames, and the"
                f" bridge sent {to_guest.sent}"
            ),
        )


def rx_packets(guest: Guest) -> int:
    return int(guest.run("cat /sys/class/net/eth0/statistics/rx_packets"))


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_tagged_frames_pass(mtu: int, tmp_path: Path) -> None:
    """Echo and TCP in a VLAN, with tagged super-frames in both directions."""
    with (
        joined(tmp_path, mtu) as lab,
        untagged(lab.interface, VLAN, mtu) as interface,
    ):
        lab.guest.run(
            f"ip link add link eth0 name vlan type vlan id {VLAN};"
            " echo 0 >/proc/sys/net/ipv6/conf/vlan/accept_dad;"
            " ip link set vlan up"
        )
        for family in FAMILIES:
            tagged = in_vlan(family)
            words = ["nodad"] if family.version == 6 else []
            address = f"{tagged.host}/{tagged.prefix}"
            ip("address", "add", address, "dev", interface, *words)
            address = f"{tagged.guest}/{tagged.prefix}"
            lab.guest.run(f"ip address add {address} dev vlan")
            check_echo(lab, tagged)
            check_tcp(lab.guest, tagged)


def in_vlan(family: Family) -> Family:
    """The same addresses in other networks."""
    if family.version == 4:
        return replace(family, host="10.9.5.1", guest="10.9.5.2")
    return replace(family, host="2001:db8:5::1", guest="2001:db8:5::2")


def test_guest_reboots(tmp_path: Path) -> None:
    with joined(tmp_path) as lab:
        check_all(lab)
        lab.guest.reboot()
        lab.configure()
        check_all(lab)


def test_cable_is_pulled_out_and_plugged_in(tmp_path: Path) -> None:
    """By QEMU's monitor (set_link). No frame that was sent meanwhile arrives
    later, and TCP goes on."""

    def pull_and_plug() -> None:
        lab.guest.set_link(False)
        wait_for_carrier(lab.guest, "0")
        send_in_vain(lab)
        lab.guest.set_link(True)
        wait_for_carrier(lab.guest, "1")

    with joined(tmp_path) as lab:
        check_transfer_survives(lab, pull_and_plug)
        pull_and_plug()
        check_all(lab)
        check_nothing_is_late(lab.guest)


def send_in_vain(lab: Lab) -> None:
    """Sends datagrams to the guest, and waits until the bridge has received
    them."""
    send_refused(lab, IN_VAIN)
    wait_until(
        lambda: lab.waiting == 0,
        lambda: (
            f"{lab.waiting} bytes wait in the bridge's socket, although no"
            " guest can take them"
        ),
    )


def check_nothing_is_late(guest: Guest) -> None:
    late = guest_counters(guest)["Udp.NoPorts"]
    assert late == 0, f"{late} frames arrived that were sent before"


def wait_for_carrier(guest: Guest, wanted: str) -> None:
    def carrier() -> str:
        return guest.run("cat /sys/class/net/eth0/carrier").strip()

    wait_until(
        lambda: carrier() == wanted,
        lambda: f"the guest's carrier is {carrier()}, not {wanted}",
    )


def test_card_is_set_down_and_up(tmp_path: Path) -> None:
    """The guest takes no frames meanwhile, so its ring fills up. The bridge
    sleeps until there is room."""

    def set_down_and_up() -> None:
        lab.guest.run("ip link set eth0 down")
        send_refused(lab, 1000)
        check_sleeping(lab.bridge_pid)
        lab.guest.run("ip link set eth0 up")

    with joined(tmp_path) as lab:
        check_transfer_survives(lab, set_down_and_up)
        set_down_and_up()
        check_all(lab)


def check_sleeping(pid: int) -> None:
    """The process soon uses no CPU time."""

    def ticks() -> int:
        text = Path(f"/proc/{pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()  # proc(5): the third is first
        return int(fields[11]) + int(fields[12])

    def sleeps() -> bool:
        begin = ticks()
        time.sleep(1)
        # It looks at its ports a few times a second.
        return ticks() - begin < os.sysconf("SC_CLK_TCK") / 10

    wait_until(sleeps, lambda: "the bridge is busy while nothing can be done")


def test_bridge_is_restarted(tmp_path: Path) -> None:
    """The guest keeps running, and QEMU connects again (reconnect=1). TCP goes
    on."""

    def restart() -> None:
        check_summary(lab.stop_bridge(signal.SIGTERM))
        wait_for_carrier(lab.guest, "0")
        lab.start_bridge()
        wait_for_carrier(lab.guest, "1")

    with joined(tmp_path) as lab:
        check_transfer_survives(lab, restart)
        restart()
        check_all(lab)


@EITHER_LISTENS
def test_bridge_is_killed_and_started_again(
    transport: str, tmp_path: Path
) -> None:
    with joined(tmp_path, transport=transport) as lab:
        check_echo(lab, FAMILIES[0])
        os.kill(lab.bridge_pid, signal.SIGKILL)
        wait_for_carrier(lab.guest, "0")
        lab.start_bridge()
        wait_for_carrier(lab.guest, "1")
        check_all(lab)


@EITHER_LISTENS
def test_qemu_is_killed_and_started_again(
    transport: str, tmp_path: Path
) -> None:
    """Frames that are sent meanwhile are dropped and counted; the new guest
    does not get them."""
    with Lab(tmp_path, transport=transport) as lab:
        check_all(lab)
        lab.kill_guest()
        wait_until(
            lambda: "disconnected" in lab.printed(),
            lambda: f"the bridge does not notice: {lab.printed()}",
        )
        send_in_vain(lab)
        lab.boot()
        check_all(lab)
        check_nothing_is_late(lab.guest)
        outcome = check_summary(lab.stop_bridge(signal.SIGTERM))
        to_guest, _ = outcome.directions
        dropped = to_guest.reasons.get("link down", 0)
        assert dropped >= IN_VAIN, (
            f"{IN_VAIN} frames were sent while there was no guest: {to_guest}"
        )

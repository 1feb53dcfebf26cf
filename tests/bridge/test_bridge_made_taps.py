"""Ports that are taps which the bridge makes for a virtual machine."""

import errno
import fcntl
import itertools
import json
import os
import select
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from support import WAIT
from support.bridging import Network, Running, bridging, take
from support.calls import eventually
from support.child import WITHOUT_CAPABILITIES
from support.datagrams import Datagram, data, super_frame
from support.frames import numbered, same_frames
from support.linux import ip, tun_device

from rawmmsg import SUPER_FRAME, RawSocket
from rawmmsg.testing import Veth

# <linux/if_tun.h>
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_TAP: Final = 0x0002 | 0x1000 | 0x4000  # with offload headers
_CSUM_TSO4: Final = 1 | 2
_HEADER: Final = 10  # struct virtio_net_hdr

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _have_taps(tap: tuple[int, str]) -> None:
    """Skips the tests where the kernel has no taps."""


@pytest.fixture
def name() -> Iterator[str]:
    """A name for a tap, which is gone after the test."""
    made = f"made{os.getpid() % 100_000}x{next(_numbers)}"
    yield made
    if exists(made):
        ip("link", "delete", made)


def exists(name: str) -> bool:
    return any(one["ifname"] == name for one in _links())


def _links() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ip("-json", "-d", "link"))
    return found


def details(name: str) -> dict[str, Any]:
    (found,) = (one for one in _links() if one["ifname"] == name)
    return found


@contextmanager
def monitor(name: str) -> Iterator[int]:
    """Opens the tap as a monitor does, for a guest that takes TCP
    super-frames."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", name.encode(), _TAP)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _CSUM_TSO4)
        eventually(
            lambda: details(name)["operstate"] != "DOWN",
            "the tap gets no carrier",
        )
        yield descriptor
    finally:
        os.close(descriptor)


def read(descriptor: int) -> bytes:
    assert select.select([descriptor], [], [], WAIT)[0]
    return os.read(descriptor, SUPER_FRAME + _HEADER)


def test_frames_pass_both_ways(
    pair: Veth, sender: RawSocket, far: RawSocket, name: str
) -> None:
    """Each time when a monitor opens the tap."""
    with bridging(pair.b, f"tap:{name}") as bridge:
        bridge.says(f"no program has opened {name}; waiting for it")
        for i in range(3):
            with monitor(name) as machine:
                os.write(machine, bytes(_HEADER) + numbered(i))
                same_frames(take(far, 1), [numbered(i)])
                sender.send(numbered(i + 10))
                assert read(machine)[_HEADER:] == numbered(i + 10)
        outcome = bridge.end()
    assert [one.name for one in outcome.directions] == [
        f"{pair.b} > {name}",
        f"{name} > {pair.b}",
    ]
    assert [one.sent for one in outcome.directions] == [3, 3]


def test_super_frames_pass_in_one_piece(network: Network, name: str) -> None:
    batch = super_frame(Datagram(data(5600)), 1400)
    with (
        RawSocket(network.right.a, protocol=0, vnet_hdr=True) as far,
        bridging(f"tap:{name}", network.right.b),
        monitor(name) as machine,
    ):
        assert far.sendmmsg(batch) == 1
        assert read(machine)[_HEADER:] == batch.tolist()[0]


def test_frames_are_dropped_while_no_monitor_has_the_tap(
    pair: Veth, sender: RawSocket, name: str
) -> None:
    with bridging(pair.b, f"tap:{name}", "--stats", "0.02") as bridge:
        sender.sendmmsg_all([numbered(i) for i in range(5)])
        bridge.drops(5)
        with monitor(name) as machine:
            sender.send(numbered(5))
            assert read(machine)[_HEADER:] == numbered(5)
        ab, _ = bridge.end().directions
    assert (ab.sent, ab.reasons) == (1, {"link down": 5})


@pytest.mark.parametrize("ends", ["bridge", "both"])
def test_tap_is_removed_at_the_end(pair: Veth, name: str, ends: str) -> None:
    """Even if a monitor has it."""
    with bridging(pair.b, f"tap:{name}") as bridge:
        assert exists(name)
        if ends == "both":
            with monitor(name):
                assert bridge.end().code == 0
                assert not exists(name)
        else:
            assert bridge.end().code == 0
    assert not exists(name)


def test_tap_of_a_bridge_that_was_killed_is_taken_over(
    pair: Veth, far: RawSocket, name: str
) -> None:
    """The monitor keeps it, and the new bridge removes it at its end."""
    with bridging(pair.b, f"tap:{name}") as bridge, monitor(name) as machine:
        bridge.process.send_signal(signal.SIGKILL)
        bridge.process.wait()
        assert exists(name)
        with bridging(pair.b, f"tap:{name}") as second:
            os.write(machine, bytes(_HEADER) + numbered(1))
            same_frames(take(far, 1), [numbered(1)])
            assert second.end().code == 0
    assert not exists(name)


def test_tap_that_exists_is_used_and_stays(
    pair: Veth, sender: RawSocket
) -> None:
    with tun_device("tap") as (descriptor, existing):
        with bridging(pair.b, f"tap:{existing}") as bridge:
            sender.send(numbered(1))
            assert read(descriptor) == numbered(1)
            assert bridge.end().code == 0
        assert exists(existing)


def test_tap_has_an_owner(pair: Veth, name: str) -> None:
    owner = f"{os.getuid()}:{os.getgid()}"
    with bridging(pair.b, f"tap:{name},owner={owner}"):
        made = details(name)["linkinfo"]["info_data"]
        assert made["persist"]
        kinds = [str(made.get(key)) for key in ("user", "group")]
        assert all(kind not in ("None", "") for kind in kinds), made


def test_machine_sends_nothing_of_its_own_on_the_tap(
    pair: Veth, name: str
) -> None:
    """No router solicitation, for example."""
    with bridging(pair.b, f"tap:{name}"):
        path = f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6"
        with open(path, encoding="ascii") as setting:
            assert setting.read() == "1\n"


# Taps that cannot be used


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ("tap:name-of-16-bytes", "not a name for a tap"),
        ("tap:vm%d", "not a name for a tap"),
        ("tap:a vm", "not a name for a tap"),
        ("tap:all", "not a name for a tap"),
        ("tap:{veth}", "{veth}: this interface is not a tap"),
        ("tap:{tap},owner=0", "{tap}: the tap exists already, and owner="),
    ],
)
def test_wrong_tap_is_explained(
    pair: Veth, tap: tuple[int, str], port: str, words: str
) -> None:
    names = {"veth": pair.a, "tap": tap[1]}
    with Running(pair.b, port.format(**names)) as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 2
    assert words.format(**names) in outcome.text
    assert exists(pair.a)


def test_missing_capability_is_explained(pair: Veth, name: str) -> None:
    prefix = (*WITHOUT_CAPABILITIES,)
    with Running(f"tap:{name}", pair.b, prefix=prefix) as bridge:
        outcome = bridge.outcome()
    assert outcome.code == 1
    assert outcome.text == (
        f"rawmmsg: {name}: {os.strerror(errno.EPERM)}; a tap needs"
        " CAP_NET_ADMIN\n"
    )


def test_tap_is_removed_if_the_other_port_cannot_be_opened(
    name: str,
) -> None:
    with Running(f"tap:{name}", "nosuch0") as bridge:
        assert bridge.outcome().code == 1
    assert not exists(name)

"""With VLANs, the switch forwards as Open vSwitch does, except where its own
rules differ: tests at the end say where, and why."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from support.frames import frame
from support.models import BROADCAST, Ends, random_packet, shown
from support.open_vswitch import OpenVSwitch, open_vswitch
from support.switching import DEFAULT, Lab, lab

from rawmmsg.bridge.switching.members import PortRules
from rawmmsg.bridge.switching.vlans import Vlans

A, B, C = (bytes((2, 0, 0, 0, 0, i)) for i in range(1, 4))


@dataclass(frozen=True)
class Kind:
    """A kind of port: its rules, the settings of Open vSwitch, and a VLAN that
    it has, with a tag unless that is 0."""

    rules: PortRules
    settings: tuple[str, ...]
    marker: int


def native(vlan: int, *tagged: int) -> Kind:
    trunk = f"trunks={','.join(map(str, tagged))}"
    settings = ("vlan_mode=native-untagged", f"tag={vlan}")
    vlans = Vlans(vlan, frozenset(tagged) if tagged else None)
    return Kind(
        PortRules(vlans), settings + ((trunk,) if tagged else ()), vlan
    )


def access(vlan: int) -> Kind:
    settings = ("vlan_mode=access", f"tag={vlan}")
    return Kind(PortRules(Vlans.access(vlan)), settings, vlan)


def trunk(*tagged: int) -> Kind:
    settings = ("vlan_mode=trunk", f"trunks={','.join(map(str, tagged))}")
    vlans = Vlans(None, frozenset(tagged))
    return Kind(PortRules(vlans), settings, tagged[0])


ANY: Final = native(1)
KINDS: Final = (
    ANY,
    native(7),
    access(5),
    access(6),
    trunk(5, 6),
    trunk(6, 4094),
    native(7, 5, 6),
    native(5, 5, 9),
)


@dataclass
class Both:
    model: OpenVSwitch
    net: Lab
    ends: Ends

    def send(self, port: int, *packets: bytes) -> list[list[bytes]]:
        """Sends frames to both. Asserts that they send the same frames, and
        returns what arrives at each end."""
        expected = self.model.step(port, *packets)
        seen = self.ends.step(port, *packets)
        assert seen == expected, (
            f"port {port}, {packets[0][:22].hex()}: "
            + shown({"Open vSwitch": expected, "switch": seen})
        )
        return seen


@contextlib.contextmanager
def both(folder: Path, *kinds: Kind) -> Iterator[Both]:
    # VLAN 1 is the native one of the port for markers.
    markers = [0 if kind.marker == 1 else kind.marker for kind in kinds]
    with (
        open_vswitch(
            folder, [kind.settings for kind in kinds], markers
        ) as model,
        lab(*(kind.rules for kind in kinds), DEFAULT) as net,
    ):
        yield Both(model, net, Ends(net.ends, markers, links=net.links))


def tagged(tci: int, plain: bytes, tpid: int = 0x8100) -> bytes:
    tag = tpid.to_bytes(2, "big") + tci.to_bytes(2, "big")
    return plain[:12] + tag + plain[12:]


def packet(dst: bytes, src: bytes) -> bytes:
    return frame(bytes(46), dst, src)


def random_tag(rng: random.Random, plain: bytes, kind: Kind) -> bytes:
    """Puts up to two tags in. The first one is not among those about which the
    rules differ."""
    if rng.random() < 0.2:
        plain = tagged(rng.choice((5, 6, 0x2007)), plain)
    choice = rng.random()
    if choice < 0.3:
        return plain if plain[12:14] != b"\x81\0" else plain[:12] + plain[16:]
    if choice < 0.5:
        return tagged(rng.choice((0, 0x2000, 0xE000)), plain)
    vlans = [1, 2, 5, 5, 6, 6, 7, 9, 4094]
    if kind.settings[0] == "vlan_mode=access":
        vlans = [vlan for vlan in vlans if vlan != kind.marker]
    return tagged(rng.choice(vlans) | rng.choice((0, 0x6000, 0xE000)), plain)


@pytest.mark.parametrize("seed", range(6))
def test_every_frame_goes_where_open_vswitch_sends_it(
    short_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    kinds = [ANY, *rng.choices(KINDS, k=1 + seed)]
    with both(short_path, *kinds) as two:
        for number in range(150):
            port, plain = random_packet(rng, number, len(kinds), bad=0)
            if len(plain) > 1500:
                plain = plain[:1500]  # room for two tags
            two.send(port, random_tag(rng, plain, kinds[port]))
    assert two.net.switch.table.moved > 0
    assert sum(one.flooded for one in two.net.last.values()) > 5


def test_frames_of_one_batch_go_where_open_vswitch_sends_them(
    short_path: Path,
) -> None:
    """Open vSwitch sends those of a flow together, so their order differs. In
    the switch it stays."""
    rng = random.Random(8)
    with both(short_path, *KINDS) as two:
        for number, kind in enumerate(KINDS):
            own = bytes((2, 0, 0, 0, 1, number))
            first = packet(BROADCAST, own)
            if kind.settings[0] == "vlan_mode=trunk":
                first = tagged(kind.marker, first)
            two.send(number, first)
        for _ in range(20):
            port = rng.randrange(len(KINDS))
            own = bytes((2, 0, 0, 0, 1, port))
            packets = []
            for number in range(30):
                plain = random_packet(rng, number, len(KINDS), bad=0)[1]
                plain = plain[:6] + own + plain[12:400]
                packets.append(random_tag(rng, plain, KINDS[port]))
            expected = two.model.step(port, *packets)
            seen = two.ends.step(port, *packets)
            assert list(map(sorted, seen)) == list(map(sorted, expected))


# ---- Where the rules differ -------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "model", "ours"),
    [
        pytest.param(
            tagged(5, packet(BROADCAST, A)),
            [],
            [tagged(5, packet(BROADCAST, A))],
            id="an access port takes tags of its own VLAN",
        ),
        pytest.param(
            tagged(0x1000, packet(BROADCAST, A)),
            [tagged(0x0005, packet(BROADCAST, A))],
            [tagged(0x1005, packet(BROADCAST, A))],
            id="the drop eligible bit stays when a tag gets its VLAN",
        ),
        pytest.param(
            tagged(6, packet(BROADCAST, A), 0x88A8),
            [],
            [tagged(5, tagged(6, packet(BROADCAST, A), 0x88A8))],
            id="a service tag is not a tag",
        ),
    ],
)
def test_at_an_access_port(
    short_path: Path, sent: bytes, model: list[bytes], ours: list[bytes]
) -> None:
    """IEEE 802.1Q lets an access port take tags of its VLAN, if it does not
    only admit untagged frames. 0x88a8 is that of a provider's bridge, which a
    lab often only passes on."""
    with both(short_path, access(5), ANY) as two:
        assert two.model.step(0, sent)[1] == model
        assert two.ends.step(0, sent)[1] == ours


def test_the_reserved_vlan_is_dropped(short_path: Path) -> None:
    """IEEE 802.1Q, 9.6: 4095 must not be transmitted in a tag."""
    sent = tagged(4095, packet(BROADCAST, A))
    with both(short_path, ANY, ANY) as two:
        assert two.model.step(0, sent) == [[], [sent]]
        assert two.ends.step(0, sent) == [[], []]
        two.net.settle()
    assert two.net.last["p0"].dropped == {"vlan": 1}

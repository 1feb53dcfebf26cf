"""``vxlan``, which libpcap 1.10 does not know: UDP to port 4789, the I flag, a
VNI, and a frame of its own inside.
"""

from __future__ import annotations

import pytest
from bpfkit import packets
from bpfkit.names import fixed_names as fixed_names

from rawmmsg import bpf
from rawmmsg.bpf import FilterError

pytestmark = pytest.mark.no_network

# A frame that is cut short can neither be accepted nor prove a mistake.
FRAMES = {
    name: frame
    for name, frame in packets.ethernet_frames().items()
    if len(frame) >= 54
}
WITH_VNI = {
    name
    for name in FRAMES
    if name.startswith("vxlan-") and "no-vni" not in name
}
IP4_INSIDE = {"vxlan-ip", "vxlan-ip-over-ip6", "vxlan-outer-options"}
IP6_INSIDE = {"vxlan-ip6", "vxlan-ip6-over-ip6"}
TAG_INSIDE = {"vxlan-vlan", "vxlan-vlan-over-ip6"}

ACCEPTED = {
    "vxlan": WITH_VNI,
    "vxlan 11": IP4_INSIDE,
    "vxlan 0xb": IP4_INSIDE,
    "vxlan 16777215": IP6_INSIDE,
    "vxlan 5": TAG_INSIDE,
    "vxlan and ip": IP4_INSIDE,
    "vxlan and ip6": IP6_INSIDE,
    "vxlan and tcp": IP4_INSIDE,
    "vxlan and udp": IP6_INSIDE,
    "vxlan and tcp port 80": IP4_INSIDE,
    "vxlan and udp port 53": IP6_INSIDE,
    "vxlan and host 192.168.1.2": IP4_INSIDE,
    "vxlan and src host 192.168.1.2 and dst net 172.16.0.0/12": IP4_INSIDE,
    "vxlan and dst host 2001:db8::1": IP6_INSIDE,
    "vxlan and not ip": IP6_INSIDE | TAG_INSIDE,
    "vxlan and vlan": TAG_INSIDE,
    "vxlan and vlan 100 and ip": TAG_INSIDE,
    "vxlan and ip[8] = 64": IP4_INSIDE,
    "vxlan and tcp[2:2] = 80": IP4_INSIDE,
    "vxlan and ether src 02:00:00:00:00:01": WITH_VNI,
    "not vxlan": set(FRAMES) - WITH_VNI,
    "udp port 4789 and vxlan 11 and tcp": IP4_INSIDE,
    "ip and vxlan and ip6": {"vxlan-ip6"},
    "ip6 and vxlan and ip": {"vxlan-ip-over-ip6"},
}


@pytest.mark.parametrize("live", [True, False], ids=["live", "dead"])
@pytest.mark.parametrize(
    ("expression", "wanted"), ACCEPTED.items(), ids=list(ACCEPTED)
)
def test_accepts_the_tunnels_that_it_names(
    expression: str, wanted: set[str], live: bool
) -> None:
    program = bpf.compile(expression, live=live)
    got = {name for name, frame in FRAMES.items() if program.matches(frame)}
    assert got == wanted, (
        f"{expression!r} accepts the tunnels that it names, and nothing else"
    )


@pytest.mark.parametrize("vni", [16777216, 4294967295])
def test_a_vni_has_24_bits(vni: int) -> None:
    with pytest.raises(FilterError, match=str(vni)):
        bpf.compile(f"vxlan {vni}")


def test_a_later_fragment_is_not_a_tunnel() -> None:
    inner = packets.vxlan(
        11,
        packets.ether(
            packets.IP, packets.ipv4(packets.TCP, packets.tcp(1, 80))
        ),
    )
    later = packets.ether(
        packets.IP,
        packets.ipv4(packets.UDP, packets.udp(1, 4789, inner), offset=3),
    )
    assert not bpf.compile("vxlan").matches(later), (
        "the rest of a fragmented datagram has no VXLAN header"
    )

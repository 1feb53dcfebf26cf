"""Can super-frames arrive at sockets that are not made for them?

The kernel passes TCP and UDP segments in one piece of up to 64 KiB, a
super-frame, where both ends allow it. A socket without vnet_hdr gets it cut to
the size of its buffer, and with an unfinished checksum.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from ..acceptance import can_accept
from ..finding import Finding, Value, note, ok, problem
from ..kernel.links import Link, link_by_index, ports_of
from ..kernel.offloads import Offloads, offloads_of
from ..kernel.processes import describe, owners
from ..kernel.sockets import PacketSocket
from ..quoting import in_python, in_shell
from ..sample import Sample
from .privileges import administers_network

__all__ = ["check"]

NAME: Final = "offloads"

# linux/if_arp.h
_ARPHRD_ETHER: Final = 1
_ARPHRD_LOOPBACK: Final = 772
_WITH_LINK_HEADER: Final = (_ARPHRD_ETHER, _ARPHRD_LOOPBACK)
# linux/if_ether.h
_ETH_HLEN: Final = 14
_ETH_P_ALL: Final = 0x0003
_IPPROTO_TCP: Final = 6
# The EtherType, and where IPv4 and IPv6 have the protocol of the next header
_TCP: Final = ((0x0800, 23), (0x86DD, 20))
_IFLA_TUN_VNET_HDR: Final = 5  # linux/if_link.h
# Kinds of interface that get their packets from the one below
_STACKED: Final = ("vlan", "macvlan", "macvtap", "ipvlan", "ipvtap")
_WITH_PORTS: Final = ("bridge", "bond", "team")


def check(sample: Sample) -> Iterator[Finding]:
    link = sample.link
    assert link is not None
    offloads = offloads_of(link.name)
    if offloads is None:
        yield note(NAME, f"the kernel does not list offloads of {link.name}")
        return
    values: dict[str, Value] = {**asdict(offloads)}
    cause, remedy = _cause(link, offloads)
    if cause is None:
        yield _outgoing(link, offloads, values)
        return
    exposed = [
        sock
        for sock in sample.sockets
        if sock.receives_from(link.index)
        # A packet ring has a snapshot length of its own.
        and not (sock.vnet_hdr or sock.ring)
        and _takes_tcp(sock, link)
    ]
    yield _incoming(link, cause, remedy, exposed, values)


def _takes_tcp(sock: PacketSocket, link: Link) -> bool:
    """Whether it receives TCP, the only super-frames that most machines
    make."""
    headerless = sock.cooked or link.hardware_type not in _WITH_LINK_HEADER
    for ethertype, offset in _TCP:
        if sock.protocol not in (_ETH_P_ALL, ethertype):
            continue
        known = {offset - _ETH_HLEN if headerless else offset: _IPPROTO_TCP}
        if not headerless:
            known |= enumerate(ethertype.to_bytes(2, "big"), 12)
        if sock.filter is None or can_accept(sock.filter, known):
            return True
    return False


def _incoming(
    link: Link,
    cause: str,
    remedy: str,
    exposed: list[PacketSocket],
    values: dict[str, Value],
) -> Finding:
    """About super-frames from outside, and the sockets that suffer."""
    processes = owners({sock.inode for sock in exposed})
    values |= {
        "sockets": [sock.inode for sock in exposed],
        "pids": [process.pid for process in processes.values()],
        "processes": [process.name for process in processes.values()],
    }
    if not exposed:
        return note(
            NAME,
            f"super-frames can arrive on {link.name} ({cause}); sockets need"
            " vnet_hdr=True to receive them whole",
            f"RawSocket({in_python(link.name)}, vnet_hdr=True), or: {remedy}",
            **values,
        )
    hidden = not administers_network()
    unless = " (unless its filter, which only root sees, rejects TCP)"
    named = "; ".join(describe(sock.inode, processes) for sock in exposed)
    return (note if hidden else problem)(
        NAME,
        f"super-frames can arrive on {link.name} ({cause}); a socket without"
        " vnet_hdr truncates them, and gets frames whose checksum is missing,"
        f" which it must not forward{unless if hidden else ''}: {named}",
        f"RawSocket({in_python(link.name)}, vnet_hdr=True) and"
        f" PacketBatch(frame_size=SUPER_FRAME), or: {remedy}",
        **values,
    )


def _cause(link: Link, offloads: Offloads) -> tuple[str | None, str]:
    """Returns why super-frames can arrive, or None, and how to stop them."""
    for below in _below(link):
        there = offloads_of(below.name)
        cause, remedy = _cause(below, there) if there else (None, "")
        if cause is not None:
            return cause, remedy
    if link.kind in _STACKED + _WITH_PORTS:
        return None, ""
    # A tap merges nothing, unless its program sets IFF_NAPI, which few do.
    if link.kind == "tun":
        return _cause_behind_tap(link)
    if link.hardware_type == _ARPHRD_LOOPBACK:
        return _cause_at_sender(link, "which receives what it sends")
    merges = offloads.merges
    if merges:
        off = " ".join(f"{name} off" for name in merges)
        return (
            f"{' and '.join(merges).upper()} is on for {link.name}",
            f"ethtool -K {in_shell(link.name)} {off}",
        )
    return _cause_at_far_end(link) if link.kind == "veth" else (None, "")


def _below(link: Link) -> list[Link]:
    """The interfaces from which it gets its packets."""
    if link.kind in _WITH_PORTS:
        return ports_of(link)
    if link.kind in _STACKED and link.lower_is_here:
        below = link_by_index(link.lower)
        return [] if below is None else [below]
    return []


def _cause_behind_tap(link: Link) -> tuple[str | None, str]:
    if link.kind_data.get(_IFLA_TUN_VNET_HDR) != b"\1":
        return None, ""
    return (
        f"the program behind {link.name} can send them",
        "switch segmentation off in that program, or in its guest",
    )


def _cause_at_far_end(link: Link) -> tuple[str | None, str]:
    """Of a veth pair: the sending end decides
    (drivers/net/veth.c:veth_xmit())."""
    if not link.lower_is_here:
        return (
            "the far end decides, in another network namespace",
            "ethtool -K PEER tx off tso off gso off, in that namespace",
        )
    far = link_by_index(link.lower)
    if far is None:
        return None, ""
    return _cause_at_sender(far, "the far end")


def _cause_at_sender(sender: Link, which: str) -> tuple[str | None, str]:
    sent = offloads_of(sender.name)
    if sent is None or not sent.sends_super_frames:
        return None, ""
    return (
        f"{sender.name}, {which}, has TSO or GSO on",
        f"ethtool -K {in_shell(sender.name)} tx off tso off gso off",
    )


def _outgoing(
    link: Link, offloads: Offloads, values: dict[str, Value]
) -> Finding:
    """About frames that this machine itself sends: sockets see them too."""
    if not offloads.sends_super_frames:
        return ok(NAME, f"no super-frames pass {link.name}", **values)
    return note(
        NAME,
        f"no super-frames arrive on {link.name}, but this machine can send"
        " some there (TSO or GSO is on), and sockets see what is sent",
        f"RawSocket({in_python(link.name)}, ignore_outgoing=True), or:"
        f" ethtool -K {in_shell(link.name)} tx off tso off gso off",
        **values,
    )

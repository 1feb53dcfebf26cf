"""Packet filters: the pcap-filter language, compiled to classic BPF.

`compile("udp port 53")` gives a `Program` for SO_ATTACH_FILTER, in pure
Python, right for AF_PACKET sockets.
"""

from __future__ import annotations

from .errors import FilterError, UnsupportedFilterError
from .program import Instruction, Program

__all__ = [
    "FilterError",
    "Instruction",
    "Program",
    "UnsupportedFilterError",
    "compile",
]

_ARPHRD_ETHER = 1


def compile(
    expression: str,
    /,
    *values: object,
    link_type: int = _ARPHRD_ETHER,
    snaplen: int = 262144,
    live: bool = True,
    netmask: int | None = None,
) -> Program:
    """Compile an expression in the language of pcap-filter(7).

    Each `{}` in the expression takes one of `values`: an int, an
    ipaddress object or the six bytes of a MAC address. A text from outside
    is never part of the expression this way.

    `link_type` is the ARPHRD_* number of the interface: Ethernet and
    loopback, or one of the types whose packets begin with the IP header.
    An accepted packet is cut to `snaplen` bytes. With `live` the program
    is for an AF_PACKET socket, where the kernel keeps the outermost VLAN
    tag of a received frame beside it; without, for bytes in memory or in
    a file. `netmask`, a number, is needed by `ip broadcast` only.

    FilterError says what is wrong and where; UnsupportedFilterError, one
    of them, what is right but not supported: 802.11, ATM, DECnet, SS7,
    IS-IS, packet-filter logs, `protochain`, `gateway`, and all link types
    but those above. Program.from_tcpdump() takes tcpdump's program for
    these. Host names are never looked up; names of services and protocols
    are, in the system's databases.

    Means what libpcap 1.10 means, and knows `vxlan` besides. `ip
    multicast` is 224.0.0.0/4, as in libpcap since its pull request 1525;
    1.10 takes 240.0.0.0/4 for multicast too. Of a packet that is cut
    short within its headers libpcap's verdict may depend on whether it
    optimises; this one is then either of the two.
    """
    # Here, so that importing this package does not cost the compiler.
    from .compiler import compile_expression

    if not isinstance(expression, str):
        raise TypeError(
            f"an expression is a str, not {type(expression).__name__}"
        )
    if not 0 < snaplen <= 0xFFFFFFFF:
        raise ValueError(f"snaplen must be from 1 to 2**32 - 1, not {snaplen}")
    return compile_expression(
        expression, values, link_type, snaplen, live, netmask
    )

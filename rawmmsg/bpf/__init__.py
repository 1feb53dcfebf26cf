"""Packet filters: compiles the language of pcap-filter(7) to classic BPF.

`compile("udp port 53")` returns a `Program` for SO_ATTACH_FILTER on an
AF_PACKET socket. The compiler is pure Python and does not need libpcap.
"""

from operator import index

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
    """Compiles an expression in the language of pcap-filter(7).

    values     one for each `{}` in the expression: an int, an ipaddress object
               or the six bytes of a MAC address. So text from outside never
               becomes a part of the expression
    link_type  the ARPHRD_ number of the interface: 1 (Ethernet), 772
               (loopback), or a type whose packets begin with the IP header,
               such as 65534 (tun)
    snaplen    how many bytes of an accepted packet the kernel keeps
    live       True: for an AF_PACKET socket, where the kernel moves the
               outermost VLAN tag out of a received frame. False: for packets
               in memory or in a file
    netmask    a number, which only `ip broadcast` needs

    Names of services and protocols are looked up in the system's databases.
    Host names are never looked up.

    Raises FilterError, which says what is wrong, and where; and its subclass
    UnsupportedFilterError for what is valid but not supported: 802.11, ATM,
    DECnet, SS7, IS-IS, packet-filter logs, `protochain`, `gateway`, and other
    link types. For these, Program.from_tcpdump() reads the program that
    tcpdump prints. Raises TypeError if `expression` is not a str, and
    ValueError if `snaplen` or `netmask` does not fit in 32 bits.

    An expression means what it means in libpcap 1.10, with these exceptions.
    `vxlan` is supported. `ip multicast` is 224.0.0.0/4 (libpcap's pull request
    1525), not 240.0.0.0/4 as well. A packet that is cut short within its
    headers may be accepted by libpcap's optimised program and not by its
    unoptimised one: this program does what the unoptimised one does.
    """
    # Only programs that compile import the compiler.
    from .compiler import compile_expression

    if not isinstance(expression, str):
        raise TypeError(
            f"an expression must be a str, not {type(expression).__name__}"
        )
    link_type, snaplen = index(link_type), index(snaplen)
    if not 0 < snaplen <= 0xFFFFFFFF:
        raise ValueError(f"snaplen must be from 1 to 2**32 - 1, not {snaplen}")
    if netmask is not None:
        netmask = index(netmask)
        if not 0 <= netmask <= 0xFFFFFFFF:
            raise ValueError(
                f"netmask must be from 0 to 2**32 - 1, not {netmask}"
            )
    try:
        return compile_expression(
            expression, values, link_type, snaplen, live, netmask
        )
    except FilterError as error:
        # The traceback of a mistyped filter ends here.
        raise error.with_traceback(None) from None

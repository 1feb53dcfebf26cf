"""Filters for the frames that enter at a port."""

from ..bpf import FilterError, Program, compile

__all__ = ["for_datagrams", "for_interface", "for_udp"]

UDP_HEADER = 8


def for_interface(expression: str | None) -> Program | None:
    """A filter for Ethernet frames on a packet socket. None: no filter."""
    return None if expression is None else compile(expression)


def for_datagrams(expression: str | None) -> Program | None:
    """The same for memory that holds an Ethernet frame with its tags: a
    datagram, or what a guest sends."""
    return None if expression is None else compile(expression, live=False)


def for_udp(expression: str | None) -> Program | None:
    """The same for a UDP socket, whose filter sees the UDP header as well."""
    program = for_datagrams(expression)
    try:
        return None if program is None else program.shifted(UDP_HEADER)
    except FilterError as error:
        reason = f"the filter cannot be used on a UDP port: {error.reason}"
        raise FilterError(reason, expression, 0) from None

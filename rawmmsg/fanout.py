"""Sockets that share the packets of an interface (PACKET_FANOUT)."""

from __future__ import annotations

from contextlib import ExitStack

from ._rawmmsg import RawSocket

# Only for type checkers: typing takes as long to import as the package.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Buffer

    from ._rawmmsg import _FanoutMode

__all__ = ["open_fanout_group"]


def open_fanout_group(
    count: int,
    interface: str,
    mode: _FanoutMode = "hash",
    *,
    group: int | None = None,
    flags: int = 0,
    program: Buffer | int | None = None,
    **options: Any,
) -> list[RawSocket]:
    """Opens `count` sockets of one fanout group, and returns them. Each packet
    goes to exactly one of them.

    Use one socket for each thread. For processes, open the sockets before the
    fork, or give each process the group: ``RawSocket(interface, fanout=(mode,
    number))``, where number is ``sockets[0].fanout_group``. All members need
    the same interface, protocol, mode, flags and ignore_outgoing.

    mode     "hash" keeps the packets of a flow together; "lb", "cpu",
             "rollover", "random", "queue"; "cbpf" and "ebpf" choose by
             `program`. Or a rawmmsg.constants.FanoutMode
    group    None: a new number, which no other group has
    flags    FANOUT_FLAG_DEFRAG and FANOUT_FLAG_ROLLOVER, or-ed
    program  chooses the socket: instructions for "cbpf", the descriptor of a
             loaded program for "ebpf"
    options  the options of every RawSocket

    Raises what RawSocket raises, and ValueError if `count` is below 1. It then
    leaves no socket open.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    with ExitStack() as opened:
        sockets: list[RawSocket] = []
        for _ in range(count):
            first = not sockets
            member = RawSocket(
                interface,
                fanout=(mode, group, flags, program if first else None),
                **options,
            )
            sockets.append(opened.enter_context(member))
            group = member.fanout_group
        opened.pop_all()
    return sockets

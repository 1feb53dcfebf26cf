"""Several sockets that share the packets of an interface (PACKET_FANOUT)."""

from __future__ import annotations

from contextlib import ExitStack

from ._rawmmsg import RawSocket

# Only for type checkers: see constants.py.
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
    """Opens `count` sockets of one fanout group: every packet goes to exactly
    one of them.

    For threads, a socket each; for processes, open before the fork, or give
    each one the group: ``RawSocket(interface, fanout=(mode, number))``, where
    number is ``sockets[0].fanout_group``. All members need the same
    interface, protocol, mode, flags and ignore_outgoing.

    mode     "hash" keeps a flow together; "lb", "cpu", "rollover", "random",
             "queue"; "cbpf" and "ebpf" choose by `program`
    group    None: a new number, which nobody else has
    options  of every RawSocket

    Raises as RawSocket does, and ValueError for a count below 1; no socket is
    left open then.
    """
    if count < 1:
        raise ValueError(f"a group has at least one socket, not {count}")
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

"""Ways to send a batch, each in this process: rawmmsg, in C, with the socket
module and with other people's modules.

What listens on the sending interface costs each frame, and a libpcap handle
does listen: it gets a veth pair of its own.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

from rawmmsg import PacketBatch, RawSocket

from ..network.link import Ends, Frames
from ..tools import peers
from .c_side import Handle
from .ways import loop_setup

# What libpcap asks for where nobody says otherwise.
_SNAPLEN: Final = 65535
_TIMEOUT_MS: Final = 1

# ETH_P_LOOPBACK: for a handle that is not to listen for what is sent.
_NOBODYS: Final = 0x9000


def _nothing() -> None:
    """Nothing is to be done when the frames are written anew."""


@dataclass(frozen=True)
class Sender:
    """A way, ready for its frames: `run` sends the batch so many times, and
    returns the nanoseconds that it took if it knows better than who calls;
    `prepare` comes before, and is not timed."""

    ends: Ends
    run: Callable[[int], int | None]
    prepare: Callable[[], object] = field(default=_nothing)


# Makes a sender; what it opens is closed with the stack. The ends are those
# that several share.
Start: TypeAlias = Callable[[Ends, Frames, contextlib.ExitStack], Sender]


def in_c(
    source: str, *libraries: str, options: int = 0, own: bool = False
) -> Start:
    """A side in C, of a library with the functions of c/send.h; on a veth pair
    of its `own`, where it listens on it."""

    def start(
        shared: Ends, frames: Frames, stack: contextlib.ExitStack
    ) -> Sender:
        ends = stack.enter_context(Ends()) if own else shared
        setup = loop_setup(ends, -1, frames, options)
        side = Handle("sending", source, libraries, setup, frames)
        stack.callback(side.close)

        def run(rounds: int) -> None:
            side.call("run", rounds)

        return Sender(ends, run, lambda: side.call("prepare"))

    return start


def _repeat(send: Callable[[], object], rounds: int) -> None:
    for _ in range(rounds):
        send()


def _one_by_one(
    send: Callable[[bytes], object], packets: list[bytes], rounds: int
) -> None:
    for _ in range(rounds):
        for packet in packets:
            send(packet)


def rawmmsg(
    packets: Callable[[Frames], PacketBatch | list[bytes]],
) -> Start:
    """rawmmsg, and what it sends from."""

    def start(shared: Ends, frames: Frames, _: contextlib.ExitStack) -> Sender:
        send = partial(shared.tx.sendmmsg_all, packets(frames))
        return Sender(shared, partial(_repeat, send))

    return start


def rawmmsg_bypass(
    shared: Ends, frames: Frames, stack: contextlib.ExitStack
) -> Sender:
    """rawmmsg past the traffic control layer, as trafgen does."""
    tx = stack.enter_context(
        RawSocket(shared.veth.a, protocol=0, qdisc_bypass=True)
    )
    send = partial(tx.sendmmsg_all, frames.out)
    return Sender(shared, partial(_repeat, send))


def stdlib(shared: Ends, frames: Frames, _: contextlib.ExitStack) -> Sender:
    """The socket module, one packet a call."""
    send = shared.tx_stdlib.send
    return Sender(shared, partial(_one_by_one, send, frames.packets))


def pcapy(_: Ends, frames: Frames, stack: contextlib.ExitStack) -> Sender:
    """pcapy-ng: libpcap from Python, one packet a call."""
    module: Any = peers.module("pcapy")
    ends = stack.enter_context(Ends())
    handle = module.open_live(ends.veth.a, _SNAPLEN, False, _TIMEOUT_MS)
    stack.callback(handle.close)
    return Sender(
        ends, partial(_one_by_one, handle.sendpacket, frames.packets)
    )


def cypcap(_: Ends, frames: Frames, stack: contextlib.ExitStack) -> Sender:
    """cypcap: libpcap from Python, one packet a call."""
    module: Any = peers.module("cypcap")
    ends = stack.enter_context(Ends())
    handle = stack.enter_context(module.create(ends.veth.a))
    handle.set_snaplen(_SNAPLEN)
    handle.set_protocol_linux(_NOBODYS)
    handle.set_timeout(_TIMEOUT_MS)
    handle.activate()
    return Sender(ends, partial(_one_by_one, handle.inject, frames.packets))

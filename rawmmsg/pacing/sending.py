"""send(): from a user's packets to the result."""

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sized
from contextlib import suppress
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Final, Protocol

from .. import PacketBatch, RawSocket
from .loads import Load, Source, loads, passes, whole_batch
from .merging_sender import MergingSender
from .outlet import Outlet, send_loads
from .pace import Pace, Pacer, choose_pace
from .sender import Sender
from .streaming import send_as_yielded

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MOST_SECONDS: Final = 0.001  # to gather a load that sending waits for


class StopEvent(Protocol):
    """An object that can stop a call: a threading.Event, a
    multiprocessing.Event, or another object with this method."""

    def is_set(self) -> bool:
        """Returns whether the call must end."""


class Progress(Protocol):
    """A progress bar: tqdm's, or another with these methods."""

    def reset(self, total: int) -> object: ...
    def update(self, count: int) -> object: ...


@dataclass(frozen=True)
class SendResult:
    """The result of send().

    frames, bytes   how many the kernel took; bytes as given, without preamble
                    and frame check sequence
    seconds         from the first frame to the last, without the time in
                    which packets were built before the first
    rate            frames per second: (frames - 1) / seconds, because the
                    last frame ends the time; 0 for a single frame
    retries         calls that were repeated because a queue was full (ENOBUFS)
    errors          frames that the kernel refused: longer than the MTU
                    allows, shorter than the link header, or dropped on their
                    way out while other frames pass (ENOBUFS)
    refusal         the first of these errors, or None
    """

    frames: int
    bytes: int
    seconds: float
    rate: float
    retries: int
    errors: int
    refusal: OSError | None


def send(
    sock: RawSocket,
    packets: "Iterable[Buffer | tuple[Buffer, ...]]",
    *,
    loop: int = 1,
    pps: float | None = None,
    mbps: float | None = None,
    inter: float | None = None,
    stop: StopEvent | None = None,
    merge: bool = False,
) -> SendResult:
    """Sends packets over a socket, at a given rate, and counts exactly how
    many the kernel took.

    packets  a PacketBatch, which is sent from its own memory; or an iterable
             of buffers (a list, rows of a numpy array, a generator), in which
             a tuple of buffers is one packet
    loop     how many times to send all packets; 0: until stopped
    pps      packets per second
    mbps     megabits of packets per second
    inter    seconds from one packet to the next
    stop     an Event; when another thread or a signal handler sets it, the
             call returns within 0.05 s, or when a generator yields again
    merge    True: send consecutive packets of a TCP or UDP flow that are due
             together as one super-frame, which is later cut into the same
             packets (PacketBatch.merge_into()). `sock` needs vnet_hdr

    Choose one rate, or none: packets then leave as fast as the kernel takes
    them. Each packet has a deadline: packets that are due within 0.2 ms of
    each other leave in one system call. If sending falls behind by up to one
    second, it catches up at no more than twice the requested rate. A longer
    delay stays: all packets are sent, but later, and the result's `rate` is
    lower.

    Packets of a list are copied before the first one leaves if there is a
    pace or a loop. Those of a generator are sent as soon as they are yielded
    and due, by another thread, so that the generator may wait for an answer;
    at most 2,048 of them are in memory at a time. With `loop`, the generator
    is read to its end first. A PacketBatch must stay as it is until the call
    returns.

    A packet that the kernel refuses (too long, too short, or dropped on its
    way out) does not end the call, because the other packets are to keep
    their pace. It is skipped and counted in `errors`, once for each time that
    it was to be sent; `refusal` is the first error. To make it an exception:
    ``if result.refusal: raise result.refusal``. The kernel reports ENOBUFS
    both for a full queue and for a packet that something on the way out drops
    (a far end with a smaller MTU, a filter). If other packets pass, the packet
    was refused. A full queue is tried again, for up to one second without
    progress. A packet that is tried to tell the two apart can overtake up to
    four packets before it.

    With ``merge=True`` the result still counts packets, not super-frames. Only
    packets that would leave in the same system call are merged, and none that
    is longer than the MTU allows. If the kernel does not take a super-frame,
    its packets are sent one by one. If it refuses super-frames of UDP, as
    Linux before 6.2 does, there is a RuntimeWarning, and from then on only TCP
    is merged on this socket. If the kernel has to cut a super-frame for an
    interface whose queue is full, such as a tap device, it drops packets
    without an error.

    Without `merge`, the socket needs no special settings. It keeps those it
    has; its timeout does not apply. Other threads may receive on it meanwhile,
    but must not send on it, because the result counts what the socket has
    sent.

    Raises OSError by errno (ENETDOWN: the link is down, ENODEV, EPERM, EBADF:
    the socket was closed), what sendmmsg() raises for a packet that does not
    suit the socket, what `packets` raises, after all packets before that have
    been sent, and KeyboardInterrupt; each with `packets_sent`. ValueError and
    TypeError for arguments, and for a socket that cannot merge.
    """
    if _is_one_packet(packets) or not isinstance(packets, Iterable):
        raise TypeError(
            "packets must be a PacketBatch or an iterable of buffers, not"
            f" {type(packets).__name__}; to send one packet: [packet]"
        )
    source: PacketBatch | Source
    if isinstance(packets, PacketBatch):
        source = packets
    else:
        source = Source(packets, bytes_of, not isinstance(packets, Sized))
    pace = choose_pace(pps=pps, mbps=mbps, inter=inter)
    return transmit(sock, source, pace, loop=loop, stop=stop, merge=merge)


def _is_one_packet(packets: object) -> bool:
    """Whether these can be iterated over, but byte by byte."""
    if isinstance(packets, str | bytes | bytearray | memoryview):
        return True
    # A NumPy array of one dimension and of numbers.
    kind = getattr(getattr(packets, "dtype", None), "kind", "")
    return kind in ("u", "i") and getattr(packets, "ndim", 2) == 1


def bytes_of(packet: Any) -> bytes:
    """Returns the bytes of a buffer, or of a tuple of them."""
    if type(packet) is bytes:
        return packet
    if isinstance(packet, tuple):
        return b"".join(
            _bytes_of_part(part, "a tuple with ") for part in packet
        )
    return _bytes_of_part(packet, "")


def _bytes_of_part(part: Any, where: str) -> bytes:
    try:
        return bytes(memoryview(part))
    except TypeError:
        raise TypeError(
            "a packet must be a buffer or a tuple of buffers, not"
            f" {where}{type(part).__name__}"
        ) from None


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def transmit(
    sock: RawSocket,
    source: PacketBatch | Source,
    pace: Pace,
    *,
    loop: int,
    stop: StopEvent | None,
    merge: bool,
    warn: Callable[[str], object] = _warn,
    progress: Progress | None = None,
    ended_by: tuple[type[BaseException], ...] = (),
) -> SendResult:
    """Does what send() and sendp_batch() promise. An exception in `ended_by`
    ends the call with a result; others are raised with `packets_sent`."""
    if not isinstance(sock, RawSocket):
        raise TypeError(f"sock must be a RawSocket, not {sock!r}")
    loop = min(index(loop), sys.maxsize)  # nobody lives to see the end of it
    if loop < 0:
        raise ValueError(f"loop must be 0 (until stopped) or more, not {loop}")
    if stop is not None and not callable(getattr(stop, "is_set", None)):
        raise TypeError(f"stop must be an Event (is_set()), not {stop!r}")
    stopped = _never if stop is None else stop.is_set
    report = None if progress is None else progress.update
    sender: Sender
    if merge:
        once = loop != 1 and not pace.is_limited
        sender = MergingSender(sock, stopped, report, once=once, warn=warn)
    else:
        sender = Sender(sock, stopped, report)
    outlet = Outlet(sender)
    begin = None
    try:
        if isinstance(source, PacketBatch) or (
            loop != 1 or (pace.is_limited and not source.streams)
        ):
            built = _build_ahead(source, pace)
            if loop and progress is not None:
                progress.reset(loop * sum(load.frames for load in built))
            begin = time.monotonic()
            _send_passes(built, outlet, pace, loop)
        else:
            begin = time.monotonic()
            if source.streams:
                send_as_yielded(source, outlet, pace)
            else:
                batches = loads(source, pace, _MOST_SECONDS)
                send_loads(batches, outlet, None, 0.0)
    except ended_by:
        pass
    except BaseException as error:
        sender.settle()
        with suppress(AttributeError):  # a frozen dataclass can be raised
            error.packets_sent = sender.frames  # type: ignore[attr-defined]
        raise
    end = time.monotonic()
    sender.settle()
    seconds = end - (begin or end)
    return result_of(sender, seconds)


def result_of(sender: Sender, seconds: float) -> SendResult:
    """Returns what the sender has counted, and how long it took."""
    return SendResult(
        frames=sender.frames,
        bytes=sender.size,
        seconds=seconds,
        rate=(sender.frames - 1) / seconds if sender.frames > 1 else 0.0,
        retries=sender.retries,
        errors=sender.errors,
        refusal=sender.refusal,
    )


def _never() -> bool:
    return False


def _build_ahead(source: PacketBatch | Source, pace: Pace) -> list[Load]:
    if isinstance(source, PacketBatch):
        return whole_batch(source, pace)
    return list(loads(source, pace, math.inf))


def _send_passes(
    built: list[Load], outlet: Outlet, pace: Pace, loop: int
) -> None:
    """Sends all loads `loop` times; 0: until stopped."""
    if not built:
        return
    pacer = Pacer(pace.rate, outlet.stopped) if pace.is_limited else None
    shift = 0.0
    for one_pass in passes(built, loop):
        shift = send_loads(one_pass, outlet, pacer, shift)
        if outlet.stopped():
            return

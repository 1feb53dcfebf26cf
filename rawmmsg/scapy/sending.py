"""Scapy's packets sent in batches and at a pace: sendp_batch().

packets  ->  frames (bytes, built once)  ->  loads  ->  pacing.send()

Those of a generator are sent by a thread, through a relay.Relay.
"""

import importlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from scapy.base_classes import Gen
from scapy.config import conf
from scapy.error import log_runtime
from scapy.interfaces import NetworkInterface, network_name
from scapy.packet import NoPayload, Packet

from .. import PacketBatch, RawSocket
from ..pacing.outlet import NAP, Load, Outlet, Pacer, send
from ..pacing.relay import MOST_BYTES, Relay

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["SendResult", "sendp_batch"]

_Packet: TypeAlias = "Packet | Buffer"

MOST_FRAMES: Final = 1024  # of a batch: what one call takes
MOST_SECONDS: Final = 0.001  # to gather a batch that sending waits for
AHEAD: Final = 0.005  # seconds that a generator runs ahead of its pace


@dataclass(frozen=True)
class SendResult:
    """What sendp_batch() has sent, by the kernel's word.

    frames, bytes   that the kernel took; bytes as given, without preamble and
                    frame check sequence
    seconds         from the first frame to the last, without what was built
                    before
    rate            frames per second
    retries         calls repeated because a queue was full (ENOBUFS)
    errors          frames that the kernel refused: longer than the MTU
                    allows, shorter than the link header, or dropped on their
                    way out while others pass (ENOBUFS)
    refusal         the first of these errors
    """

    frames: int
    bytes: int
    seconds: float
    rate: float
    retries: int
    errors: int
    refusal: OSError | None


def sendp_batch(
    packets: "_Packet | Iterable[_Packet]",
    iface: NetworkInterface | str | None = None,
    *,
    loop: int = 1,
    pps: float | None = None,
    mbps: float | None = None,
    inter: float | None = None,
    realtime: float = False,
    progress: bool = False,
    stop: threading.Event | None = None,
) -> SendResult:
    """Sends packets at layer 2: built once, in batches, at a pace.

    packets   a Packet, bytes, or an iterable of both (a list, a PacketList, a
              generator). A Packet that stands for several is all of them, as
              in sendp()
    iface     conf.iface unless given
    loop      how often all are sent; 0: until stopped
    pps       frames per second
    mbps      million bits of frames per second
    inter     seconds from frame to frame
    realtime  keeps the gaps of packet.time; a number: so many times as fast
    progress  shows a bar, on a terminal and where tqdm is installed
    stop      an Event that another thread sets to end the call

    Without a pace (at most one of the four) frames leave as fast as the
    kernel takes them. A pace is kept by deadline: what is due within 0.2 ms
    leaves in one call. A delay of up to a second is made up for, at no more
    than twice the pace.

    A list that is paced, and whatever is sent more than once, is built before
    the first frame leaves. All else streams: in memory are, at a time, at
    most 2,048 packets. What a generator has yielded leaves at once, or at its
    pace, while the generator waits or works: another thread sends it.

    Ctrl-C ends the call, as it does sendp(); so does `stop`, within 0.05 s or
    a call of 1,024 frames, but not before a generator has yielded again. The
    result counts exactly what was sent. A frame that the kernel refuses is
    skipped, counted in `errors`, and warned of in the end. ENOBUFS is said of
    a full queue and of a frame that something on the way out drops (a far end
    with a smaller MTU, a filter): where others pass, the frame was refused. A
    full queue is tried again, for up to a second without progress. A frame
    that is tried to tell the two apart can overtake the up to four before it.

    Raises OSError by errno (ENODEV, EPERM; ENETDOWN when the link goes down)
    with `packets_sent`; whatever `packets` raises, when all that it gave
    before is sent; ValueError and TypeError for arguments.
    """
    axis = _choose_axis(pps, mbps, inter, realtime)
    if loop < 0:
        raise ValueError(f"loop must be 0, endless, or more, not {loop}")
    stopped = stop.is_set if stop is not None else _never
    with _send_only_socket(iface) as sock, _bar(progress) as bar:
        report = None if bar is None else bar.update  # a bar has no truth
        outlet = Outlet(sock, stopped, report)
        begin = None
        try:
            if loop != 1 or (
                axis.rate < math.inf and isinstance(packets, Sized)
            ):
                built = list(_loads(packets, axis, math.inf))
                if bar is not None and loop:
                    bar.reset(loop * sum(load.frames for load in built))
                begin = time.monotonic()
                _send_passes(built, outlet, axis.rate, loop)
            elif isinstance(packets, Sized):
                begin = time.monotonic()
                loads = _loads(packets, axis, MOST_SECONDS)
                send(loads, outlet, None, 0.0)
            else:
                begin = time.monotonic()
                _send_as_yielded(packets, outlet, axis)
        except KeyboardInterrupt:
            pass
        except OSError as error:
            outlet.settle()
            error.packets_sent = outlet.frames  # type: ignore[attr-defined]
            raise
        end = time.monotonic()
        outlet.settle()
    if outlet.refusal is not None:
        log_runtime.warning(
            *("sendp_batch: %d frames refused, the first with: %s",),
            *(outlet.errors, outlet.refusal),
        )
    seconds = end - (begin or end)
    return SendResult(
        frames=outlet.frames,
        bytes=outlet.size,
        seconds=seconds,
        rate=outlet.frames / seconds if seconds else 0.0,
        retries=outlet.retries,
        errors=outlet.errors,
        refusal=outlet.refusal,
    )


def _never() -> bool:
    return False


def _send_passes(
    loads: list[Load], outlet: Outlet, rate: float, loop: int
) -> None:
    """Sends all loads `loop` times, 0: until stopped."""
    if not loads:
        return
    pacer = Pacer(rate, outlet.stopped) if rate < math.inf else None
    shift = 0.0
    for passes in _passes(loads, loop):
        shift = send(passes, outlet, pacer, shift)
        if outlet.stopped():
            return


def _passes(loads: list[Load], loop: int) -> Iterator[list[Load]]:
    """The loads `loop` times. A short list is repeated within its batch: else
    each pass would be a system call, and a wake-up of the pacer's."""
    first = loads[0]
    fit = min(MOST_FRAMES // first.frames, MOST_BYTES // max(1, first.size))
    if len(loads) > 1 or loop == 1 or fit < 2:
        yield from repeat(loads, loop) if loop else repeat(loads)
        return
    if not loop:
        yield from repeat([first.repeated(fit)])
    full, rest = divmod(loop, fit)
    if full:
        yield from repeat([first.repeated(fit)], full)
    if rest:
        yield [first.repeated(rest)]


def _send_as_yielded(
    packets: "_Packet | Iterable[_Packet]", outlet: Outlet, axis: "_Axis"
) -> None:
    """Sends what a generator yields, while it goes on. An error of the
    generator comes when all that it yielded before is sent."""
    relay = Relay(axis.ahead(), outlet.stopped)
    failures: list[BaseException] = []
    aborted = False
    asked_to_stop = outlet.stopped
    outlet.stopped = lambda: aborted or asked_to_stop()
    # Not Thread.join(): where Ctrl-C ends that, some releases of CPython take
    # the thread for ended.
    ended = threading.Event()

    def work() -> None:
        try:
            paced = axis.rate < math.inf
            pacer = Pacer(axis.rate, outlet.stopped) if paced else None
            send(_relayed_loads(relay, axis), outlet, pacer, 0.0)
        except BaseException as error:
            failures.append(error)
        finally:
            relay.close()
            ended.set()

    sender = threading.Thread(target=work, name="rawmmsg-send")
    time_of = axis.time_of or _no_time
    failed: list[Exception] = []
    try:
        sender.start()
        try:
            for item in _expand(packets):
                if not relay.put(_build(item), time_of(item)):
                    break
        except Exception as error:
            failed.append(error)
        relay.close()
        # In naps: a signal that comes just before a wait does not end it.
        while not ended.wait(NAP):
            pass
    except BaseException:
        aborted = True
        relay.close()
        if sender.is_alive():
            ended.wait()
        raise
    # Out of the list, which else would keep this frame, and so the generator,
    # alive in a cycle.
    failures += failed
    failed.clear()
    if failures:
        del failures[1:]
        raise failures.pop()


def _relayed_loads(relay: Relay, axis: "_Axis") -> Iterator[Load]:
    batch: PacketBatch | None = None
    position = 0.0
    while True:
        frames, times = relay.take()
        if not frames:
            return
        positions = axis.place(frames, times, position)
        position = positions[-1]
        batch = _fill(batch, frames)
        yield Load(batch, sum(map(len, frames)), positions)


@contextmanager
def _send_only_socket(
    iface: NetworkInterface | str | None,
) -> Iterator[RawSocket]:
    if iface is None:
        iface = conf.iface
    name = iface if isinstance(iface, str) else network_name(iface)
    sock = RawSocket(name, protocol=0)
    try:
        yield sock
    finally:
        # The kernel waits for all its CPUs, 10 ms and more, before a packet
        # socket is closed (net/packet/af_packet.c:packet_release()): longer
        # than it takes to send a thousand frames.
        try:
            threading.Thread(target=sock.close, name="rawmmsg-close").start()
        except RuntimeError:  # no thread starts when the interpreter ends
            sock.close()


@contextmanager
def _bar(wanted: bool) -> Iterator[Any]:
    """A bar of tqdm, which shows nothing off a terminal; None without."""
    try:
        tqdm = importlib.import_module("tqdm") if wanted else None
    except ModuleNotFoundError:
        tqdm = None
    if tqdm is None:
        yield None
        return
    with tqdm.tqdm(unit=" frames", unit_scale=True, disable=None) as bar:
        yield bar


# From packets to loads


def _expand(packets: "_Packet | Iterable[_Packet]") -> Iterator[_Packet]:
    """Packet by packet, each as it is to be built."""
    items: Iterable[_Packet]
    if isinstance(packets, Packet | bytes | bytearray | memoryview):
        items = (packets,)
    elif isinstance(packets, Iterable) and not isinstance(packets, str):
        items = packets
    else:
        raise _no_packet(packets)
    for item in items:
        if isinstance(item, Gen) and not _is_fixed(item):
            yield from item
        else:
            yield item


def _is_fixed(item: Gen[Any]) -> bool:
    """Whether every layer says that it stands for one packet, as those of
    received packets do: then there is nothing to expand."""
    if not isinstance(item, Packet):
        return False
    layer: Packet = item
    while not isinstance(layer, NoPayload):
        if not layer.explicit:
            return False
        layer = layer.payload
    return True


def _build(item: _Packet) -> bytes:
    if type(item) is bytes:
        return item
    if isinstance(item, Packet):
        return bytes(item)
    try:
        return bytes(memoryview(item))  # a copy: it may change meanwhile
    except TypeError:
        raise _no_packet(item) from None


def _no_packet(what: object) -> TypeError:
    return TypeError(
        f"packets must be Packet objects or bytes, not {type(what).__name__}"
    )


def _gather(
    items: Iterator[_Packet],
    seconds: float,
    frames: list[bytes],
    time_of: Callable[[_Packet], float] | None,
    times: list[float],
) -> None:
    """Appends the frames of one batch, and their times where asked for."""
    until = time.monotonic() + seconds
    size = 0
    for item in items:
        frame = _build(item)
        if time_of is not None:
            times.append(time_of(item))
        frames.append(frame)
        size += len(frame)
        if (
            len(frames) == MOST_FRAMES
            or size >= MOST_BYTES
            or time.monotonic() >= until
        ):
            return


def _loads(
    packets: "_Packet | Iterable[_Packet]", axis: "_Axis", seconds: float
) -> Iterator[Load]:
    """Batches of `packets`, of what comes in `seconds` each. An error comes
    after what was there before it.

    Where `seconds` is finite, the memory of each is used for the next.
    """
    items = _expand(packets)
    batch: PacketBatch | None = None
    position = 0.0
    failure: Exception | None = None
    while failure is None:
        frames: list[bytes] = []
        times: list[float] = []
        try:
            _gather(items, seconds, frames, axis.time_of, times)
        except Exception as error:
            failure = error
        if not frames:
            break
        positions = axis.place(frames, times, position)
        position = positions[-1]
        batch = _fill(batch if seconds < math.inf else None, frames)
        yield Load(batch, sum(map(len, frames)), positions)
    if failure is not None:
        raise failure


def _fill(batch: PacketBatch | None, frames: list[bytes]) -> PacketBatch:
    """The frames in this batch, or in a new one where it is too small."""
    longest = max(1, *map(len, frames))
    if batch is not None:
        capacity, room = batch.capacity, batch.frame_size or 0
        if len(frames) <= capacity and longest <= room:
            batch.clear()
            batch.extend(frames)
            return batch
    batch = PacketBatch(len(frames), longest)
    batch.extend(frames)
    return batch


# Where frames lie on the pacer's axis


class _Axis(NamedTuple):
    """What a pace counts.

    `place(frames, times, start)` gives the positions of a load that follows
    what ended at `start`; `rate` of them pass in a second.
    """

    rate: float
    place: Callable[[Sequence[bytes], Sequence[float], float], Sequence[float]]
    time_of: Callable[[_Packet], float] | None = None
    typical: float = 1  # how far it is from frame to frame

    def ahead(self) -> int:
        """Frames that a generator may be ahead of the pace."""
        return int(max(1, min(MOST_FRAMES, AHEAD * self.rate / self.typical)))


def _by_count(
    frames: Sequence[bytes], times: Sequence[float], start: float
) -> Sequence[float]:
    return range(int(start), int(start) + len(frames) + 1)


def _by_bits(
    frames: Sequence[bytes], times: Sequence[float], start: float
) -> Sequence[float]:
    return list(accumulate((8 * len(f) for f in frames), initial=start))


def _by_time(
    frames: Sequence[bytes], times: Sequence[float], start: float
) -> Sequence[float]:
    """A packet older than the one before follows it at once."""
    rising = list(accumulate(times, max, initial=start))[1:]
    return [*rising, rising[-1]]


def _choose_axis(
    pps: float | None,
    mbps: float | None,
    inter: float | None,
    realtime: float,
) -> _Axis:
    given = {"pps": pps, "mbps": mbps, "inter": inter or None}
    given["realtime"] = float(realtime) or None
    paces = {name: value for name, value in given.items() if value is not None}
    if len(paces) > 1:
        raise ValueError(f"one pace at a time, not {' and '.join(paces)}")
    for name, value in paces.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, not {value}")
    if pps is not None:
        return _Axis(pps, _by_count)
    if mbps is not None:
        return _Axis(mbps * 1e6, _by_bits, typical=8 * 1500)
    if inter:
        return _Axis(1 / inter, _by_count)
    if realtime:
        return _Axis(float(realtime), _by_time, _since_first(), typical=0.001)
    return _Axis(math.inf, _by_count)


def _no_time(item: _Packet) -> float:
    return 0.0


def _since_first() -> Callable[[_Packet], float]:
    """Times relative to that of the first packet asked for."""
    origin: float | None = None

    def time_of(item: _Packet) -> float:
        nonlocal origin
        if not isinstance(item, Packet):
            raise TypeError(
                "realtime needs packets that have a time, not "
                f"{type(item).__name__}"
            )
        when = float(item.time)
        origin = when if origin is None else origin
        return when - origin

    return time_of

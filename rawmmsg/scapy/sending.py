"""sendp_batch(): Scapy's packets sent in batches and at a pace.

packets  ->  frames (bytes, built once)  ->  rawmmsg.pacing
"""

import importlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from scapy.base_classes import Gen
from scapy.config import conf
from scapy.error import log_runtime
from scapy.interfaces import NetworkInterface, network_name
from scapy.packet import NoPayload, Packet

from .. import RawSocket
from ..pacing import SendResult
from ..pacing.loads import Source
from ..pacing.pace import choose_pace
from ..pacing.sending import StopEvent, bytes_of, transmit

if TYPE_CHECKING:
    from typing_extensions import Buffer

_Packet: TypeAlias = "Packet | Buffer"


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
    stop: StopEvent | None = None,
    merge: bool = False,
) -> SendResult:
    """Sends packets at layer 2, in batches and at a pace; builds each of them
    once. (If they are sent once, building them takes most of the time: bytes
    leave much faster.)

    packets   a Packet, bytes, or an iterable of both (a list, a PacketList, a
              generator). A Packet that stands for a set of packets is sent
              as all of them, as by sendp()
    iface     the interface; conf.iface unless given
    loop      how many times to send all packets; 0: until stopped
    pps       packets per second
    mbps      megabits of packets per second
    inter     seconds from one packet to the next
    realtime  True: keep the gaps of packet.time; a number: that many times as
              fast. A packet with an earlier time than the one before leaves at
              once, and so does the first one of the next pass (`loop`)
    progress  show a progress bar, on a terminal and if tqdm is installed
    stop      an Event that another thread sets to end the call
    merge     True: send consecutive packets of a TCP or UDP flow that are due
              together as one super-frame

    The pace, the packets that the kernel refuses, the order of packets and
    `merge` are as in rawmmsg.pacing.send(). At the end, a warning in Scapy's
    log says how many packets were refused. A warning also says if the kernel
    refuses super-frames of UDP. IPv4 packets are merged only if their
    identifications count up, as those of ``IP(id=(1, 1000))`` do. In Scapy all
    have 1 by default.

    A list that is sent at a pace, and any packets that are sent more than
    once, are built before the first one leaves. Otherwise at most 2,048
    packets are in memory at a time. A packet that a generator yields is sent
    at once, or when the pace allows, while the generator waits or works:
    another thread sends it.

    Ctrl-C ends the call, as it ends sendp(); so does `stop`, within 0.05 s or
    a call of 1,024 packets, but not before a generator yields again. The
    result counts exactly what was sent.

    Raises OSError by errno (ENODEV, EPERM; ENETDOWN when the link goes down)
    with `packets_sent`; what `packets` raises, after all packets before that
    have been sent; ValueError and TypeError for arguments.
    """
    pace = choose_pace(
        pps=pps,
        mbps=mbps,
        inter=inter,
        realtime=realtime,
        time_of=_since_first(),
    )
    source = Source(_expand(packets), _build, not isinstance(packets, Sized))
    with _send_only_socket(iface, merge) as sock, _bar(progress) as bar:
        result = transmit(
            sock,
            source,
            pace,
            loop=loop,
            stop=stop,
            merge=merge,
            warn=_warn,
            progress=bar,
            ended_by=(KeyboardInterrupt,),
        )
    if result.refusal is not None:
        log_runtime.warning(
            "sendp_batch: the kernel refused %d packets, the first one with:"
            " %s",
            *(result.errors, result.refusal),
        )
    return result


def _warn(message: str) -> None:
    log_runtime.warning("sendp_batch: %s", message)


@contextmanager
def _send_only_socket(
    iface: NetworkInterface | str | None, vnet_hdr: bool
) -> Iterator[RawSocket]:
    if iface is None:
        iface = conf.iface
    name = iface if isinstance(iface, str) else network_name(iface)
    sock = RawSocket(name, protocol=0, vnet_hdr=vnet_hdr)
    sock.setblocking(False)
    try:
        yield sock
    finally:
        # Before the kernel closes a packet socket it waits for all its CPUs,
        # for 10 ms and more (net/packet/af_packet.c:packet_release()): longer
        # than it takes to send a thousand packets. So a thread closes it.
        try:
            threading.Thread(target=sock.close, name="rawmmsg-close").start()
        except RuntimeError:  # no thread starts when the interpreter ends
            sock.close()


@contextmanager
def _bar(wanted: bool) -> Iterator[Any]:
    """Yields a bar of tqdm, which shows nothing off a terminal; None if it is
    not wanted or tqdm is not installed."""
    try:
        tqdm = importlib.import_module("tqdm") if wanted else None
    except ModuleNotFoundError:
        tqdm = None
    if tqdm is None:
        yield None
        return
    with tqdm.tqdm(unit=" frames", unit_scale=True, disable=None) as bar:
        yield bar


def _expand(packets: "_Packet | Iterable[_Packet]") -> Iterator[_Packet]:
    """Yields the packets one by one, each as it is to be built."""
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
        return bytes_of(item)
    except TypeError:
        raise _no_packet(item) from None


def _no_packet(what: object) -> TypeError:
    return TypeError(
        f"packets must be Packet objects or bytes, not {type(what).__name__}"
    )


def _since_first() -> Callable[[_Packet], float]:
    """Returns a function that gives the time of a packet, counted from that of
    the first packet."""
    origin: float | None = None

    def time_of(item: _Packet) -> float:
        nonlocal origin
        if not isinstance(item, Packet):
            raise TypeError(
                "realtime needs Packet objects, which have a time, not "
                f"{type(item).__name__}"
            )
        when = float(item.time)
        origin = when if origin is None else origin
        return when - origin

    return time_of

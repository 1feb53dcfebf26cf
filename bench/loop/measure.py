"""The cost of a packet that one thread sends over a veth pair and receives.

One CPU does all the work, including the kernel's at both ends. All contenders
send with sendmmsg(), except the socket module, which uses send(), and
"libpcap, inject". "C" asks for auxdata, which rawmmsg needs to restore VLAN
tags; "C, bare" asks for nothing, like rawmmsg with vlan=False. With "stamps"
the kernel timestamps each packet (SO_TIMESTAMPNS), and the timestamp is read.

The rings have 8 MiB, like the queues of the sockets. Those "in cache" hold two
batches, which fit the CPU's cache. "copied" means into the caller's memory,
where recvmmsg() puts them. TPACKET_V3 passes on blocks of 16 KiB when they are
full; the last block is read after the slice. libpcap is in immediate mode, and
its sending handle does not listen. tx and rx are timed in slices of their own,
because reading the clock takes 50 to 100 ns a batch.

"stride" varies how far apart and how many the frames of a batch are. "python"
shows what Python code costs that looks at every packet: a function called with
each packet that reads its EtherType, and numpy reading those of a whole batch.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from rawmmsg import PacketBatch

from ..lab import cpus, peers
from ..lab.contender import Contender, GroundTruthError, Ready, control
from ..lab.link import AUXDATA, HEADER, STAMPS, Frames, Link
from ..lab.native import COPY, INJECT, LARGE, V3
from ..lab.result import Table
from ..lab.runner import Lab
from .sides import Place, Prepare, in_c, rawmmsg, stdlib

SIZES: Final = (64, 1500)
BATCHES: Final = (1, 4, 16, 64, 256, 1024)

# At least 0.97 of the rate of C, in batches of at least 64.
AT_MOST: Final = 1.031
PROMISED_FROM: Final = 64

# All contenders run with this batch, in others only the main ones.
EVERYONE_AT: Final = 64


def measure(lab: Lab) -> Iterator[Table]:
    for size in lab.sizes(lab.pick(SIZES, SIZES, SIZES[-1:])):
        quick = (1, 64, 1024) if size == SIZES[0] else (64,)
        for batch in lab.pick(BATCHES, quick, (1, 64)):
            yield _table(
                lab,
                f"loop/{size}B/batch{batch}",
                f"{size:,}-byte frames, batches of {batch:,}",
                contenders(batch),
                Frames(batch, size),
            )
    yield from _measure_strides(lab)
    yield from _measure_python(lab)


calls: Final = partial(in_c, "loop/side.c:calls")
_ring: Final = partial(in_c, "loop/side.c:ring")
_pcap: Final = partial(in_c, "loop/side.c:pcap")


def contenders(batch: int) -> list[Contender[Place]]:
    """The contenders that run with batches of this size."""
    promised = batch >= PROMISED_FROM
    at_most = AT_MOST if promised else None
    c, bare = Contender("C", calls(AUXDATA)), "C, bare"
    found = [
        c,
        control(c, 0.01 if promised else None),
        Contender("rawmmsg", _rawmmsg(), "C", at_most=at_most),
        Contender("stdlib", stdlib(), "C"),
        Contender("TPACKET_V2", _ring(LARGE), "C"),
        Contender("TPACKET_V3", _ring(V3 | LARGE), "C"),
        Contender("libpcap, inject", _pcap(INJECT), "C"),
    ]
    if promised:
        plain = rawmmsg(lambda link: link.rx_bare)
        both = AUXDATA | STAMPS
        stamps = rawmmsg(lambda link: link.rx_stamped, both)
        found += [
            Contender(bare, calls(), "C"),
            Contender("rawmmsg, vlan=False", plain, bare, at_most=AT_MOST),
            Contender("C, stamps", calls(both), "C"),
            Contender("rawmmsg, stamps", stamps, "C, stamps", at_most=AT_MOST),
        ]
    if batch == EVERYONE_AT:
        found += [
            control(Contender(bare, calls())),
            Contender("C, bare, stamps", calls(STAMPS), bare),
            Contender("rawmmsg, from a list", _rawmmsg(from_list=True), "C"),
            Contender("stdlib, stamps", stdlib(STAMPS), "stdlib"),
            Contender("TPACKET_V2, copied", _ring(LARGE | COPY), bare),
            Contender("TPACKET_V3, copied", _ring(LARGE | COPY | V3), bare),
            Contender("TPACKET_V2, in cache", _ring(), "C"),
            Contender("TPACKET_V3, in cache", _ring(V3), "C"),
            Contender("TPACKET_V2, in cache, copied", _ring(COPY), bare),
            Contender("TPACKET_V3, in cache, copied", _ring(COPY | V3), bare),
            Contender("libpcap", _pcap(), "C"),
        ]
    return found


def _rawmmsg(**options: Any) -> Prepare:
    return rawmmsg(lambda link: link.rx, AUXDATA, **options)


def _table(
    lab: Lab,
    key: str,
    title: str,
    contenders: Sequence[Contender[Place]],
    frames: Frames,
    *notes: str,
) -> Table:
    # A socket that a contender opens belongs to the CPU that uses it.
    with cpus.pinned(lab.receivers_cpu), Link() as link:
        place = Place(link, frames)
        return lab.table(
            *(key, title, "ns/packet", contenders, place, lab.slices),
            notes=notes,
        )


# ---- Stride and batch size -------------------------------------------------

OWN_STRIDE: Final = Frames(1, SIZES[0]).stride  # that of a PacketBatch
STRIDES: Final = (OWN_STRIDE, 1600, 2048, 2240)

# A packet in a large batch may cost so much more than in a batch of 64.
FLAT: Final = 1.15


def _measure_strides(lab: Lab) -> Iterator[Table]:
    sizes = lab.sizes(lab.pick(SIZES, SIZES, SIZES[:1]))
    for size in sizes:
        batches = lab.pick((64, 256, 1024), (64, 1024), (8, 16))
        of_batch = {f"{batch:,}": Frames(batch, size) for batch in batches}
        yield _table(
            lab,
            f"loop/stride/{size}B/batches",
            f"{size:,}-byte frames, by packets in a batch",
            [
                *_by_frames("rawmmsg, ", _rawmmsg(), of_batch, FLAT),
                *_by_frames("C, ", calls(AUXDATA), of_batch),
            ],
            Frames(batches[0], size),
        )
    for size in sizes:
        for batch in lab.pick((64, 1024), (1024,), (16,)):
            of_stride = {
                f"{stride:,}": Frames(batch, size, stride=stride)
                for stride in STRIDES
            }
            yield _table(
                lab,
                f"loop/stride/{size}B/batch{batch}",
                f"{size:,}-byte frames, batches of {batch:,}, by stride, in C",
                _by_frames("", calls(), of_stride),
                Frames(batch, size),
                f"{OWN_STRIDE:,} is the stride of a PacketBatch.",
            )


def _by_frames(
    prefix: str,
    prepare: Prepare,
    frames: Mapping[str, Frames],
    at_most: float | None = None,
) -> list[Contender[Place]]:
    """A contender with other frames than those of the place, compared with the
    first of these."""

    def prepare_with(frames: Frames) -> Prepare:
        return lambda place: prepare(dataclasses.replace(place, frames=frames))

    first, *others = (
        Contender(f"{prefix}{name}", prepare_with(one), at_most=at_most)
        for name, one in frames.items()
    )
    first = dataclasses.replace(first, at_most=None)
    others = [dataclasses.replace(one, baseline=first.name) for one in others]
    return [first, control(first), *others]


# ---- Python's cost ---------------------------------------------------------

ETHERTYPE: Final = int.from_bytes(HEADER[12:14], "big")


def handle(packet: memoryview) -> None:
    """The least that a program does with a packet: it reads one field."""
    if packet[12] << 8 | packet[13] != ETHERTYPE:
        raise GroundTruthError("a packet with another EtherType")


def handle_each(batch: PacketBatch) -> None:
    for packet in batch:
        handle(packet)


def in_columns(place: Place) -> Ready:
    """Reads the field of all packets at once, with numpy."""
    numpy: Any = peers.module("numpy")
    wanted = numpy.frombuffer(HEADER[12:14], "u1")

    def handle_batch(batch: PacketBatch) -> None:
        found = numpy.asarray(batch)[: len(batch), 12:14]
        if not (found == wanted).all():
            raise GroundTruthError("a packet with another EtherType")

    return _rawmmsg(handle=handle_batch)(place)


def _measure_python(lab: Lab) -> Iterator[Table]:
    each = _rawmmsg(handle=handle_each)
    c = Contender("C", calls(AUXDATA))
    contenders = [
        c,
        control(c, None),
        Contender("rawmmsg", _rawmmsg(), "C"),
        Contender("rawmmsg, columns", in_columns, "C"),
        Contender("rawmmsg, a handler per packet", each, "C"),
        Contender("stdlib, a handler per packet", stdlib(handle=handle), "C"),
    ]
    for size in lab.sizes(SIZES[:1]):
        for batch in lab.pick(BATCHES, (1, 64, 1024), (16,)):
            yield _table(
                lab,
                f"loop/python/{size}B/batch{batch}",
                f"{size}-byte frames, batches of {batch:,}, a look at each",
                contenders,
                Frames(batch, size),
            )

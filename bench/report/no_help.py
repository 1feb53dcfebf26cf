"""Where rawmmsg does not help, by the figures of a run."""

from collections.abc import Iterator
from typing import Final

from ..results import Run
from .lookup import BULK, SAME, SIZES, NotMeasured, at, figure, loop, ratio


def no_help(run: Run) -> Iterator[str]:
    """Where something else does as well or better, a sentence each."""
    for look in _LOOKS:
        try:
            words = look(run)
        except NotMeasured:
            continue
        if words:
            yield words


def _one_at_a_time(run: Run) -> str:
    cost = figure(run, loop(64, 1), "rawmmsg")
    others = figure(run, loop(64, 1), "stdlib")
    if cost < others * (1 - SAME):
        return ""
    return (
        "One packet at a time: a batch of one costs"
        f" {cost / others:.2f} times what `socket.socket` takes for it."
    )


def _reading_in_place(run: Run) -> str:
    found = {
        size: ratio(run, loop(size), "TPACKET_V3", "C")
        / ratio(run, loop(size), "rawmmsg", "C")
        for size in SIZES
    }
    if min(found.values()) > 1:
        return ""
    words = [f"{one:.2f} {at(size)}" for size, one in found.items()]
    return (
        "Packets that are only looked at, where they lie: a TPACKET_V3 ring"
        f" costs {', '.join(words)} of what rawmmsg does, all CPU counted,"
        " and hardly any of it on the receiver's side."
    )


def _handlers(run: Run) -> str:
    key = "python_cost/64B/batch1024"
    each = figure(run, key, "rawmmsg, a handler per packet")
    return (
        "A Python function called for each packet:"
        f" {each - figure(run, key, 'rawmmsg'):.0f} ns of each packet are"
        " Python's, however large the batch."
    )


def _latency(run: Run) -> str:
    share = figure(run, "latency/64B", "rawmmsg") / figure(
        run, "latency/64B", "stdlib"
    )
    if share < 1 - SAME:
        return ""
    return (
        "Waiting for one packet: a frame there and back takes"
        f" {share:.2f} times as long as with the `socket` module."
    )


def _dissection(run: Run) -> str:
    key, scapy = "scapy_sniff/udp", "Scapy's socket"
    gain = ratio(run, key, "rawmmsg", scapy)
    most = ratio(run, key, "nothing to receive", scapy)
    return (
        "Scapy's `sniff()` of packets that it dissects: it is"
        f" {gain:.2f} times as fast with rawmmsg's socket, and would be"
        f" {most:.2f} times if receiving cost nothing."
    )


def _bridge(run: Run) -> str:
    share = ratio(run, BULK, "rawmmsg bridge", "kernel's bridge")
    if share > 1:
        return ""
    return (
        "Two interfaces that the kernel can join by itself: `rawmmsg bridge`"
        f" forwards {share:.2f} of what the kernel's bridge does."
    )


def _other_senders(run: Run) -> str:
    """The senders that come close to it, or are faster."""
    words = []
    for key, side in (
        ("send/64B", "TX ring (C), in place"),
        ("send/64B", "libpcap inject (C), deaf"),
        ("send/64B/programs", "trafgen"),
        ("send/64B/programs", "tcpreplay, preloaded"),
    ):
        try:
            share = ratio(run, key, side, "rawmmsg")
        except NotMeasured:
            continue
        if share > 1 - 3 * SAME:
            words.append(f"{side} {share:.2f}")
    if not words:
        return ""
    return (
        "Sending frames that are there already, and nothing else: of"
        f" rawmmsg's rate, {', '.join(words)}."
    )


_LOOKS: Final = (
    _one_at_a_time,
    _latency,
    _reading_in_place,
    _handlers,
    _other_senders,
    _dissection,
    _bridge,
)

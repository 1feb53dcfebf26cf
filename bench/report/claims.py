"""The essay's claims, judged by the figures of a run.

Each claim is a function that looks up what it needs and compares it with a
threshold that it states. Nothing is judged by a table that is not there: the
verdict is "not measured" then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..results import Run
from .lookup import (
    BATCH,
    BULK,
    SAME,
    SAME_WORDS,
    SIZES,
    NotMeasured,
    at,
    extra,
    figure,
    loop,
    multiples,
    percent,
    ratio,
)

HOLDS: Final = "holds"
DOES_NOT: Final = "does not hold"
DEPENDS: Final = "depends"
NOT_MEASURED: Final = "not measured"


@dataclass(frozen=True)
class Verdict:
    verdict: str
    figures: str


@dataclass(frozen=True)
class Claim:
    """What the essay says, and when it is said to hold."""

    text: str
    threshold: str
    judge: Callable[[Run], Verdict]

    def verdict(self, run: Run) -> Verdict:
        try:
            return self.judge(run)
        except NotMeasured as error:
            return Verdict(NOT_MEASURED, f"{error}")


def judged(conditions: Sequence[bool]) -> str:
    """All, none, or some."""
    if all(conditions):
        return HOLDS
    return DEPENDS if any(conditions) else DOES_NOT


def stamping_costs(run: Run) -> Verdict:
    if run.environment.get("stamped by others"):
        raise NotMeasured("another process has the kernel stamp all packets")
    costs = {
        size: ratio(run, loop(size), "C, bare, stamps", "C, bare")
        for size in SIZES
    }
    words = [f"{percent(cost)} {at(size)}" for size, cost in costs.items()]
    return Verdict(
        judged([cost > 1 + SAME for cost in costs.values()]),
        "a stamp that is asked for and read makes a packet dearer by "
        + ", ".join(words),
    )


def ring_always_stamps(run: Run) -> Verdict:
    shares = {
        side: extra(run, loop(64), side, "stamped, %")
        for side in ("TPACKET_V2", "TPACKET_V3", "libpcap", "C, bare")
    }
    bare = shares.pop("C, bare")
    words = [f"{side} {share:.0f} %" for side, share in shares.items()]
    return Verdict(
        judged([share == 100 and bare == 0 for share in shares.values()]),
        "packets that came with a time that nobody had asked for: "
        + ", ".join(words)
        + f", recvmmsg() {bare:.0f} %",
    )


def ring_saves_nothing(run: Run) -> Verdict:
    def saved(kind: str) -> dict[str, float]:
        return {
            f"{version} {at(size)}": ratio(
                run, loop(size), f"{version}{kind}, copied", "C, bare"
            )
            for version in ("TPACKET_V2", "TPACKET_V3")
            for size in SIZES
        }

    def words(found: dict[str, float]) -> str:
        return ", ".join(f"{name} {percent(x)}" for name, x in found.items())

    large = saved("")
    return Verdict(
        judged([one > 1 - SAME for one in large.values()]),
        "the cost of a packet that a ring's reader copies out, beside"
        f" recvmmsg()'s: {words(large)}; with a ring so small that it stays"
        f" in the cache: {words(saved(', in cache'))}",
    )


def batches_win(run: Run) -> Verdict:
    found = {
        size: ratio(run, loop(size), "stdlib", "C")
        / ratio(run, loop(size), "rawmmsg", "C")
        for size in SIZES
    }
    return Verdict(
        judged([one > 1 + SAME for one in found.values()]),
        "what a packet costs that is sent and received with a call of its"
        f" own, as a multiple of one in a batch of {BATCH}, from Python:"
        f" {multiples(found)}",
    )


def libpcap_send(run: Run) -> Verdict:
    def gain(side: str) -> dict[int, float]:
        return {
            size: 1 / ratio(run, f"send/{size}B", side, "C sendmmsg")
            for size in SIZES
        }

    usual, deaf = gain("libpcap inject (C)"), gain("libpcap inject (C), deaf")
    return Verdict(
        judged([one >= 1.3 for one in (*usual.values(), *deaf.values())]),
        "the rate of sendmmsg() as a multiple of pcap_inject()'s, both in C:"
        f" {multiples(usual)}; where the handle cannot receive as well:"
        f" {multiples(deaf)}",
    )


def offloads_decide(run: Run) -> Verdict:
    key = BULK
    plain = figure(run, key, "C, plain frames")
    gain = figure(run, key, "C") / plain
    ours = figure(run, key, "rawmmsg bridge") / plain
    return Verdict(
        judged([gain >= 2, ours >= 2]),
        "the bits per second of bulk TCP through a forwarder with offload"
        " headers, as a multiple of those through one in C without:"
        f" {gain:.1f} in C, {ours:.1f} with `rawmmsg bridge`",
    )


def python_vanishes(run: Run) -> Verdict:
    def over(batch: int, side: str) -> float:
        key = f"python_cost/64B/batch{batch}"
        return ratio(run, key, side, "C")

    whole = [over(batch, "rawmmsg") for batch in (1, 64, 1024)]
    each = over(1024, "rawmmsg, a handler per packet")
    words = (
        f"a batch handed over as a whole costs {percent(whole[0])} over C in"
        f" batches of 1, {percent(whole[1])} in batches of 64,"
        f" {percent(whole[2])} in batches of 1,024; with a Python function"
        f" called for each packet {percent(each)} is left"
    )
    fades = whole[2] < 1 + SAME
    return Verdict(judged([fades, each < 1 + SAME]), words)


CLAIMS: Final = (
    Claim(
        "Stamping costs what it costs",
        f"more than {SAME_WORDS} for both sizes",
        stamping_costs,
    ),
    Claim(
        "The ring cannot switch it off",
        "a stamp on every packet of a ring, and on none of a plain socket",
        ring_always_stamps,
    ),
    Claim(
        "The ring saves nothing once the data must move to a caller's buffer",
        f"less than {SAME_WORDS}, for both versions and sizes, with rings as"
        " large as a socket's queue",
        ring_saves_nothing,
    ),
    Claim(
        "Batched socket calls beat one packet a call",
        f"more than {1 + SAME:.2f} for both sizes",
        batches_win,
    ),
    Claim(
        "libpcap's send is the bottleneck for a driver",
        "at least 1.3, for both sizes and kinds of handle",
        libpcap_send,
    ),
    Claim(
        "For a VM's bulk traffic offload headers decide",
        "at least 2, in C and with rawmmsg",
        offloads_decide,
    ),
    Claim(
        "Python's own cost per packet vanishes as the batch grows",
        f"less than {SAME_WORDS} in batches of 1,024, with and without a call"
        " for each packet",
        python_vanishes,
    ),
)

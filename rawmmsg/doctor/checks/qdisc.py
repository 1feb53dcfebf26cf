"""Are frames lost in the output queue of the interface?"""

from collections.abc import Iterator
from typing import Final

from ..finding import Finding, note, ok, problem
from ..kernel.qdiscs import Qdisc
from ..quoting import in_shell
from ..sample import Sample

__all__ = ["check"]

NAME: Final = "qdisc"


def check(before: Sample, after: Sample) -> Iterator[Finding]:
    assert after.link is not None
    old = {(qdisc.kind, qdisc.ingress): qdisc for qdisc in before.qdiscs}
    fine = True
    for qdisc in after.qdiscs:
        earlier = old.get((qdisc.kind, qdisc.ingress), qdisc)
        new = qdisc.drops - earlier.drops
        stuck = bool(qdisc.queued) and qdisc.packets == earlier.packets
        if qdisc.drops or stuck:
            fine = False
            yield _finding(after.link.name, qdisc, new, stuck)
    if fine:
        kinds = ", ".join(qdisc.kind for qdisc in after.qdiscs) or "none"
        yield ok(
            NAME,
            f"no frame was dropped in the output queue ({kinds})",
            kinds=[qdisc.kind for qdisc in after.qdiscs],
        )


def _finding(interface: str, qdisc: Qdisc, new: int, stuck: bool) -> Finding:
    found = problem if new or (stuck and qdisc.drops) else note
    if qdisc.ingress:
        place = f"the filters of tc on {interface} ({qdisc.kind})"
        remedy = f"tc -s filter show dev {in_shell(interface)} ingress"
    else:
        place = f"the output queue of {interface} ({qdisc.kind})"
        longer = _longer(interface, qdisc)
        remedy = f"send more slowly (rawmmsg.pacing), or {longer}"
    waiting = ", and nothing leaves it" if stuck else ""
    return found(
        NAME,
        f"{place} has dropped {qdisc.drops:,} frames, {new:,} of them just"
        f" now; {qdisc.queued:,} frames ({qdisc.backlog:,} bytes) wait in"
        f" it{waiting}",
        remedy,
        kind=qdisc.kind,
        ingress=qdisc.ingress,
        drops=qdisc.drops,
        drops_now=new,
        queued=qdisc.queued,
        backlog=qdisc.backlog,
        stuck=stuck,
    )


def _longer(interface: str, qdisc: Qdisc) -> str:
    name = in_shell(interface)
    if qdisc.kind == "pfifo_fast":
        return f"make it longer: ip link set {name} txqueuelen 10000"
    return f"raise its rate or limit: tc -d qdisc show dev {name}"

"""Are packets lost in the interface and its driver, or in the queues of the
CPUs behind it?"""

from collections.abc import Iterator
from typing import Final

from ..finding import Finding, Value, note, ok, problem
from ..kernel.links import Link
from ..quoting import in_shell
from ..sample import Sample

__all__ = ["check_interface", "check_softnet"]

INTERFACE: Final = "drops"
SOFTNET: Final = "softnet"

# struct rtnl_link_stats64 (linux/if_link.h): what each counter means, in
# terms of what can be done about it.
_MEANINGS: Final = {
    "rx_dropped": "of protocols that nothing here handles, which is harmless,"
    " or dropped by the driver",
    "rx_missed_errors": "lost in the card, whose ring was full",
    "rx_fifo_errors": "lost in the card, whose ring was full",
    "rx_over_errors": "lost in the card, whose ring was full",
    "rx_crc_errors": "arrived damaged",
    "rx_frame_errors": "arrived damaged",
    "rx_length_errors": "arrived with a wrong length",
    "tx_dropped": "dropped by the driver or the far end",
    "tx_fifo_errors": "lost in the card when sending",
    "tx_carrier_errors": "lost because the carrier was lost",
    "tx_aborted_errors": "not sent, because the card gave up",
}


def check_interface(before: Sample, after: Sample) -> Iterator[Finding]:
    assert before.link is not None
    assert after.link is not None
    link = after.link
    old = before.link.counters
    found = {name: link.counters[name] for name in _MEANINGS}
    found = {name: count for name, count in found.items() if count}
    for name, count in found.items():
        yield _finding(link, name, count, count - old[name])
    if not found:
        yield ok(
            INTERFACE, f"{link.name} has lost no packet in either direction"
        )


def _finding(link: Link, name: str, count: int, new: int) -> Finding:
    # The kernel counts what nobody wants, such as LLDP, in rx_dropped too
    # (net/core/dev.c:__netif_receive_skb_core()).
    is_loss = new and name != "rx_dropped"
    return (problem if is_loss else note)(
        INTERFACE,
        f"{name} of {link.name} is {count:,}, {new:,} of them just now"
        f" ({_MEANINGS[name]})",
        _remedy(link, name),
        counter=name,
        count=count,
        count_now=new,
    )


def _remedy(link: Link, name: str) -> str:
    interface = in_shell(link.name)
    if link.kind == "":
        larger = "rx 4096" if name.startswith("rx_") else "tx 4096"
        return f"ethtool -S {interface}; ethtool -G {interface} {larger}"
    if name.startswith("tx_"):
        return "send more slowly (rawmmsg.pacing), and look at the far end"
    return f"ip -s -s link show dev {interface}"


def check_softnet(before: Sample, after: Sample) -> Iterator[Finding]:
    old, softnet = before.softnet, after.softnet
    dropped = softnet.dropped - old.dropped
    squeezed = softnet.squeezed - old.squeezed
    values: dict[str, Value] = {
        "processed": softnet.processed,
        "dropped": softnet.dropped,
        "dropped_now": dropped,
        "squeezed": softnet.squeezed,
        "squeezed_now": squeezed,
    }
    if softnet.dropped:
        yield (problem if dropped else note)(
            SOFTNET,
            f"the queues of the CPUs have dropped {softnet.dropped:,} packets"
            f" on this machine, {dropped:,} of them just now",
            "sysctl -w net.core.netdev_max_backlog=10000",
            **values,
        )
    elif squeezed:
        yield note(
            SOFTNET,
            f"the CPUs ran out of time for packets {squeezed:,} times just"
            " now; none was dropped",
            "sysctl -w net.core.netdev_budget=600"
            " net.core.netdev_budget_usecs=8000",
            **values,
        )
    else:
        yield ok(
            SOFTNET,
            "no packet was dropped in the queues of the CPUs",
            **values,
        )

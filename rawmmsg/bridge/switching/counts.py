"""What the ports of a switch have counted."""

from collections import Counter
from dataclasses import dataclass, field, fields

from ..drops import Dropped

__all__ = ["PortCounts", "by_reason"]


@dataclass
class PortCounts:
    """The counts of a port. Each frame received was forwarded, filtered or
    dropped:

        received = forwarded + filtered + sum of dropped

    Each copy for the port was sent, waits for it or was dropped:

        copies + made - joined = sent + waiting + sum of copies_dropped
    """

    received: int = 0
    """Frames that have arrived; at a plain port, after they were cut."""
    bytes: int = 0
    """Bytes of them."""
    calls: int = 0
    """System calls, or copies of one batch, that received them."""
    forwarded: int = 0
    """Of them, those passed to at least one other port. A port that drops its
    copy counts that itself."""
    flooded: int = 0
    """Of those forwarded, those passed to all other ports."""
    filtered: int = 0
    """Frames whose destination is behind the port where they arrived."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Frames that were passed to no port, by reason."""
    kernel_dropped: int = 0
    """Frames that the kernel dropped before they were received."""
    copies: int = 0
    """Frames that other ports have passed to this one."""
    made: int = 0
    """How many more frames there are after segmentation than before."""
    joined: int = 0
    """How many fewer frames there are after merging than before."""
    sent: int = 0
    """Frames that this port has sent."""
    waiting: int = 0
    """Frames that wait in the queue of this port."""
    copies_dropped: dict[str, int] = field(default_factory=dict)
    """Copies that were not sent, by reason."""

    def __add__(self, other: "PortCounts") -> "PortCounts":
        result = PortCounts()
        for one in fields(self):
            mine, more = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, dict):
                total: object = dict(Counter(mine) + Counter(more))
            else:
                total = mine + more
            setattr(result, one.name, total)
        return result

    @property
    def adds_up(self) -> bool:
        """Whether every frame, and every copy, is accounted for."""
        return (
            self.received
            == self.forwarded + self.filtered + sum(self.dropped.values())
            and self.copies + self.made - self.joined
            == self.sent + self.waiting + sum(self.copies_dropped.values())
        )


def by_reason(dropped: Dropped) -> Counter[str]:
    """The counts that are not 0, by name."""
    return Counter(
        {
            one.name: count
            for one in fields(dropped)
            if (count := getattr(dropped, one.name))
        }
    )

"""Where the headers are at each place of an expression.

`vlan`, `mpls`, `pppoes`, `geneve` and `vxlan` make all that follows them
in the text look further into the packet.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ETHERNET", "RAW_IP", "Layer", "Place"]


class Place(NamedTuple):
    """An offset, behind the value in a scratch word if `word` >= 0."""

    offset: int
    word: int = -1

    def moved(self, offset: int) -> Place:
        return Place(self.offset + offset, self.word)


class Layer(NamedTuple):
    """One way to look at the packet.

    `link` says what the protocol number at `type` is: "ether" an
    EtherType, "ppp" a PPP protocol, "mpls" none (the payload tells),
    "raw" none (the packet is IP).
    """

    link: str
    header: Place
    type: Place
    payload: Place
    # Whether there are Ethernet addresses.
    addresses: bool = True
    # Whether a tunnel may carry the payload without a link-layer header.
    headless: bool = False
    # Whether the outermost VLAN tag may be beside the packet: only when
    # nothing before has moved the offsets.
    outermost: bool = False

    def llc(self) -> Place:
        """Where an IEEE 802.2 header begins: as in libpcap, labels do not
        move it.
        """
        if self.link != "mpls":
            return self.payload
        word = self.payload.word
        return Place(0, word) if word >= 0 else self.type.moved(2)

    def behind_tag(self) -> Layer:
        """Behind a VLAN tag, which follows the link-layer addresses."""
        return self._replace(
            type=self.type.moved(4),
            payload=self.payload.moved(4),
            outermost=False,
        )

    def behind_label(self) -> Layer:
        """Behind an MPLS label."""
        return self._replace(
            link="mpls", payload=self.payload.moved(4), outermost=False
        )

    def in_session(self) -> Layer:
        """Behind the 6 bytes of PPPoE, at PPP."""
        return self._replace(
            link="ppp",
            header=self.payload.moved(6),
            type=self.payload.moved(6),
            payload=self.payload.moved(8),
            addresses=False,
            headless=False,
            outermost=False,
        )


ETHERNET = Layer("ether", Place(0), Place(12), Place(14), outermost=True)
RAW_IP = Layer("raw", Place(0), Place(0), Place(0), addresses=False)

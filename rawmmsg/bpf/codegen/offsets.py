"""Where the headers are, for each primitive of an expression.

`vlan`, `mpls`, `pppoes`, `geneve` and `vxlan` move the offsets of all
primitives behind them in the text.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ETHERNET", "RAW_IP", "Layer", "Offset"]


class Offset(NamedTuple):
    """An offset in the packet, plus a scratch word if `word` >= 0."""

    offset: int
    word: int = -1

    def moved(self, offset: int) -> Offset:
        return Offset(self.offset + offset, self.word)


class Layer(NamedTuple):
    """The offsets of a link layer.

    `link` says what is at `type`: "ether", an EtherType; "ppp", a PPP
    protocol number; "mpls", nothing, the payload is IP of some version;
    "raw", nothing, the packet is IP.
    """

    link: str
    header: Offset
    type: Offset
    payload: Offset
    # Whether there are Ethernet addresses.
    addresses: bool = True
    # Whether the payload may come without a link-layer header (Geneve).
    headless: bool = False
    # Whether the next VLAN tag is the outermost one, which the kernel may
    # have moved out of the frame.
    outermost: bool = False

    def llc(self) -> Offset:
        """Where an IEEE 802.2 header begins.

        As in libpcap, MPLS labels do not move it.
        """
        if self.link != "mpls":
            return self.payload
        word = self.payload.word
        return Offset(0, word) if word >= 0 else self.type.moved(2)

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
        """Behind the 6 bytes of PPPoE, where PPP begins."""
        return self._replace(
            link="ppp",
            header=self.payload.moved(6),
            type=self.payload.moved(6),
            payload=self.payload.moved(8),
            addresses=False,
            headless=False,
            outermost=False,
        )


ETHERNET = Layer("ether", Offset(0), Offset(12), Offset(14), outermost=True)
RAW_IP = Layer("raw", Offset(0), Offset(0), Offset(0), addresses=False)

"""The VLANs of a port (IEEE 802.1Q)."""

from dataclasses import dataclass
from typing import Final

__all__ = [
    "LAST_VLAN",
    "LEFT_OUT",
    "NO_TAG",
    "UNCHANGED",
    "WITHOUT_TAG",
    "Vlans",
]

LAST_VLAN: Final = 4094

# As in _rawmmsg_switch.c: the tag in a key, and the choices for show().
NO_TAG: Final = 0xFFFF
LEFT_OUT: Final = 0xFFFF
UNCHANGED: Final = 0xFFFE
WITHOUT_TAG: Final = 0


@dataclass(frozen=True)
class Vlans:
    """Of which VLANs a port is a member.

    native   the VLAN of frames without a tag, in both directions; None: there
             are none
    tagged   the VLANs of frames with a tag; None: all
    """

    native: int | None = 1
    tagged: frozenset[int] | None = None

    @classmethod
    def access(cls, vlan: int) -> "Vlans":
        """The port of a machine that knows nothing of VLANs."""
        return cls(vlan, frozenset())

    def vlan_of(self, tag: int) -> int | None:
        """Returns the VLAN of a frame that arrives with this tag, or None if
        the port does not accept it. The id 0 stands for no VLAN: such a tag
        only has a priority. The id 4095 is reserved."""
        if tag in (NO_TAG, 0):
            return self.native
        if tag > LAST_VLAN or not self.has(tag):
            return None
        return tag

    def has(self, vlan: int) -> bool:
        return (
            self.tagged is None or vlan in self.tagged or vlan == self.native
        )

    def form_of(self, vlan: int, tag: int) -> int:
        """Returns the choice for show() of a frame of this VLAN, which has
        arrived with this tag, when it leaves by this port."""
        if vlan == self.native:
            return UNCHANGED if tag == NO_TAG else WITHOUT_TAG
        if not self.has(vlan):
            return LEFT_OUT
        return UNCHANGED if tag == vlan else vlan

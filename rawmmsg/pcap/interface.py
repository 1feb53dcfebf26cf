"""What a recording says of an interface, and the error about a recording."""

from dataclasses import dataclass
from typing import Final

# As in _rawmmsg_pcap.h. No number of the kernel is as large.
UNKNOWN_TYPE: Final = 255
"""In `packet_types`: the recording does not say to whom a packet was
addressed, and in which direction it went."""


@dataclass(frozen=True)
class Interface:
    """An interface of a recording.

    link_type    the number of the link type in files, LINKTYPE_ (1: Ethernet)
    snap_length  packets were cut to so many bytes; 0: they were not cut
    name         such as eth0, or "" if the file does not say
    description  a text for people
    filter       the filter expression that was used
    received     packets that the interface received, from the last block of
                 statistics that the Reader has found; None if there is none
    dropped      packets of these that are missing in the file
    """

    link_type: int = 1
    snap_length: int = 0
    name: str = ""
    description: str = ""
    filter: str = ""
    received: int | None = None
    dropped: int | None = None


class RecordingError(ValueError):
    """A file is damaged, or is not a recording.

    offset    where in the file it cannot be read on
    filename  the file, as the Reader was given it
    """

    def __init__(self, filename: str, offset: int, reason: str) -> None:
        super().__init__(f"{filename}: offset {offset}: {reason}")
        self.filename = filename
        self.offset = offset

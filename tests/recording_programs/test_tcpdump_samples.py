"""The files of tcpdump's source package are read as Scapy reads them.

RAWMMSG_TCPDUMP_SAMPLES is the folder `tests` of that package.
"""

import os
from pathlib import Path
from typing import Final

from support.scapy_recordings import by_rawmmsg, by_scapy

SAMPLES: Final = Path(os.environ["RAWMMSG_TCPDUMP_SAMPLES"])

# What the field has besides the link type, as the length of a frame check
# sequence, is not part of it: Scapy gives both together.
LINK_TYPE: Final = 0x03FFFFFF
# The latest time that 64 bits have, in nanoseconds. In one of the files, a
# packet is later.
LATEST: Final = 2**63 - 1


def test_all_samples_are_read_as_scapy_reads_them() -> None:
    files = sorted(SAMPLES.glob("*.pcap*"))
    assert len(files) > 600, f"{SAMPLES} has the files of tcpdump's tests"
    for path in files:
        wanted = [
            (data, min(time, LATEST), wire_length, link_type & LINK_TYPE)
            for data, time, wire_length, link_type in by_scapy(path)
        ]
        assert by_rawmmsg(path) == wanted, path.name

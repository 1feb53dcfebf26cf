"""Recordings: reads and writes pcapng and pcap files.

    from rawmmsg.pcap import Reader, Writer

    with Reader("in.pcap") as reader, Writer("out.pcapng") as writer:
        for batch in reader:
            writer.write(batch)

A Reader maps the file, and gives the packets as batches of slices: they are
sent, merged and compared where they are in the file, without a copy. A Writer
writes a batch with one system call.
"""

from .interface import UNKNOWN_TYPE, Interface, RecordingError
from .links import link_type_of
from .reader import Reader
from .writer import Writer

__all__ = [
    "UNKNOWN_TYPE",
    "Interface",
    "Reader",
    "RecordingError",
    "Writer",
    "link_type_of",
]

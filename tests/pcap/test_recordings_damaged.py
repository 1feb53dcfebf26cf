"""Reader: damaged and cut files. Every error names the place."""

import io
import random
import struct
from pathlib import Path
from typing import Final

import pytest
from support import recordings
from support.recordings import (
    EPB_FLAGS,
    IF_NAME,
    IF_TSOFFSET,
    IF_TSRESOL,
    ISB_IFDROP,
    SAMPLES,
    Packet,
)

from rawmmsg.pcap import Reader, RecordingError

SECTION: Final = recordings.section()
BEGINNING: Final = SECTION + recordings.interface()
PACKET: Final = recordings.enhanced(Packet(bytes(64)))
RECORD: Final = recordings.pcap_record(0, 0, Packet(bytes(64)))


def spoiled(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def number(value: int) -> bytes:
    return struct.pack("<I", value)


def packets_of(reader: Reader) -> list[bytes]:
    return [packet for batch in reader for packet in batch.tolist()]


DAMAGED: Final = {
    "another file": (b"GIF89a", 0, "not a pcap or pcapng file: .* 47 49 46"),
    "an empty file": (b"", 0, "ends after 0 bytes, before the header"),
    "3 bytes": (b"\xd4\xc3\xb2", 0, "ends after 3 bytes"),
    "half a header of pcap": (SAMPLES["pcap"][:20], 0, "ends after 20 bytes"),
    "half a section": (SECTION[:20], 0, "ends after 20 bytes"),
    "an old pcap": (
        recordings.pcap_header(version=(2, 2)),
        0,
        "version 2.2 of pcap is not supported",
    ),
    "a new pcapng": (
        recordings.section(version=(2, 0)),
        0,
        "version 2.0 of pcapng is not supported",
    ),
    "no byte order": (
        spoiled(SECTION, 8, b"abcd"),
        0,
        "without its byte order",
    ),
    "a long packet in pcap": (
        recordings.pcap_header() + RECORD + number(0) * 2 + number(2**31) * 2,
        24 + len(RECORD),
        "a packet of 2147483648 bytes is too long: at most 262144",
    ),
    "a short block": (
        BEGINNING + number(6) + number(28) + bytes(40),
        len(BEGINNING),
        "a block of type 6 with a length of 28: .* 32 at least",
    ),
    "a block of no bytes": (
        BEGINNING + number(99) + number(0) + bytes(40),
        len(BEGINNING),
        "a block of type 99 with a length of 0",
    ),
    "a crooked block": (
        BEGINNING + number(99) + number(13) + bytes(40),
        len(BEGINNING),
        "must be a multiple of 4",
    ),
    "a huge block": (
        BEGINNING + number(6) + number(2**31) + bytes(40),
        len(BEGINNING),
        "a block of type 6 with a length of 2147483648: 16777216",
    ),
    "two lengths": (
        BEGINNING + spoiled(PACKET, len(PACKET) - 4, number(92)),
        len(BEGINNING),
        "the length 96 at its beginning and 92 at its end",
    ),
    "two lengths of a block passed over": (
        BEGINNING + number(99) + number(16) + bytes(8),
        len(BEGINNING),
        "the length 16 at its beginning and 0 at its end",
    ),
    "a packet longer than its block": (
        BEGINNING + spoiled(PACKET, 20, number(65)),
        len(BEGINNING),
        "a packet of 65 bytes is longer than its block, .* room for 64",
    ),
    "a packet of no interface": (
        BEGINNING + spoiled(PACKET, 8, number(1)),
        len(BEGINNING),
        "interface 1 does not exist: there are 1",
    ),
    "a packet before the interface": (
        SECTION + PACKET,
        len(SECTION),
        "interface 0 does not exist: there are 0",
    ),
    "an interface of another section": (
        BEGINNING + SECTION + PACKET,
        len(BEGINNING + SECTION),
        "interface 0 does not exist",
    ),
    "a simple packet of no interface": (
        SECTION + recordings.simple(Packet(bytes(4))),
        len(SECTION),
        "interface 0 does not exist",
    ),
    "statistics of no interface": (
        BEGINNING + recordings.statistics(number=7),
        len(BEGINNING),
        "interface 7 does not exist: there are 1",
    ),
    "an option beyond the block": (
        SECTION
        + recordings.interface(pairs=[(IF_NAME, b"eth0")]).replace(
            b"\x02\0\x04\0", b"\x02\0\x40\0"
        ),
        len(SECTION),
        "an option is longer than its block",
    ),
    "a long resolution": (
        SECTION + recordings.interface(pairs=[(IF_TSRESOL, b"\x09\x09")]),
        len(SECTION),
        "option 9 has 2 bytes instead of 1",
    ),
    "a short offset": (
        SECTION + recordings.interface(pairs=[(IF_TSOFFSET, bytes(4))]),
        len(SECTION),
        "option 14 has 4 bytes instead of 8",
    ),
    "short flags": (
        BEGINNING
        + recordings.enhanced(Packet(b"a"), pairs=[(EPB_FLAGS, b"\x01")]),
        len(BEGINNING),
        "option 2 has 1 bytes instead of 4",
    ),
    "short statistics": (
        BEGINNING + recordings.statistics(pairs=[(ISB_IFDROP, bytes(4))]),
        len(BEGINNING),
        "option 5 has 4 bytes instead of 8",
    ),
    "an option of a packet beyond the block": (
        BEGINNING
        + recordings.enhanced(Packet(b""), pairs=[(1, bytes(4))]).replace(
            b"\x01\0\x04\0", b"\x01\0\x09\0"
        ),
        len(BEGINNING),
        "an option is longer than its block",
    ),
    "too many interfaces": (
        SECTION + recordings.interface() * 65_537,
        len(SECTION) + 20 * 65_536,
        "more than 65536 interfaces",
    ),
}


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "pieces"])
@pytest.mark.parametrize(
    ("content", "offset", "message"), DAMAGED.values(), ids=DAMAGED
)
def test_damage_is_named_with_its_offset(
    content: bytes, offset: int, message: str, mapped: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(content)
    with path.open("rb") as file, pytest.raises(RecordingError) as caught:
        list(Reader(path if mapped else file))
    assert caught.value.offset == offset
    assert caught.value.filename == str(path)
    assert caught.match(f"{path}: offset {offset}: .*{message}")


def test_the_packets_before_the_damage_come_first() -> None:
    content = BEGINNING + PACKET * 3 + b"\xff" * 40
    reader = Reader(io.BytesIO(content))
    assert len(next(reader)) == 3
    for _ in range(2):
        with pytest.raises(RecordingError, match=f"offset {20 + 28 + 96 * 3}"):
            next(reader)


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "pieces"])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_cut_file_is_read_up_to_the_cut(
    name: str, mapped: bool, tmp_path: Path
) -> None:
    content = SAMPLES[name]
    whole = packets_of(Reader(io.BytesIO(content)))
    path = tmp_path / "a.pcap"
    cuts = 0
    for end in range(48, len(content)):
        path.write_bytes(content[:end])
        with path.open("rb") as file, Reader(path if mapped else file) as cut:
            packets = packets_of(cut)
            assert packets == whole[: len(packets)]
            if cut.cut is not None:
                cuts += 1
                assert cut.cut < end
                path.write_bytes(content[: cut.cut])
                with Reader(path) as again:
                    assert packets_of(again) == packets
                    assert again.cut is None, (
                        "what is before the cut is a complete file"
                    )
    assert cuts > len(content) // 2


def test_random_bytes_end_with_packets_or_an_error() -> None:
    rng = random.Random(16)
    errors = 0
    for _ in range(3000):
        content = bytearray(rng.choice(list(SAMPLES.values())))
        for _ in range(rng.randrange(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            for batch in Reader(io.BytesIO(content)):
                assert sum(map(len, batch)) <= len(content) * len(batch)
        except RecordingError as error:
            errors += 1
            assert 0 <= error.offset <= len(content)
    assert errors > 300


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Reader("/nonexistent/a.pcap")
    assert caught.value.filename == "/nonexistent/a.pcap"

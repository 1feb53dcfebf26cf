"""What `rawmmsg replay` does not send, and the errors that end it."""

from pathlib import Path

import pytest
from support.bridging import Running
from support.calls import eventually
from support.child import WITHOUT_CAPABILITIES
from support.frames import frame, numbered_frames
from support.linux import drop_frames_of, ip, tc, tun_device
from support.pacing import arrived
from support.recordings import Packet
from support.replaying import (
    a_microsecond_apart,
    all_of,
    listening,
    replay,
    replayed,
    write,
    write_pcapng,
)

from rawmmsg.testing import Veth, veth_pair

FRAMES = numbered_frames(20)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return write(tmp_path / "trace.pcap", a_microsecond_apart(FRAMES))


@pytest.mark.parametrize("loop", ["1", "3"])
def test_packets_that_the_recording_has_cut_are_skipped(
    pair: Veth, tmp_path: Path, loop: str
) -> None:
    packets = a_microsecond_apart(FRAMES)
    for i in (0, 7, 8, 19):
        packets[i] = Packet(FRAMES[i][:40], i, len(FRAMES[i]))
    file = write(tmp_path / "trace.pcap", packets)
    whole = [one for i, one in enumerate(FRAMES) if i not in (0, 7, 8, 19)]
    with listening(pair.b) as sock:
        result = replayed(file, pair.a, "--loop", loop)
        assert all_of(sock, 16 * int(loop)) == whole * int(loop)
    assert (
        "\n4 packets skipped: the recording has only a part of them\n"
        in result.text
    )


def test_a_recording_of_cut_packets_only_sends_nothing(
    pair: Veth, tmp_path: Path
) -> None:
    packets = [Packet(one[:40], 0, len(one)) for one in FRAMES]
    file = write(tmp_path / "trace.pcap", packets)
    for options in ((), ("--loop", "3"), ("--loop", "0", "--top-speed")):
        result = replayed(file, pair.a, *options)
        assert result.only.sent == 0
        assert "\n20 packets skipped: the recording" in result.text


@pytest.mark.parametrize("content", [FRAMES[0][:10], FRAMES[0][:0]])
def test_packets_shorter_than_a_header_are_skipped(
    pair: Veth, tmp_path: Path, content: bytes
) -> None:
    tag = frame(b"\0\5", ethertype=0x8100)
    file = write(tmp_path / "trace.pcap", [FRAMES[0], content, tag, FRAMES[1]])
    with listening(pair.b) as sock:
        result = replayed(file, pair.a)
        assert all_of(sock, 2) == FRAMES[:2]
    assert (
        "\n2 packets skipped: they are shorter than an Ethernet header\n"
        in result.text
    )


@pytest.mark.parametrize("options", [(), ("--top-speed",), ("--merge",)])
def test_packets_longer_than_the_mtu_are_refused(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    frames = numbered_frames(3, 60) + numbered_frames(2, 1600)
    frames += numbered_frames(3, 1514)
    file = write(tmp_path / "trace.pcap", frames)
    with veth_pair() as link, listening(link.b) as sock:
        result = replayed(file, link.a, *options)
        assert all_of(sock, 6) == frames[:3] + frames[5:]
        sent = result.only
        assert (sent.sent, sent.refused) == (6, 2)
        assert sent.reason.startswith(
            f"1,600 bytes, the MTU of {link.a} allows 1,514; raise the MTU"
        )


def test_packets_that_a_filter_drops_are_refused(tmp_path: Path) -> None:
    frames = numbered_frames(5, 60) + numbered_frames(1, 77)
    frames += numbered_frames(5, 61)
    file = write(tmp_path / "trace.pcap", frames)
    with veth_pair() as link:
        drop_frames_of(link.a, 77)
        result = replayed(file, link.a)
        assert (result.only.sent, result.only.refused) == (10, 1)
        assert "No buffer space available" in result.only.reason


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    frames = numbered_frames(300, 1000)
    file = write(tmp_path / "trace.pcap", frames)
    with veth_pair() as link:
        limit = ("rate", "20mbit", "burst", "20kb", "limit", "20kb")
        tc("qdisc", "add", "dev", link.a, "root", "tbf", *limit)
        result = replayed(file, link.a, "--top-speed")
        assert (result.only.sent, result.only.refused) == (300, 0)
        assert "retries, because the queue was full" in result.text
        eventually(lambda: arrived(link.b)[0] == 300, "frames are lost")


def test_an_interface_that_goes_down_ends_it(recorded: Path) -> None:
    with veth_pair() as link:
        options = ("--loop", "0", "--pps", "1000")
        with Running(
            *(str(recorded), link.a, *options), command="replay"
        ) as command:
            eventually(lambda: arrived(link.b)[0] > 0, "nothing is sent")
            ip("link", "set", link.a, "down")
            outcome = command.outcome()
    assert outcome.code == 1
    assert "packets sent" in outcome.text
    assert (
        f"\nrawmmsg: {link.a}: the interface is down, or was deleted\n"
        in outcome.text
    )


def test_an_interface_that_disappears_ends_it(recorded: Path) -> None:
    with veth_pair() as link:
        options = ("--loop", "0", "--pps", "1000")
        with Running(
            *(str(recorded), link.a, *options), command="replay"
        ) as command:
            eventually(lambda: arrived(link.b)[0] > 0, "nothing is sent")
            ip("link", "delete", link.a)
            outcome = command.outcome()
    assert outcome.code == 1
    assert (
        f"\nrawmmsg: {link.a}: the interface is down, or was deleted\n"
        in outcome.text
    )


def test_an_interface_that_is_down_is_an_error(recorded: Path) -> None:
    with veth_pair() as link:
        ip("link", "set", link.a, "down")
        result = replay(recorded, link.a)
    assert result.code == 1
    assert result.text == (
        f"rawmmsg: {link.a}: the interface is down: ip link set {link.a} up\n"
    )


def test_an_interface_without_ethernet_frames_is_an_error(
    recorded: Path,
) -> None:
    with tun_device("tun") as (_, name):
        result = replay(recorded, name)
    assert result.code == 2
    assert result.text == f"rawmmsg: {name}: not an Ethernet interface\n"


def test_a_recording_without_ethernet_frames_is_an_error(
    pair: Veth, tmp_path: Path
) -> None:
    file = write(tmp_path / "trace.pcap", FRAMES, link_type=276)
    before = arrived(pair.b)
    result = replay(file, pair.a)
    assert result.code == 1
    assert (
        f"rawmmsg: {file}: packets have the link type 276, not Ethernet (1);"
        " record on one Ethernet interface" in result.text
    )
    assert arrived(pair.b) == before


def test_packets_before_damage_are_sent(pair: Veth, tmp_path: Path) -> None:
    packets = [(0, one) for one in a_microsecond_apart(FRAMES)]
    file = write_pcapng(tmp_path / "trace.pcapng", packets)
    size = file.stat().st_size
    with file.open("ab") as damaged:
        damaged.write(b"\6\0\0\0\1\0\0\0" + bytes(100))
    with listening(pair.b) as sock:
        result = replay(file, pair.a)
        assert all_of(sock, 20) == FRAMES
    assert result.code == 1
    assert result.only.sent == 20
    assert f"rawmmsg: {file}: offset {size}: " in result.text


def test_a_recording_that_ends_early_is_sent_up_to_there(
    pair: Veth, recorded: Path
) -> None:
    offset = 24 + 19 * (16 + len(FRAMES[0]))
    recorded.write_bytes(recorded.read_bytes()[:-1])
    with listening(pair.b) as sock:
        result = replayed(recorded, pair.a)
        assert all_of(sock, 19) == FRAMES[:19]
    assert (
        f"the last packet of the recording, at offset {offset:,}, is"
        " incomplete\n" in result.text
    )


def test_an_empty_recording_sends_nothing(pair: Veth, tmp_path: Path) -> None:
    file = write(tmp_path / "trace.pcap", [])
    for options in ((), ("--loop", "5"), ("--loop", "0"), ("--merge",)):
        assert replayed(file, pair.a, *options).only.sent == 0


def test_a_pipe_cannot_be_repeated(pair: Veth, recorded: Path) -> None:
    result = replay("-", pair.a, "--loop", "2", stdin=recorded.read_bytes())
    assert result.code == 2
    assert "--loop needs a file that can be read again" in result.text


def test_without_the_privilege_it_says_what_is_missing(
    pair: Veth, recorded: Path
) -> None:
    result = replay(recorded, pair.a, prefix=WITHOUT_CAPABILITIES)
    assert result.code == 1
    assert f"rawmmsg: {pair.a}: " in result.text
    assert "CAP_NET_RAW" in result.text


def test_it_gives_up_its_capabilities(pair: Veth, recorded: Path) -> None:
    before = arrived(pair.b)[0]
    options = ("--loop", "0", "--pps", "1000")
    with Running(
        *(str(recorded), pair.a, *options), command="replay"
    ) as command:
        eventually(lambda: arrived(pair.b)[0] > before, "nothing is sent")
        status = Path(f"/proc/{command.process.pid}/status").read_text()
        command.end()
    for name in ("CapPrm", "CapEff"):
        assert f"{name}:\t0000000000000000\n" in status


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("{file}", "missing"), 1, "missing: No such device"),
        (("/missing/f", "{a}"), 1, "/missing/f: No such file or directory"),
        (("/", "{a}"), 1, "/: Is a directory"),
        (("/dev/null", "{a}"), 1, "/dev/null: offset 0: "),
        (("{file}", "udp:{a}"), 2, "not an interface or interface:NAME"),
        (("{file}", "{a}", "--pps", "0"), 2, "0 must be greater than 0"),
        (("{file}", "{a}", "--mbps", "x"), 2, "invalid number value: 'x'"),
        (("{file}", "{a}", "--loop", "-1"), 2, "-1 must be 0 to 1,000,"),
        (("{file}", "{a}", "--loop", "x"), 2, "invalid number value: 'x'"),
        (
            ("{file}", "{a}", "--pps", "1", "--top-speed"),
            2,
            "--top-speed: not allowed with argument --pps",
        ),
        (
            ("{file}", "{a}", "--speed", "1", "--mbps", "1"),
            2,
            "--mbps: not allowed with argument --speed",
        ),
        (("{file}", "{a}", "--vlan", "4095"), 2, "'4095' is not the number"),
        (("{file}", "{a}", "--vlan", "0"), 2, "'0' is not the number"),
        (("{file}", "{a}", "--dst-mac", "02:00"), 2, "'02:00' is not MAC"),
        (
            ("{file}", "{a}", "--src-mac", "2:0:0-0:0:1"),
            2,
            "'2:0:0-0:0:1' is not MAC",
        ),
        (
            ("{file}", "{a}", "--dst-mac", "2:0:0:0:0:1,2:0:0:0:0:2"),
            2,
            "a second MAC needs --split",
        ),
        (
            ("{file}", "{a}", "--split-filter", "tcp"),
            2,
            "--split-filter needs --split",
        ),
        (
            ("{file}", "{a}", "--split", "{b}", "--split-filter", "prot 1"),
            2,
            "did you mean",
        ),
        (("{file}", "{a}", "--split", "missing"), 1, "missing: No such"),
    ],
)
def test_errors_say_what_is_wrong(
    pair: Veth,
    recorded: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    before = arrived(pair.b)
    result = replay(
        *(one.format(file=recorded, a=pair.a, b=pair.b) for one in arguments)
    )
    assert result.code == code
    assert message in result.text
    assert arrived(pair.b) == before

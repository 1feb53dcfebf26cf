"""rawmmsg.bridge.Switch, as programs use it."""

import gc
import re
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import WAIT
from support.calls import eventually
from support.frames import frame, numbered
from support.linux import ip
from support.switching import take

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.bridge import Switch
from rawmmsg.testing import Veth, veth_pair

A, B = (bytes((2, 0, 0, 0, 0, i)) for i in range(1, 3))
BROADCAST = b"\xff" * 6


@pytest.fixture
def links() -> Iterator[tuple[Veth, Veth]]:
    with veth_pair() as one, veth_pair() as two:
        yield one, two


@pytest.fixture
def ends(links: tuple[Veth, Veth]) -> Iterator[tuple[RawSocket, RawSocket]]:
    with (
        RawSocket(links[0].a, ignore_outgoing=True) as left,
        RawSocket(links[1].a, ignore_outgoing=True) as right,
    ):
        yield left, right


Ends = tuple[RawSocket, RawSocket]
Links = tuple[Veth, Veth]


@contextmanager
def running(switch: Switch) -> Iterator[None]:
    """Runs it in a thread, until the end of the block."""
    thread = threading.Thread(target=switch.run)
    thread.start()
    try:
        yield
    finally:
        switch.end()
        thread.join(WAIT)
    assert not thread.is_alive(), "end() does not end it"


def test_it_forwards_and_counts(links: Links, ends: Ends) -> None:
    with Switch(links[0].b, f"interface:{links[1].b},name=right") as switch:
        assert switch.ports == [links[0].b, "right"]
        with running(switch):
            ends[0].sendmmsg_all([frame(bytes(46), BROADCAST, A)])
            assert take(ends[1], 1) == [frame(bytes(46), BROADCAST, A)]
        counts = switch.statistics()
        assert counts["right"].sent == counts[links[0].b].flooded == 1
        assert switch.stations()["learned"] == 1
        ((vlan, address, port, ago),) = switch.addresses()
        assert (vlan, address, port) == (1, A.hex(":"), links[0].b)
        assert 0 <= ago < WAIT


def test_a_hook_edits_and_drops_frames(links: Links, ends: Ends) -> None:
    seen: list[str] = []

    def on_frames(port: str, batch: PacketBatch) -> list[int]:
        seen.append(port)
        for packet in batch:
            packet[20] = 0x55
        return [i for i in range(len(batch)) if batch[i][21] == 0x66]

    keep = bytearray(frame(bytes(46), BROADCAST, A))
    drop = keep.copy()
    drop[21] = 0x66
    with Switch(links[0].b, links[1].b, on_frames=on_frames) as switch:
        with running(switch):
            ends[0].sendmmsg_all([drop, keep, drop, keep])
            keep[20] = 0x55
            assert take(ends[1], 2) == [keep, keep]
        counts = switch.statistics()[links[0].b]
    assert set(seen) == {links[0].b}
    assert (counts.forwarded, counts.dropped) == (2, {"hook": 2})
    assert counts.adds_up


def test_frames_are_delayed_by_a_timer(links: Links, ends: Ends) -> None:
    """A hook sets frames aside, and a timer sends them."""
    late = PacketBatch(64)

    def on_frames(port: str, batch: PacketBatch) -> range:
        late.extend(batch.tolist())
        return range(len(batch))

    def send_late() -> None:
        switch.send(links[0].b, late)
        late.clear()

    packets = [numbered(i, src=A) for i in range(10)]
    with Switch(links[0].b, links[1].b, on_frames=on_frames) as switch:
        switch.every(0.05, send_late)
        with running(switch):
            ends[0].sendmmsg_all(packets)
            assert take(ends[1], 10) == packets
        counts = switch.statistics()[links[0].b]
    assert (counts.received, counts.forwarded) == (20, 10)
    assert counts.bytes == 2 * sum(map(len, packets))
    assert counts.adds_up


@pytest.mark.parametrize(
    ("option", "spin", "spins"),
    [
        ("", 0.0, False),
        ("", 10.0, True),
        (",spin=1000000", 0.0, True),
    ],
)
def test_it_sleeps_unless_it_is_to_spin(
    links: Links, ends: Ends, option: str, spin: float, spins: bool
) -> None:
    """Timers are called, and frames pass, in time also while it spins."""
    used: list[float] = []
    ports = f"interface:{links[0].b}{option}", links[1].b
    with Switch(*ports, spin=spin) as switch:
        switch.every(0.1, lambda: used.append(time.thread_time()))
        with running(switch):
            ends[0].sendmmsg_all([frame(bytes(46), BROADCAST, A)])
            assert take(ends[1], 1) == [frame(bytes(46), BROADCAST, A)]
            eventually(lambda: len(used) > 5, "the timer stands still")
    busy = used[5] - used[0]
    assert busy > 0.05 if spins else busy < 0.2, f"{busy} s of CPU time"


def test_a_hook_can_neither_send_nor_change_ports(
    links: Links, ends: Ends
) -> None:
    """Its frames are being forwarded."""
    errors: list[str] = []

    def on_frames(port: str, batch: PacketBatch) -> None:
        calls: list[Callable[[], object]] = [
            lambda: switch.send(port, PacketBatch(1)),
            lambda: switch.remove(port),
            lambda: switch.add(f"interface:{port},name=again"),
        ]
        for call in calls:
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    packet = frame(bytes(46), BROADCAST, A)
    with Switch(*(link.b for link in links), on_frames=on_frames) as switch:
        with running(switch):
            ends[0].sendmmsg_all([packet])
            assert take(ends[1], 1) == [packet]
        switch.send(links[0].b, PacketBatch(1))
        with pytest.raises(KeyError):
            switch.send("nope", PacketBatch(1))
        assert len(switch.ports) == 2
    for name, error in zip(("send", "remove", "add"), errors, strict=False):
        assert error.startswith(f"{name}() cannot be called by on_frames")
    assert len(errors) >= 3


def test_frames_of_the_program_need_no_memory_of_the_switch(
    links: Links, ends: Ends
) -> None:
    """Also tags are put in."""
    batch = PacketBatch(200, buffer=bytearray(64 * 200))
    batch.extend([numbered(i, src=A) for i in range(200)])
    with Switch(f"interface:{links[0].b},access=5", f"{links[1].b}") as switch:
        switch.send(links[0].b, batch)
        tagged = [
            packet[:12] + bytes.fromhex("81000005") + packet[12:]
            for packet in batch.tolist()
        ]
        assert take(ends[1], 200) == tagged


def test_ports_come_and_go(links: Links, ends: Ends) -> None:
    with Switch(links[0].b) as switch:
        name = switch.add(f"interface:{links[1].b},name=x")
        assert name == "x"
        with pytest.raises(ValueError, match="two ports have the name x"):
            switch.add(f"interface:{links[1].b},name=x")
        with pytest.raises(ValueError, match="x and y are the same port"):
            switch.add(f"interface:{links[1].b},name=y")
        switch.remove("x")
        with pytest.raises(KeyError):
            switch.remove("x")
        assert switch.ports == [links[0].b]
        assert switch.add(f"interface:{links[1].b},name=y") == "y"


def test_ports_that_come_and_go_leave_no_memory_behind(
    links: Links, ends: Ends
) -> None:
    """A program may start and stop virtual machines for years. Counts stay,
    and those of ports that were removed long ago are forgotten."""
    batch = PacketBatch(1)
    batch.append(frame(bytes(46), BROADCAST, A))

    def rounds(count: int) -> None:
        for _ in range(count):
            name = switch.add(f"interface:{links[1].b},plain,isolated")
            switch.send(links[0].b, batch)
            switch.send(name, batch)
            switch.remove(name)

    with Switch(links[0].b, links[0].a) as switch:
        rounds(20)
        gc.collect()
        tracemalloc.start()
        try:
            rounds(20)
            gc.collect()
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        counts = switch.statistics()
        assert all(one.adds_up for one in counts.values()), counts
        assert counts[links[1].b].copies == counts[links[1].b].received == 40
        assert counts[links[0].b].forwarded == 40
        assert grown < 100_000, f"{grown} bytes are left behind"


def test_counts_of_a_thousand_removed_ports_are_kept(
    links: Links, short_path: Path
) -> None:
    with Switch(links[0].b) as switch:
        for i in range(1002):
            path = f"stream:unix:{short_path}/nobody,name=vm{i}"
            switch.remove(switch.add(path))
        names = set(switch.statistics())
    assert names == {links[0].b, *(f"vm{i}" for i in range(2, 1002))}


def test_wrong_settings_are_named(links: Links) -> None:
    settings: list[tuple[dict[str, Any], str]] = [
        ({"ageing": 0}, "ageing must be greater than 0, not 0"),
        ({"ageing": float("nan")}, "ageing must be greater than 0, not nan"),
        ({"stations": -1}, "stations must be greater than 0, not -1"),
        ({"batch": 1025}, "batch must be 1 to 1,024, not 1025"),
        ({"spin": -0.1}, "spin must be 0 or a time, not -0.1"),
    ]
    for setting, message in settings:
        with pytest.raises(ValueError, match=re.escape(message)):
            Switch(links[0].b, **setting)
    with Switch(links[0].b) as switch:
        with pytest.raises(ValueError, match="seconds must be greater than 0"):
            switch.every(0, print)


def test_it_cannot_be_closed_while_it_runs(links: Links) -> None:
    with Switch(*(link.b for link in links)) as switch:
        with running(switch):
            eventually(lambda: is_refused(switch.close), "it can be closed")
    switch.end()  # somebody who does not know yet that it is closed


def is_refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except RuntimeError as error:
        return "cannot be closed while run() runs" in str(error)
    return False


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda _, __, batch: batch.clear(), "got 1 frames of .* and left 0"),
        (lambda _, __, batch: batch.append(bytes(60)), "and left 2"),
        (lambda _, __, ___: [1], "returned the index 1, but got 1 frames"),
        (lambda _, __, ___: [-1], "returned the index -1"),
        (
            lambda switch, port, _: switch.remove(port),
            r"remove\(\) cannot be called by on_frames",
        ),
    ],
)
def test_mistakes_of_a_hook_are_named(
    links: Links,
    ends: Ends,
    mistake: Callable[[Switch, str, PacketBatch], list[int] | None],
    message: str,
) -> None:
    def on_frames(port: str, batch: PacketBatch) -> list[int] | None:
        return mistake(switch, port, batch)

    with Switch(*(link.b for link in links), on_frames=on_frames) as switch:
        switch.every(WAIT, switch.end)
        ends[0].sendmmsg_all([frame(bytes(46), BROADCAST, A)])
        with pytest.raises((ValueError, LookupError, RuntimeError)) as caught:
            switch.run()
    assert re.search(message, str(caught.value))


def test_nothing_stays_open_if_a_port_cannot_be_opened(links: Links) -> None:
    with pytest.raises(OSError, match="nope: No such device"):
        Switch(links[0].b, "nope")
    with pytest.raises(ValueError, match="not an interface, unix:"):
        Switch(links[0].b, "nope:x")


def test_news_are_reported(links: Links) -> None:
    news: list[str] = []
    problems: list[str] = []
    with Switch(
        links[0].b,
        links[1].b,
        "interface:late0,wait",
        report=problems.append,
        notice=news.append,
    ) as switch:
        assert news == ["there is no interface late0; waiting for it"]
        switch.remove("late0")
        thread = threading.Thread(target=switch.run)
        thread.start()
        for link in links:
            ip("link", "delete", "dev", link.b)
        # It ends when no port is left.
        thread.join(WAIT)
        assert not thread.is_alive()
        assert switch.ports == []
    assert sorted(problems) == sorted(
        f"{link.b} has disappeared" for link in links
    )


def test_a_hook_that_raises_ends_the_switch(links: Links, ends: Ends) -> None:
    def on_frames(port: str, batch: PacketBatch) -> list[int]:
        raise RuntimeError("a mistake")

    errors: list[RuntimeError] = []

    def run(call: Callable[[], None]) -> None:
        try:
            call()
        except RuntimeError as error:
            errors.append(error)

    with Switch(*(link.b for link in links), on_frames=on_frames) as switch:
        thread = threading.Thread(target=run, args=(switch.run,))
        thread.start()
        ends[0].sendmmsg_all([frame(bytes(46), BROADCAST, A)])
        thread.join(WAIT)
    eventually(lambda: len(errors) == 1, "the error is lost")

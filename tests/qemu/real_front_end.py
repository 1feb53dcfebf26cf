"""QEMU as the front end of a vhost-user back end: what it sends is accepted,
and means what the tests in tests/vhost believe. No frame is moved. Run by
run.py."""

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self

import image
import pytest
from guest import MEMORY, PATIENCE, Guest, shared_memory_card
from support.front_end import RecordedRings
from support.linux import descriptors

from rawmmsg.vhost import ListeningServer

MTU: Final = 9000


class BackEnd:
    """Listens at the path in a thread, from construction until stop()."""

    def __init__(self, path: Path) -> None:
        self.rings = RecordedRings()
        self.reports: list[str] = []
        self._wake = os.eventfd(0)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(path))
        self._listener.listen()
        self._path = path
        self.server = ListeningServer(
            self._listener, self.rings, self.reports.append
        )
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while self._round():
                pass
        except Exception as error:
            self._error = error

    def _round(self) -> bool:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        readers = self.server.readers
        for descriptor in readers:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll():
            if descriptor == self._wake:
                return False
            readers[descriptor]()
        return True

    def stop(self) -> None:
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self.server.close()
        self._listener.close()
        self._path.unlink()
        os.close(self._wake)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def available(self, index: int) -> int:
        """The index of a ring's next available buffer, in guest memory."""
        address = self.rings.addresses[index].available + 2
        for mapped in self.rings.memory:
            offset = address - mapped.region.user_address
            if 0 <= offset < mapped.region.size:
                (number,) = struct.unpack_from("<H", mapped.memory, offset)
                return int(number)
        raise AssertionError(f"{address:#x} is not in the memory table")


def wait_until(condition: Callable[[], bool], promise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, promise
        time.sleep(0.01)


@contextmanager
def guest_at(path: Path, folder: Path) -> Iterator[Guest]:
    """A guest whose card is up."""
    words = shared_memory_card(str(path), MTU)
    initramfs = image.make_initramfs(folder)
    with Guest(image.kernel(), initramfs, words, folder=folder) as guest:
        guest.run("ip link set eth0 up")
        yield guest


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = descriptors()
    yield
    # The session may close them in a thread of its own.
    wait_until(lambda: descriptors() == before, "a descriptor stays open")


def check_running(back_end: BackEnd) -> None:
    rings = back_end.rings
    wait_until(lambda: len(rings.call_descriptors) == 2, "no rings")
    wait_until(lambda: rings.running == {0, 1}, "the rings do not run")
    assert rings.enabled == {0: True, 1: True}
    assert rings.sizes == {0: 256, 1: 256}
    assert sum(one.region.size for one in rings.memory) == MEMORY << 20


def test_qemu_sets_up_both_rings(tmp_path: Path) -> None:
    path = tmp_path / "card"
    with BackEnd(path) as back_end, guest_at(path, tmp_path) as guest:
        check_running(back_end)
        session = back_end.server.session
        assert session is not None
        assert session.mtu == MTU
        assert int(guest.run("cat /sys/class/net/eth0/mtu")) == MTU
        assert back_end.available(0) == 256
        before = back_end.available(1)
        guest.run("ip addr add 10.9.0.2/24 dev eth0")
        guest.begin("ping -c 1 -W 1 10.9.0.1 || true")
        wait_until(
            lambda: (
                back_end.available(1) != before and 1 in back_end.rings.kicks
            ),
            "the guest sends nothing",
        )
        guest.finish()
        assert back_end.reports == ["a front end has connected"]


def test_driver_is_loaded_again(tmp_path: Path) -> None:
    """Like in a reboot, the rings stop and start from the beginning."""
    path = tmp_path / "card"
    with BackEnd(path) as back_end, guest_at(path, tmp_path) as guest:
        check_running(back_end)
        guest.run("rmmod virtio_net")
        wait_until(lambda: not back_end.rings.running, "the rings run")
        guest.run("insmod /modules/virtio_net.ko")
        guest.run("ip link set eth0 up")
        check_running(back_end)
        assert back_end.rings.bases == {0: 0, 1: 0}
        assert back_end.reports == ["a front end has connected"]


def test_back_end_is_restarted(tmp_path: Path) -> None:
    """The rings of a guest that kept running start without a kick, and have
    the buffers that it made available before."""
    path = tmp_path / "card"
    with ExitStack() as running:
        first = BackEnd(path)
        try:
            guest = running.enter_context(guest_at(path, tmp_path))
        finally:
            first.stop()
        second = running.enter_context(BackEnd(path))
        check_running(second)
        assert second.available(0) == 256
        assert guest.run("cat /sys/class/net/eth0/carrier") == "1\n"


def test_qemu_is_killed_and_another_one_connects(tmp_path: Path) -> None:
    path = tmp_path / "card"
    with BackEnd(path) as back_end:
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir()
            with guest_at(path, folder):
                check_running(back_end)
            wait_until(lambda: back_end.server.session is None, "it stays")
    assert back_end.rings.memory == ()
    assert back_end.rings.running == set()
    assert back_end.reports == 2 * [
        "a front end has connected",
        "the front end has disconnected",
    ]

"""The whole suite runs in a network namespace of its own."""

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from traffic import tun_device

from rawmmsg import RawSocket
from rawmmsg.testing import Veth, veth_pair

pytest_plugins = ["rawmmsg.testing"]


@pytest.fixture(scope="module")
def pair() -> Iterator[Veth]:
    """One veth pair for all tests of a file that leave it as it is."""
    with veth_pair() as made:
        yield made


@pytest.fixture
def sender(pair: Veth) -> Iterator[RawSocket]:
    """A socket that sends on it, from `pair.a`."""
    with RawSocket(pair.a, protocol=0) as sock:
        yield sock


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder like tmp_path, whose name leaves room for that of a socket
    (unix(7): 108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="rawmmsg-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def tun(request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    """An interface without a link header: descriptor and name."""
    with _tun_device(request.config, "tun") as made:
        yield made


@pytest.fixture
def tap(request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    """An Ethernet interface that cannot segment: descriptor and name."""
    with _tun_device(request.config, "tap") as made:
        yield made


@contextmanager
def _tun_device(config: pytest.Config, kind: str) -> Iterator[tuple[int, str]]:
    try:
        open("/dev/net/tun", "r+b", buffering=0).close()
    except OSError as error:
        message = f"{error}: modprobe tun; chmod 666 /dev/net/tun"
        if config.getini("rawmmsg_require_namespace"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    with tun_device(kind) as made:
        yield made


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of bench/, which lies beside the package under test;
    that may be installed elsewhere."""
    root = Path(__file__).resolve().parents[1]
    monkeypatch.setattr(sys, "path", [*sys.path, str(root)])
    return lambda name: importlib.import_module(f"bench.{name}")

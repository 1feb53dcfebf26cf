"""Fixtures and options for all tests. The suite runs in a network namespace of
its own."""

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.bridging import Network
from support.datagrams import leave_checksums_to_software
from support.frames import SHAPES, datagram_pair
from support.linux import tun_device
from support.merging import Listener

from rawmmsg import RawSocket
from rawmmsg.testing import Veth, veth_pair

pytest_plugins = ["rawmmsg.testing"]
# Few machines have PTF. `nox -s ptf` installs it.
collect_ignore = [] if find_spec("ptf") else ["ptf_ports"]
# Tests with Wireshark's programs and tcpdump's samples. `nox -s recordings`
# runs them.
if "RAWMMSG_TCPDUMP_SAMPLES" not in os.environ:
    collect_ignore.append("recording_programs")

# For the tests of bench/. At the end of the path, so that an installed rawmmsg
# is tested, not the one in the tree.
sys.path.append(str(Path(__file__).resolve().parents[1]))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rawmmsg's own tests")
    group.addoption(
        "--scale",
        type=float,
        default=1,
        metavar="FACTOR",
        help="repeat the tests of races, random input and long transfers"
        " FACTOR times as often, with a time limit FACTOR times as long"
        " (default: 1)",
    )
    group.addoption(
        "--examples",
        type=int,
        metavar="COUNT",
        help="let each test of randomly generated filter expressions draw"
        " COUNT new expressions (default: the same few hundred in every run)",
    )
    group.addoption(
        "--flap-seconds",
        type=float,
        default=2,
        metavar="SECONDS",
        help="set a link of the bridge down and up for SECONDS seconds"
        " (default: 2)",
    )


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Lengthens the time limits of tests that an option makes longer."""
    limit = float(config.getini("timeout") or 0)
    longer = {
        "scaled": limit * config.getoption("scale"),
        "flap_seconds": limit + config.getoption("flap_seconds"),
    }
    for item in items:
        for name, seconds in longer.items():
            if 0 < limit < seconds and name in getattr(
                item, "fixturenames", ()
            ):
                item.add_marker(pytest.mark.timeout(seconds))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run with a skipped test in CI."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    is_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    if is_ci and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("")
        reporter.write_line("CI is set: no test may be skipped.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _errors_of_missing_tools() -> tuple[type[Exception], ...]:
    """The errors that skip a test. bench/ has one of its own, if it was
    imported."""
    contender = sys.modules.get("bench.lab.contender")
    if contender is None:
        return (FileNotFoundError,)
    return (FileNotFoundError, contender.UnavailableError)


def _skip_without_tool() -> Generator[None, object, object]:
    """Skips a test that needs a program or a library that is not installed.
    The error names the command that installs it."""
    try:
        return (yield)
    except _errors_of_missing_tools() as error:
        message = getattr(error, "strerror", None) or str(error)
        if "apt-get install" not in message:
            raise
        pytest.skip(message)


pytest_runtest_setup = pytest.hookimpl(wrapper=True)(_skip_without_tool)
pytest_runtest_call = pytest.hookimpl(wrapper=True)(_skip_without_tool)


@pytest.fixture(scope="session")
def scaled(pytestconfig: pytest.Config) -> Callable[[int], int]:
    """Multiplies a number of repetitions by --scale."""
    factor = float(pytestconfig.getoption("scale"))
    return lambda count: max(1, round(count * factor))


@pytest.fixture(scope="session")
def flap_seconds(pytestconfig: pytest.Config) -> float:
    """--flap-seconds: how long a link is set down and up."""
    return float(pytestconfig.getoption("flap_seconds"))


@pytest.fixture(scope="module")
def pair() -> Iterator[Veth]:
    """One veth pair for all tests of a file. They leave it as they found
    it."""
    with veth_pair() as made:
        yield made


@pytest.fixture
def sender(pair: Veth) -> Iterator[RawSocket]:
    """A socket on `pair.a` that only sends."""
    with RawSocket(pair.a, protocol=0) as sock:
        yield sock


@pytest.fixture
def receiver(pair: Veth) -> Iterator[RawSocket]:
    """A socket on `pair.b`."""
    with RawSocket(pair.b) as sock:
        yield sock


@pytest.fixture
def vnet_sender(pair: Veth) -> Iterator[RawSocket]:
    """A socket on `pair.a` that only sends, with offload headers."""
    with RawSocket(pair.a, protocol=0, vnet_hdr=True) as sock:
        yield sock


@pytest.fixture
def listener(pair: Veth) -> Iterator[Listener]:
    """What arrives at `pair.b`, with super-frames cut."""
    with Listener(pair.b) as made:
        yield made


@pytest.fixture
def far(pair: Veth) -> Iterator[RawSocket]:
    """A socket that sees what arrives at `pair.a` while the bridge has
    `pair.b`."""
    with RawSocket(pair.a, ignore_outgoing=True) as sock:
        yield sock


@pytest.fixture
def end(pair: Veth) -> Iterator[RawSocket]:
    """The same, but it sees super-frames in one piece."""
    with RawSocket(pair.a, ignore_outgoing=True, vnet_hdr=True) as sock:
        yield sock


@pytest.fixture
def near(pair: Veth) -> Iterator[RawSocket]:
    """A non-blocking socket on `pair.b`, as the bridge opens it for a port
    with offloads."""
    with RawSocket(pair.b, ignore_outgoing=True, vnet_hdr=True) as sock:
        sock.setblocking(False)
        yield sock


@pytest.fixture
def jumbo(
    veth_factory: Callable[..., Veth],
) -> Iterator[tuple[RawSocket, RawSocket]]:
    """Like `near` and `end`, with an MTU of 9,000."""
    veth = veth_factory(mtu=9000)
    with (
        RawSocket(veth.b, ignore_outgoing=True, vnet_hdr=True) as near,
        RawSocket(veth.a, ignore_outgoing=True, vnet_hdr=True) as end,
    ):
        near.setblocking(False)
        yield near, end


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what it was given when the test ends."""
    with ExitStack() as made:
        yield made


@pytest.fixture
def network(veth_factory: Callable[..., Veth]) -> Network:
    return Network(veth_factory(), veth_factory())


@pytest.fixture(scope="module")
def kernel() -> Iterator[tuple[RawSocket, RawSocket]]:
    """A sender and a receiver. The sender's device has no offloads, so the
    kernel completes checksums and cuts super-frames in software."""
    with veth_pair() as veth:
        leave_checksums_to_software(veth.a)
        with (
            RawSocket(veth.a, protocol=0, vnet_hdr=True) as sender,
            RawSocket(veth.b, ignore_outgoing=True) as receiver,
        ):
            yield sender, receiver


@pytest.fixture
def sock() -> Iterator[RawSocket]:
    """A non-blocking socket to which nothing is sent."""
    peer, adopted = datagram_pair()
    adopted.setblocking(False)
    with peer, adopted:
        yield adopted


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A form in which packets can be given."""
    return SHAPES[request.param]


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Makes threads switch as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def unbound() -> Iterator[socket.socket]:
    """An AF_PACKET socket of the standard library that is not bound."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        yield sock


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder like tmp_path, with a path short enough for a Unix socket's
    name (unix(7): 108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="rawmmsg-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def tun() -> Iterator[tuple[int, str]]:
    """A tun interface, which has no link header: its descriptor and name."""
    with _tun_device("tun") as made:
        yield made


@pytest.fixture
def tap() -> Iterator[tuple[int, str]]:
    """A tap interface, which is Ethernet and cannot segment: its descriptor
    and name."""
    with _tun_device("tap") as made:
        yield made


@pytest.fixture
def merging_tap() -> Iterator[tuple[int, str]]:
    """A tap interface that merges what is written to it: its descriptor and
    name."""
    with _tun_device("tap", vnet_hdr=True, napi=True) as made:
        yield made


@contextmanager
def _tun_device(kind: str, **options: bool) -> Iterator[tuple[int, str]]:
    try:
        open("/dev/net/tun", "r+b", buffering=0).close()
    except OSError as error:
        pytest.skip(f"{error}: modprobe tun; chmod 666 /dev/net/tun")
    with tun_device(kind, **options) as made:
        yield made

"""The whole suite runs in a network namespace of its own."""

from collections.abc import Iterator

import pytest

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

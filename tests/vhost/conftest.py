"""All tests of the back end: nothing stays open."""

from collections.abc import Iterator
from time import monotonic, sleep

import pytest
from support import WAIT
from support.linux import same_descriptors

from rawmmsg.vhost.descriptors import waiting_to_close


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    with same_descriptors():
        yield
        deadline = monotonic() + WAIT
        while waiting_to_close():
            assert monotonic() < deadline, "a descriptor cannot be closed"
            sleep(0.01)

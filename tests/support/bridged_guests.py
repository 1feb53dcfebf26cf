"""Guests of the tests' own behind a running bridge."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rawmmsg.vhost import Feature
from support.bridging import Running, bridging
from support.guest_driver import NEGOTIATED
from support.guest_links import VhostUserLink, guest_at

LINUX_BUFFERS: Final = (1536,) * 256


@contextmanager
def guest_and(
    other: str,
    path: Path,
    *options: str,
    features: Feature = NEGOTIATED,
    buffers: Sequence[int] = LINUX_BUFFERS,
    size: int = 256,
    pass_fds: Sequence[int] = (),
) -> Iterator[tuple[Running, VhostUserLink]]:
    """A bridge from another port to a guest, both rings of which run."""
    port = f"vhost-user:{path}"
    with (
        bridging(other, port, *options, pass_fds=pass_fds) as bridge,
        guest_at(path, features, buffers=buffers, size=size) as link,
    ):
        yield bridge, link


def frames_of(link: VhostUserLink, count: int) -> list[bytes]:
    """Waits until the guest has so many frames; without their headers."""
    return [one.frame for one in link.receive(count)]

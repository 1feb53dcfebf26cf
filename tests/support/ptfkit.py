"""PTF's data plane, with the interfaces of veth pairs as its ports."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import TestCase

with warnings.catch_warnings():
    # PTF loads modules of Scapy by their old names.
    warnings.simplefilter("ignore", DeprecationWarning)
    import ptf
    import ptf.dataplane
    import ptf.ptfutils
    from ptf import testutils
    from ptf.mask import Mask

from rawmmsg.ptf import RawMmsgPort

__all__ = ["PORT_CLASSES", "Case", "Mask", "data_plane", "testutils"]

PORT_CLASSES = [ptf.dataplane.DataPlanePortLinux, RawMmsgPort]


class Case(TestCase):
    """What PTF's functions expect of a test case."""

    def __init__(self, dataplane: Any) -> None:
        super().__init__("runTest")
        self.dataplane = dataplane

    def runTest(self) -> None:
        """TestCase needs it; the functions of the test run instead."""

    def before_send(self, *_: object, **__: object) -> None:
        """PTF calls it with each frame that is sent."""

    def at_receive(self, *_: object, **__: object) -> None:
        """PTF calls it with each frame that is received."""


@contextmanager
def data_plane(
    port_class: type, interfaces: Sequence[str], **config: object
) -> Iterator[Case]:
    """Opens port 0 and further ones on the interfaces, and makes PTF use
    them."""
    ports = {(0, port): name for port, name in enumerate(interfaces)}
    ptf.config.clear()
    ptf.config.update(platform="eth", relax=False, port_map=ports, **config)
    ptf.config["dataplane"] = {"portclass": port_class}
    ptf.ptfutils.default_timeout = 10
    ptf.ptfutils.default_negative_timeout = 0.1
    plane = ptf.dataplane.DataPlane(ptf.config)
    try:
        for (device, port), interface in ports.items():
            plane.port_add(interface, device, port)
        yield Case(plane)
    finally:
        plane.kill()

"""Contenders that compute or verify the checksums of a batch in place, or copy
it: with rawmmsg, and in C on the same memory."""

import abc
import ctypes
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from rawmmsg import CHECKSUM_GOOD

from ..lab.contender import GroundTruthError, Ready, Slice
from ..lab.link import Frames
from ..lab.native import library
from .frames import Maker

_SOURCE: Final = "checksums/loop.c"


class Place:
    """A batch of frames, which all contenders work on."""

    def __init__(self, maker: Maker, batch: int) -> None:
        self.maker = maker
        self.frames = Frames(batch, maker.size, make=maker)


class Work(abc.ABC):
    """A contender: runs and checks its slices."""

    def __init__(self, place: Place) -> None:
        self.maker = place.maker
        self.frames = place.frames

    @abc.abstractmethod
    def run(self, times: int) -> None:
        """Does the work of a batch `times` times."""

    def begin(self) -> None:
        """Makes new frames whose checksums are wrong."""
        self.frames.number()
        for view in self.frames.out_views:
            self.maker.spoil(view)

    def check(self) -> None:
        """Raises GroundTruthError if the work was not done."""
        for i, packet in enumerate(self.frames.packets):
            if self.frames.out_views[i] != packet:
                raise GroundTruthError(f"frame {i} has wrong checksums")

    def time(self, times: int) -> int:
        """Runs and checks; returns the nanoseconds of CPU time that it took.
        As nothing waits here, the rest is the work of other programs."""
        self.begin()
        begin = time.thread_time_ns()
        self.run(times)
        taken = time.thread_time_ns() - begin
        self.check()
        return taken


class Computing(Work):
    """rawmmsg."""

    def run(self, times: int) -> None:
        compute = self.frames.out.compute_checksums
        for _ in range(times):
            compute()


class Verifying(Work):
    """rawmmsg, of checksums that are right."""

    def begin(self) -> None:
        self.frames.number()
        self._statuses = memoryview(b"")

    def run(self, times: int) -> None:
        verify = self.frames.out.verify_checksums
        for _ in range(times):
            self._statuses = verify()

    def check(self) -> None:
        super().check()
        if self._statuses != bytes([CHECKSUM_GOOD] * self.frames.batch):
            raise GroundTruthError(f"{self._statuses.tolist()} was found")


class _Batch(ctypes.Structure):
    """struct batch"""

    _fields_ = (
        ("frames", ctypes.c_void_p),
        ("copies", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("stride", ctypes.c_size_t),
        ("count", ctypes.c_uint),
    )


class Native(Work):
    """C."""

    function = "compute_batch"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._call = library(_SOURCE)[self.function]
        frames = self.frames
        lengths = ctypes.c_uint32.from_buffer(frames.out.lengths)
        self._batch = _Batch(
            frames.address(frames.out),
            frames.address(frames.into),
            ctypes.addressof(lengths),
            frames.stride,
            frames.batch,
        )

    def run(self, times: int) -> None:
        self._call(ctypes.byref(self._batch), times)


class Copying(Native):
    """memcpy() of every frame."""

    function = "copy_batch"

    def begin(self) -> None:
        self.frames.number()

    def check(self) -> None:
        self.frames.check([self.frames.size] * self.frames.batch)


Prepare: TypeAlias = Callable[[Place], Ready]


def prepared(make: Callable[[Place], Work], *, rate: bool = False) -> Prepare:
    """Makes a contender ready for the runner. Its figure is the nanoseconds
    that a frame takes, or a rate in Gbit/s."""

    def prepare(place: Place) -> Ready:
        work = make(place)
        batch, size = place.frames.batch, place.frames.size

        def run(times: int) -> Slice:
            taken = work.time(times)
            packets = times * batch
            figure = 8 * size * packets / taken if rate else taken / packets
            return Slice(figure, taken)

        return Ready(run, batch)

    return prepare

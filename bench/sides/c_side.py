"""Sides in C: the handles that their libraries give out, and their functions
that run on another CPU."""

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

from ..network.link import Frames
from ..tools import cpus, native
from .ways import LoopSetup

_ERROR_SIZE: Final = 256  # c/loop.h


class Handle:
    """What the function KIND_open() of a library makes of a setup; others of
    that kind take it first, and return less than 0, -errno, where they fail.

    Raises OSError with its words where it cannot be opened, and as
    native.library() does.
    """

    def __init__(
        self,
        kind: str,
        source: str,
        libraries: Sequence[str],
        setup: LoopSetup,
        frames: Frames,
    ) -> None:
        self._kind = kind
        self._source = source
        self._library = native.library(source, *libraries)
        # Both are in use as long as it is open: their strings and memory.
        self._setup = setup
        self._frames = frames
        opener = self._library[f"{kind}_open"]
        opener.restype = ctypes.c_void_p
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        self._handle = ctypes.c_void_p(opener(ctypes.byref(setup), error))
        if not self._handle:
            raise OSError(error.value.decode())

    def ask(self, function: str, *arguments: object) -> int:
        """What a function returns."""
        result: int = self._library[f"{self._kind}_{function}"](
            self._handle, *arguments
        )
        return result

    def call(self, function: str, *arguments: object) -> int:
        """The same, of one that raises OSError where it fails."""
        return succeeded(self.ask(function, *arguments), self._source)

    def close(self) -> None:
        handle, self._handle = self._handle, ctypes.c_void_p()
        self._library[f"{self._kind}_close"](handle)


class Elsewhere:
    """A function in C that runs on another CPU, until it is over."""

    def __init__(
        self, source: str, cpu: int, function: Callable[[ctypes.c_int], int]
    ) -> None:
        self.over = ctypes.c_int()
        self._source = source
        self._cpu = cpu
        self._function = function
        self._result = 0
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with cpus.pinned(self._cpu):
                self._result = self._function(self.over)
        except OSError as error:
            self._failure = error  # of pinned()
        finally:
            self.over.value = 1  # or another would wait for it for ever

    def finish(self) -> None:
        """Waits for its end; raises OSError where it failed."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        succeeded(self._result, self._source)

    def stop(self) -> None:
        """Has it end, where it does not by itself."""
        self.over.value = 1
        self.finish()


def succeeded(result: int, source: str) -> int:
    """The result; raises OSError where it is -errno."""
    if result < 0:
        words = os.strerror(-result)
        raise OSError(-result, f"{source}: {words}")
    return result

"""Every allocation may fail. The call then raises MemoryError, or what it
would have raised anyway; it leaves no descriptor open and can be made
again."""

import _imp
import gc
import importlib
import importlib.util
import os
import sys
import types
from functools import cache, partial
from typing import Any, Final

import pytest
from support.child import Child, in_child
from support.every_call import (
    ADOPTED,
    ADOPTED_PACKET,
    ATTRIBUTES,
    BATCHES,
    NEW,
    OF_BATCHES,
    OF_SOCKETS,
    PROGRAM,
    Bind,
    Prepare,
    Scene,
    fill,
    make_scene,
    nothing,
    outcome,
)
from support.frames import PACKET
from support.linux import descriptors
from support.recordings import SAMPLES
from support.small_rings import SmallGuest

from rawmmsg import SUPER_FRAME, PacketBatch, _rawmmsg, bpf
from rawmmsg._rawmmsg import (
    _copy_frames,
    _FrameSorter,
    _GuestRings,
    _RecordFinder,
    _RecordWriter,
)
from rawmmsg.testing import Veth
from rawmmsg.vhost import RingAddresses

COUNTS: Final = 1, 12
"""How many allocations in a row fail. If more fail, CPython cannot raise an
exception (Cannot recover from MemoryErrors while normalizing exceptions)."""
ENOUGH: Final = 8
"""If this many calls in a row do not fail, every allocation that can fail has
failed."""
LOST: Final = "error return without exception set"
"""The text of SystemError if a Python function gets no memory for the frame
object that a traceback needs. CPython (3.11 to 3.13 at least) then loses the
exception, as `lambda: [].pop()` shows. The constructor calls some."""
FAILURES: Final = (MemoryError, RuntimeError)
"""RuntimeError: no thread could be started to open a socket (netns=)."""


@pytest.fixture
def testcapi(request: pytest.FixtureRequest) -> Any:
    """CPython's module that makes allocations fail."""
    try:
        return importlib.import_module("_testcapi")
    except ImportError as error:
        message = (
            f"{error}: needs a Python with its test modules (Debian's has"
            " them; dnf install python3-test; apk add python3-tests)"
        )
        if request.config.getini("rawmmsg_require_namespace"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


def starved(
    bind: Bind, prepare: Prepare, scene: Scene, first: int, end: int
) -> object:
    """Makes the call while its allocations `first` to `end` - 1 fail, counted
    from 0."""
    testcapi = importlib.import_module("_testcapi")
    scene.reset()
    prepare(scene)
    before, closed = len(descriptors()), scene.sock.closed
    call = bind(scene)
    result: object = None
    failure: BaseException | None = None
    sys._getframe()  # makes the frame object now
    testcapi.set_nomemory(first, end)
    try:
        result = call()
    except BaseException as error:
        failure = error
    finally:
        testcapi.remove_mem_hooks()
    result = scene.release(result)
    # Some calls close the socket, or everything except its descriptor.
    if scene.sock.closed and not closed:
        before -= 2 if scene.lent < 0 else 1
    assert len(descriptors()) == before, (
        f"a descriptor was left open: {failure!r}"
    )
    if isinstance(failure, SystemError) and str(failure) == LOST:
        return MemoryError
    return result if failure is None else type(failure)


def starve(
    bind: Bind, prepare: Prepare, veth: Veth, counts: tuple[int, ...] = COUNTS
) -> None:
    """Makes the call until each of its allocations has failed once, alone and
    together with those after it."""
    # Allocations of a finalizer would fail too.
    gc.disable()
    bpf.compile = compile_without_memory  # type: ignore[assignment]
    with make_scene(veth) as scene:
        expected = outcome(bind, prepare, scene)
        for count in counts:
            n = undisturbed = 0
            while undisturbed < ENOUGH:
                got = starved(bind, prepare, scene, n, n + count)
                where = f"without allocations {n} to {n + count - 1}"
                assert got in (expected, *FAILURES), f"{where}: {got}"
                undisturbed += 1
                if got in FAILURES:
                    undisturbed = 0
                    again = outcome(bind, prepare, scene)
                    assert again == expected, f"after a call {where}: {again}"
                n += 1


def starve_at_once(bind: Bind, prepare: Prepare, veth: Veth) -> None:
    """Does the same in a child for each of COUNTS. Closing a packet socket
    takes 10 ms or more, in which a process only waits."""
    children = [
        Child(partial(starve, bind, prepare, veth, (count,)))
        for count in COUNTS
    ]
    for child in children:
        child.join()


def compile_without_memory(expression: str, **_: object) -> bytes:
    """Replaces the compiler, whose Python frames lose exceptions too."""
    return PROGRAM


def new_module() -> types.ModuleType:
    spec = _rawmmsg.__spec__
    assert spec is not None
    return importlib.util.module_from_spec(spec)


IMPORTING: Final[dict[str, Bind]] = {
    "create": lambda _: partial(_imp.create_dynamic, _rawmmsg.__spec__),
}
# After a failure to make a type, CPython 3.13 reads beyond the end of a
# dictionary when it makes the next one (dictresize(), seen with valgrind).
if sys.version_info < (3, 13):
    IMPORTING["execute"] = lambda _: partial(_imp.exec_dynamic, new_module())


@pytest.mark.parametrize("step", IMPORTING)
def test_import_without_memory(testcapi: Any, pair: Veth, step: str) -> None:
    in_child(lambda: starve(IMPORTING[step], nothing, pair))


@pytest.mark.parametrize("form", BATCHES)
def test_new_batch_without_memory(
    testcapi: Any, pair: Veth, form: str
) -> None:
    in_child(lambda: starve(BATCHES[form], nothing, pair))


@pytest.mark.parametrize("form", NEW)
def test_new_socket_without_memory(
    testcapi: Any, pair: Veth, form: str
) -> None:
    starve_at_once(NEW[form], nothing, pair)


@pytest.mark.parametrize("form", ADOPTED)
def test_adopted_socket_without_memory(
    testcapi: Any, pair: Veth, form: str
) -> None:
    in_child(lambda: starve(ADOPTED[form], Scene.lend, pair))


@pytest.mark.parametrize("form", ADOPTED_PACKET)
def test_adopted_packet_socket_without_memory(
    testcapi: Any, pair: Veth, form: str
) -> None:
    starve_at_once(ADOPTED_PACKET[form], Scene.lend_packet, pair)


@pytest.mark.parametrize("name", OF_BATCHES)
def test_method_of_a_batch_without_memory(
    testcapi: Any, pair: Veth, name: str
) -> None:
    in_child(lambda: starve(OF_BATCHES[name], fill, pair))


@pytest.mark.parametrize("name", OF_SOCKETS)
def test_method_of_a_socket_without_memory(
    testcapi: Any, pair: Veth, name: str
) -> None:
    prepare, bind = OF_SOCKETS[name]
    in_child(lambda: starve(bind, prepare, pair))


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attribute_without_memory(
    testcapi: Any, pair: Veth, name: str
) -> None:
    prepare, bind = ATTRIBUTES[name]
    in_child(lambda: starve(bind, prepare, pair))


# A tag, a value that does not fit into 32 bits, and a trace.
RUN: Final[tuple[Any, ...]] = (
    *(PROGRAM, memoryview(bytes(64))[::2], None, (5, 0x8100), 0, 1, 14),
    *({0: 2**70}, []),
)
FILTERS: Final[dict[str, Bind]] = {
    "check": lambda _: partial(_rawmmsg._check_filter, PROGRAM),
    "refuse": lambda _: partial(_rawmmsg._check_filter, bytes(8)),
    "run": lambda _: partial(_rawmmsg._run_filter, *RUN),
}


@pytest.mark.parametrize("step", FILTERS)
def test_filter_without_memory(testcapi: Any, pair: Veth, step: str) -> None:
    in_child(lambda: starve(FILTERS[step], nothing, pair))


def sorted_frames() -> _FrameSorter:
    batch = PacketBatch(3)
    batch.extend([PACKET, PACKET[::-1]])
    sorter = _FrameSorter(batch)
    sorter.sort()
    return sorter


SORTING: Final[dict[str, Bind]] = {
    "new": lambda _: partial(_FrameSorter, PacketBatch(2)),
    "sort": lambda _: sorted_frames().sort,
    "skip": lambda _: partial(sorted_frames().sort, [0]),
    "skip none": lambda _: partial(sorted_frames().sort, [5]),
    "counts": lambda _: sorted_frames().counts,
    "show": lambda _: partial(sorted_frames().show, bytes(4)),
    "show too few": lambda _: partial(sorted_frames().show, bytes(2)),
    "copy": lambda _: partial(
        _copy_frames, PacketBatch(2), 0, 0, PacketBatch(2)
    ),
}


@pytest.mark.parametrize("name", SORTING)
def test_frames_of_a_switch_without_memory(
    testcapi: Any, pair: Veth, name: str
) -> None:
    in_child(lambda: starve(SORTING[name], nothing, pair))


SLICES: Final = partial(
    PacketBatch, buffer=bytes(64), offsets=[0, 8], lengths=(5, 6)
)


CONTENT: Final = SAMPLES["pcapng"]


@cache
def nowhere() -> int:
    """A descriptor of /dev/null."""
    return os.open(os.devnull, os.O_WRONLY)


RECORDINGS: Final[dict[str, Bind]] = {
    "slices": lambda _: SLICES,
    "slices outside": lambda _: partial(SLICES, lengths=(5, 600)),
    "finder": lambda _: partial(_RecordFinder, 16),
    "find": lambda _: partial(
        _RecordFinder(16).find, CONTENT, 0, len(CONTENT)
    ),
    "writer": lambda _: partial(_RecordWriter, True, 100),
    "write": lambda _: partial(
        _RecordWriter(True, 100).write,
        *(nowhere(), SLICES(), 0, -1, 1, [0, 0], [7, 7], 1),
    ),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_without_memory(
    testcapi: Any, pair: Veth, name: str
) -> None:
    nowhere()
    in_child(lambda: starve(RECORDINGS[name], nothing, pair))


def find_twice(testcapi: Any) -> None:
    """Finds all that a recording has, again if an allocation fails."""
    failures = 0
    for n in range(100):
        finder = _RecordFinder(16)
        testcapi.set_nomemory(n, n + 1)
        try:
            found = finder.find(CONTENT, 0, len(CONTENT))
        except MemoryError:
            found = None
        finally:
            testcapi.remove_mem_hooks()
        if found is None:
            failures += 1
            found = finder.find(CONTENT, 0, len(CONTENT))
        batch, at, _, _, news, _ = found
        assert batch is not None
        assert (len(batch), at, len(news)) == (4, len(CONTENT), 3)
        assert finder.totals()[0] == 4
    assert failures > 5


def test_what_a_failed_search_has_found_is_found_again(testcapi: Any) -> None:
    in_child(lambda: find_twice(testcapi))


@cache
def small_guest() -> SmallGuest:
    """Its rings do not run."""
    return SmallGuest(_GuestRings(2, PROGRAM))


def on_rings(name: str, *args: Any) -> Bind:
    return lambda _: partial(getattr(small_guest().rings, name), *args)


RINGS: Final[dict[str, Bind]] = {
    "new": lambda _: partial(_GuestRings, 2, PROGRAM),
    "refused": lambda _: partial(_GuestRings, 2, b"1"),
    "memory": lambda _: partial(
        small_guest().rings.set_memory, [small_guest().mapped]
    ),
    "no memory": on_rings("set_memory", ()),
    "addresses": on_rings("set_addresses", 0, RingAddresses(0, 0, 0)),
    "start": on_rings("start", 0),
    "stop": on_rings("stop", 0),
    "broken": on_rings("broken", 0),
    "statistics": on_rings("statistics"),
    "recvmmsg_into": on_rings("recvmmsg_into", PacketBatch(1, SUPER_FRAME)),
    "sendmmsg": on_rings("sendmmsg", PacketBatch(1)),
    "send": on_rings("send", None),
}


@pytest.mark.parametrize("name", RINGS)
def test_rings_of_a_guest_without_memory(
    testcapi: Any, pair: Veth, name: str
) -> None:
    in_child(lambda: starve(RINGS[name], nothing, pair))

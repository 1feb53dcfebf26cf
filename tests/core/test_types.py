"""The types and their objects: copying, pickling, subclassing, hashing."""

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest

from rawmmsg import PacketBatch, RawSocket, Statistics

Make = Callable[[], object]


# Types

SAMPLES: dict[str, Make] = {
    "batch": PacketBatch,
    "frame": lambda: memoryview(PacketBatch(1)).obj,
    "column": lambda: PacketBatch(1).lengths.obj,
    "socket": lambda: RawSocket("lo"),
}


@pytest.fixture(params=list(SAMPLES))
def sample(request: pytest.FixtureRequest) -> Iterator[object]:
    made = SAMPLES[request.param]()
    yield made
    if isinstance(made, RawSocket):
        made.close()


def test_objects_cannot_be_copied(sample: object) -> None:
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot pickle"):
            duplicate(sample)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_cannot_be_pickled(sample: object, protocol: int) -> None:
    with pytest.raises((TypeError, pickle.PicklingError), match="pickle"):
        pickle.dumps(sample, protocol)


def test_types_cannot_be_subclassed(sample: object) -> None:
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Derived", (type(sample),), {})


def test_types_and_objects_cannot_be_changed(sample: object) -> None:
    with pytest.raises(TypeError, match="immutable type"):
        type(sample).attribute = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        sample.attribute = 1  # type: ignore[attr-defined]


def test_internal_types_cannot_be_instantiated() -> None:
    batch = PacketBatch(1)
    for part in (memoryview(batch).obj, batch.lengths.obj):
        with pytest.raises(TypeError, match="cannot create"):
            type(part)()
        with pytest.raises(TypeError):
            object.__new__(type(part))


def test_constructor_of_one_type_refuses_another() -> None:
    for made, other in ((PacketBatch, RawSocket), (RawSocket, PacketBatch)):
        with pytest.raises(TypeError):
            object.__new__(made)
        with pytest.raises(TypeError):
            made.__new__(other)  # type: ignore[type-var]


def test_methods_refuse_objects_of_another_type(sock: RawSocket) -> None:
    batch = PacketBatch(1)
    for own, other in ((RawSocket, batch), (PacketBatch, sock)):
        for name, member in vars(own).items():
            if name in ("__new__", "__doc__", "__module__", "__hash__"):
                continue
            with pytest.raises(TypeError):
                if callable(member):
                    member(other)
                else:
                    member.__get__(other)


def test_objects_are_hashable(sample: object) -> None:
    assert hash(sample) == hash(sample)
    assert {sample: "found"}[sample] == "found"


def test_statistics_is_a_plain_tuple(sock: RawSocket) -> None:
    """It can be copied, pickled and compared."""
    statistics = sock.statistics()
    assert copy.copy(statistics) == statistics
    assert pickle.loads(pickle.dumps(statistics)) == statistics
    assert isinstance(statistics, Statistics)
    assert statistics == (0, None, 0, 0, 0, 0)

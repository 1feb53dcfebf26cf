"""Every call does the same in a forked child as in the parent."""

import pytest
from support.child import in_child
from support.every_call import (
    ADOPTED,
    ADOPTED_PACKET,
    ATTRIBUTES,
    BATCHES,
    NEW,
    OF_BATCHES,
    OF_SOCKETS,
    Bind,
    Prepare,
    Scene,
    fill,
    make_scene,
    nothing,
    outcome,
)

from rawmmsg import PacketBatch, RawSocket
from rawmmsg.testing import Veth

CALLS: dict[str, tuple[Prepare, Bind]] = {
    **{f"PacketBatch: {name}": (nothing, BATCHES[name]) for name in BATCHES},
    **{f"RawSocket: {name}": (nothing, NEW[name]) for name in NEW},
    **{f"adopt: {name}": (Scene.lend, ADOPTED[name]) for name in ADOPTED},
    **{
        f"adopt AF_PACKET: {name}": (Scene.lend_packet, bind)
        for name, bind in ADOPTED_PACKET.items()
    },
    **{f"batch: {name}": (fill, OF_BATCHES[name]) for name in OF_BATCHES},
    **{f"socket: {name}": OF_SOCKETS[name] for name in OF_SOCKETS},
    **ATTRIBUTES,
}


@pytest.mark.parametrize("name", CALLS)
def test_call_does_the_same_in_a_child(pair: Veth, name: str) -> None:
    prepare, bind = CALLS[name]

    def child() -> None:
        got = outcome(bind, prepare, scene)
        assert got == expected, (
            f"{got} in the child, but {expected} in the parent"
        )

    with make_scene(pair) as scene:
        expected = outcome(bind, prepare, scene)
        in_child(child)
        again = outcome(bind, prepare, scene)
        assert again == expected, (
            f"{again} in the parent after the child, but {expected} before"
        )


@pytest.mark.no_network
@pytest.mark.parametrize("kind", [RawSocket, PacketBatch])
def test_every_public_call_is_tested(kind: type) -> None:
    public = {name for name in vars(kind) if not name.startswith("_")}
    missing = public - {*OF_BATCHES, *OF_SOCKETS, *ATTRIBUTES}
    assert not missing

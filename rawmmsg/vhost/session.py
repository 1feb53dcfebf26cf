"""The state of one front end, from its connection until it disconnects."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .connection import Connection, Disconnected, Message
from .descriptors import check_eventfd, read_kick
from .features import OFFERED, OFFERED_PROTOCOL, Feature, ProtocolFeature
from .memory import Memory, map_memory
from .messages import (
    ProtocolError,
    RefusedRequest,
    Request,
    RingAddresses,
    pack_reply,
    parse_number,
    parse_regions,
    parse_ring_addresses,
    parse_ring_descriptor,
    parse_ring_state,
)
from .rings import Rings

__all__ = ["Session"]

_RINGS: Final = 2
_QUEUE_PAIRS: Final = 1
_LARGEST_RING: Final = 32768  # virtio 1.2, 2.7
_INDEXES: Final = 1 << 16

# virtio 1.2, 2.7: what the addresses of a ring are multiples of.
_ALIGNED: Final = (
    ("descriptors", "descriptor table", 16),
    ("available", "available ring", 2),
    ("used", "used ring", 4),
)

# virtio 1.2, 5.1.4.1: `mtu` has 16 bits.
_SMALLEST_MTU: Final = 68
_LARGEST_MTU: Final = 65535

# So many kicks in a row, none of them for a buffer, are an attack or come from
# a broken guest.
_IDLE_KICKS: Final = 64


@dataclass
class _Ring:
    size: int = 0
    addresses: RingAddresses | None = None
    kick: int | None = None
    call: int | None = None
    runs: bool = False
    idle_kicks: int = 0


class Session:
    """Carries out what a front end requests.

    `report` is called with a sentence for the user. A request that cannot be
    carried out changes nothing. If the front end did not ask for its result,
    the session ends: the front end would continue as if it had succeeded.
    """

    def __init__(
        self,
        connection: Connection,
        rings: Rings,
        report: Callable[[str], None],
        *,
        trust_memory: bool = False,
    ) -> None:
        self._connection = connection
        self._tell = rings
        self._report = report
        self._trust_memory = trust_memory
        self._rings = [_Ring() for _ in range(_RINGS)]
        self._memory: Memory | None = None
        self.features = Feature(0)
        self.protocol_features = ProtocolFeature(0)
        # That the front end tells the guest. 0: it has told nothing.
        self.mtu = 0

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def has_hung_up(self) -> bool:
        return self._connection.has_hung_up

    @property
    def kicks(self) -> dict[int, int]:
        """The descriptors to poll for POLLIN, each with the index of its ring.
        Call kicked() when one is readable."""
        return {
            ring.kick: index
            for index, ring in enumerate(self._rings)
            if ring.kick is not None and ring.idle_kicks < _IDLE_KICKS
        }

    def kicked(self, index: int) -> bool:
        """Handles a kick. Returns whether `kicks` has changed: a ring that is
        kicked again and again for nothing is not polled until tend()."""
        ring = self._rings[index]
        if ring.kick is None:
            return False
        read_kick(ring.kick)
        if self._tell.kicked(index):
            ring.idle_kicks = 0
            return False
        ring.idle_kicks += 1
        return ring.idle_kicks == _IDLE_KICKS

    def tend(self) -> bool:
        """Call it a few times each second. Returns whether `kicks` has
        changed."""
        changed = False
        for ring in self._rings:
            changed |= ring.idle_kicks >= _IDLE_KICKS
            ring.idle_kicks = 0
        return changed

    def serve(self) -> bool:
        """Handles at most one message. Returns whether the session continues;
        if not, call close()."""
        try:
            message = self._connection.receive()
            if message is not None:
                self._handle(message)
        except Disconnected:
            return False
        except ProtocolError as error:
            self._report(f"disconnected: {error}")
            return False
        return True

    def close(self) -> None:
        """Stops the rings, gives everything back, and leaves the rings as they
        were before the session: the next one finds nothing of this one."""
        for index in range(_RINGS):
            self._stop(index)
            self._replace_call(index, None)
            self._tell.set_enabled(index, False)
            self._tell.set_base(index, 0)
        self._tell.set_features(0)
        self._tell.set_memory(())
        self._unmap()
        self._connection.close()

    def _handle(self, message: Message) -> None:
        closer = self._connection.closer
        if closer.is_full:
            closer.close(message.descriptors)
            raise ProtocolError(
                "it passed descriptors that cannot be closed yet"
            )
        header, payload, descriptors = message
        request = header.request
        try:
            reply = self._carry_out(request, payload, descriptors)
        except RefusedRequest as error:
            self._refused(message, str(error))
            return
        finally:
            closer.close(descriptors)
        if reply is not None:
            self._connection.send(reply)
        elif self._wants_result(message):
            self._connection.send(pack_reply(request, 0))

    def _refused(self, message: Message, why: str) -> None:
        request = message.header.request
        has_own_reply = request in _GET or request is Request.GET_VRING_BASE
        if has_own_reply or not self._wants_result(message):
            raise ProtocolError(f"{request.name}: {why}")
        self._report(f"refused: {request.name}: {why}")
        self._connection.send(pack_reply(request, 1))

    def _wants_result(self, message: Message) -> bool:
        return (
            message.header.needs_reply
            and ProtocolFeature.REPLY_ACK in self.protocol_features
        )

    def _carry_out(
        self, request: Request, payload: bytes, descriptors: list[int]
    ) -> bytes | None:
        """Returns the reply, if the request has one of its own."""
        if request in _WITH_DESCRIPTORS:
            _WITH_DESCRIPTORS[request](self, payload, descriptors)
            return None
        if descriptors:
            raise RefusedRequest(
                f"file descriptors: {len(descriptors)}, not 0"
            )
        if request in _GET:
            return pack_reply(request, _GET[request](self))
        if request is Request.GET_VRING_BASE:
            return self._get_base(payload)
        _SET[request](self, payload)
        return None

    # Features

    def _get_features(self) -> int:
        return OFFERED

    def _get_protocol_features(self) -> int:
        return OFFERED_PROTOCOL

    def _get_queue_pairs(self) -> int:
        return _QUEUE_PAIRS

    def _set_features(self, payload: bytes) -> None:
        number = parse_number(payload)
        unknown = number & ~int(OFFERED)
        if unknown:
            raise RefusedRequest(f"{unknown:#x} was not offered")
        features = Feature(number)
        if features == self.features:
            return
        if any(ring.runs for ring in self._rings):
            raise RefusedRequest("a ring is running")
        self._tell.set_features(features)
        self.features = features

    def _set_protocol_features(self, payload: bytes) -> None:
        number = parse_number(payload)
        unknown = number & ~int(OFFERED_PROTOCOL)
        if unknown:
            raise RefusedRequest(f"{unknown:#x} was not offered")
        self.protocol_features = ProtocolFeature(number)

    def _set_mtu(self, payload: bytes) -> None:
        mtu = parse_number(payload)
        if not _SMALLEST_MTU <= mtu <= _LARGEST_MTU:
            raise RefusedRequest(
                f"{mtu} is not from {_SMALLEST_MTU} to {_LARGEST_MTU}"
            )
        self.mtu = mtu

    # The owner

    def _set_owner(self, payload: bytes) -> None:
        """Nothing to do: whoever is connected owns the session."""

    def _reset_owner(self, payload: bytes) -> None:
        """Disables all rings, as the specification recommends. It warns of
        back ends that discard the state of the connection, too."""
        for index in range(_RINGS):
            self._tell.set_enabled(index, False)

    # Memory

    def _set_memory(self, payload: bytes, descriptors: list[int]) -> None:
        regions = parse_regions(payload)
        if len(descriptors) != len(regions):
            raise RefusedRequest(
                f"file descriptors: {len(descriptors)}, not {len(regions)},"
                " one for each region"
            )
        memory = map_memory(regions, descriptors, self._trust_memory)
        # They have been found to be files in memory, which close at once.
        _close_now(descriptors)
        try:
            self._tell.set_memory(memory.regions)
        except ValueError as error:
            memory.close()
            raise RefusedRequest(str(error)) from None
        self._unmap()
        self._memory = memory

    def _unmap(self) -> None:
        before, self._memory = self._memory, None
        if before is not None:
            before.close()

    # Rings

    def _ring(self, index: int) -> _Ring:
        if index >= _RINGS:
            raise RefusedRequest(f"there is no ring {index}")
        return self._rings[index]

    def _stopped_ring(self, index: int) -> _Ring:
        ring = self._ring(index)
        if ring.runs:
            raise RefusedRequest(f"ring {index} is running")
        return ring

    def _set_size(self, payload: bytes) -> None:
        index, size = parse_ring_state(payload)
        ring = self._stopped_ring(index)
        if not 1 <= size <= _LARGEST_RING or size & (size - 1):
            raise RefusedRequest(
                f"{size} is not a power of two up to {_LARGEST_RING}"
            )
        self._tell.set_size(index, size)
        ring.size = size

    def _set_addresses(self, payload: bytes) -> None:
        index, addresses = parse_ring_addresses(payload)
        ring = self._ring(index)
        if ring.runs and addresses == ring.addresses:
            return
        self._stopped_ring(index)
        for name, part, grain in _ALIGNED:
            address = getattr(addresses, name)
            if address % grain:
                raise RefusedRequest(
                    f"the address of its {part} ({address:#x}) is not a"
                    f" multiple of {grain}"
                )
        self._tell.set_addresses(index, addresses)
        ring.addresses = addresses

    def _set_base(self, payload: bytes) -> None:
        index, base = parse_ring_state(payload)
        self._stopped_ring(index)
        if base >= _INDEXES:
            raise RefusedRequest(f"{base} is not below {_INDEXES}")
        self._tell.set_base(index, base)

    def _get_base(self, payload: bytes) -> bytes:
        index, _ = parse_ring_state(payload)
        self._ring(index)
        base = self._stop(index)
        return pack_reply(Request.GET_VRING_BASE, base, index)

    def _set_kick(self, payload: bytes, descriptors: list[int]) -> None:
        """Sets the eventfd and starts the ring.

        The specification starts it at the first kick. But a guest whose back
        end was restarted does not kick for buffers that it made available
        before, so like other back ends, this one starts at once.
        """
        index, has_descriptor = parse_ring_descriptor(payload)
        ring = self._ring(index)
        kick = _eventfd(has_descriptor, descriptors)
        if kick is None:
            raise RefusedRequest(
                "the ring would have to be polled, which this back end does"
                " not do"
            )
        if not ring.runs:
            self._start(index)
        del descriptors[0]
        before, ring.kick = ring.kick, kick
        ring.idle_kicks = 0
        if before is not None:
            os.close(before)

    def _start(self, index: int) -> None:
        ring = self._rings[index]
        for missing, request in (
            (not ring.size, Request.SET_VRING_NUM),
            (ring.addresses is None, Request.SET_VRING_ADDR),
            (self._memory is None, Request.SET_MEM_TABLE),
        ):
            if missing:
                raise RefusedRequest(
                    f"ring {index} cannot start before {request.name}"
                )
        try:
            self._tell.start(index)
        except ValueError as error:
            raise RefusedRequest(f"ring {index}: {error}") from None
        ring.runs = True
        if Feature.PROTOCOL_FEATURES not in self.features:
            self._tell.set_enabled(index, True)

    def _stop(self, index: int) -> int:
        """Stops a ring. It needs a new kick to start again."""
        ring = self._rings[index]
        base = self._tell.stop(index)
        ring.runs = False
        kick, ring.kick = ring.kick, None
        if kick is not None:
            os.close(kick)
        return base

    def _set_call(self, payload: bytes, descriptors: list[int]) -> None:
        index, has_descriptor = parse_ring_descriptor(payload)
        self._ring(index)
        call = _eventfd(has_descriptor, descriptors)
        descriptors.clear()
        self._replace_call(index, call)

    def _replace_call(self, index: int, call: int | None) -> None:
        ring = self._rings[index]
        before, ring.call = ring.call, call
        self._tell.set_call(index, call)
        if before is not None:
            os.close(before)

    def _set_error(self, payload: bytes, descriptors: list[int]) -> None:
        """Checks and closes the eventfd: errors of a ring are reported to the
        user."""
        index, has_descriptor = parse_ring_descriptor(payload)
        self._ring(index)
        _eventfd(has_descriptor, descriptors)

    def _enable(self, payload: bytes) -> None:
        """It may come before SET_FEATURES has negotiated PROTOCOL_FEATURES:
        QEMU sends it when it makes the network card."""
        index, number = parse_ring_state(payload)
        self._ring(index)
        if number > 1:
            raise RefusedRequest(f"{number} is neither 0 nor 1")
        self._tell.set_enabled(index, bool(number))


def _eventfd(has_descriptor: bool, descriptors: list[int]) -> int | None:
    """Returns the eventfd of a message. It stays in the list."""
    if len(descriptors) != has_descriptor:
        raise RefusedRequest(
            f"file descriptors: {len(descriptors)}, not {int(has_descriptor)}"
        )
    if not has_descriptor:
        return None
    check_eventfd(descriptors[0])
    return descriptors[0]


def _close_now(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


_GET: Final[dict[Request, Callable[[Session], int]]] = {
    Request.GET_FEATURES: Session._get_features,
    Request.GET_PROTOCOL_FEATURES: Session._get_protocol_features,
    Request.GET_QUEUE_NUM: Session._get_queue_pairs,
}

_SET: Final[dict[Request, Callable[[Session, bytes], None]]] = {
    Request.SET_FEATURES: Session._set_features,
    Request.SET_PROTOCOL_FEATURES: Session._set_protocol_features,
    Request.SET_OWNER: Session._set_owner,
    Request.RESET_OWNER: Session._reset_owner,
    Request.SET_VRING_NUM: Session._set_size,
    Request.SET_VRING_ADDR: Session._set_addresses,
    Request.SET_VRING_BASE: Session._set_base,
    Request.SET_VRING_ENABLE: Session._enable,
    Request.NET_SET_MTU: Session._set_mtu,
}

_WITH_DESCRIPTORS: Final[
    dict[Request, Callable[[Session, bytes, list[int]], None]]
] = {
    Request.SET_MEM_TABLE: Session._set_memory,
    Request.SET_VRING_KICK: Session._set_kick,
    Request.SET_VRING_CALL: Session._set_call,
    Request.SET_VRING_ERR: Session._set_error,
}

"""Each request of the vhost-user protocol does what the specification says."""

import os
import struct

import pytest
from support.front_end import (
    ADDRESSES,
    GET_FEATURES,
    GET_PROTOCOL_FEATURES,
    GET_QUEUE_NUM,
    GET_VRING_BASE,
    NEED_REPLY,
    NET_MTU,
    NET_SET_MTU,
    NO_DESCRIPTOR,
    PAGE,
    PROTOCOL_FEATURES,
    REPLY_ACK,
    RESET_OWNER,
    SET_FEATURES,
    SET_MEM_TABLE,
    SET_OWNER,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    SET_VRING_CALL,
    SET_VRING_ENABLE,
    SET_VRING_ERR,
    SET_VRING_KICK,
    SET_VRING_NUM,
    USER,
    VERSION,
    VERSION_1,
    addresses,
    connected,
    negotiated,
    number,
    state,
    table,
)

from rawmmsg.vhost import Feature, RingAddresses
from rawmmsg.vhost.features import offered_by

# What must not be offered: docs/interop/vhost-user.rst and virtio 1.2, 6.
LOG_ALL = 1 << 26
MQ = 1 << 22
ACCESS_PLATFORM = 1 << 33
RING_PACKED = 1 << 34
IN_ORDER = 1 << 35


def test_offered_features() -> None:
    with connected() as pair:
        pair.front.send(GET_FEATURES)
        assert pair.session.serve()
        request, answer = pair.front.reply()
        assert request == GET_FEATURES
        (features,) = struct.unpack("=Q", answer)
        assert features & PROTOCOL_FEATURES
        assert features & VERSION_1
        for bit in (LOG_ALL, MQ, ACCESS_PLATFORM, RING_PACKED, IN_ORDER):
            assert not features & bit


def test_super_frames_of_udp_only_if_the_kernel_sends_them() -> None:
    assert Feature.HOST_USO in offered_by((6, 2))
    assert offered_by((6, 1)) == offered_by((6, 2)) & ~Feature.HOST_USO


def test_offered_protocol_features() -> None:
    with connected() as pair:
        assert pair.ask(GET_PROTOCOL_FEATURES) == REPLY_ACK | NET_MTU


def test_one_queue_pair() -> None:
    with connected() as pair:
        assert pair.ask(GET_QUEUE_NUM) == 1


def test_features_reach_the_rings() -> None:
    with connected() as pair:
        assert pair.tell(SET_FEATURES, number(VERSION_1))
        assert pair.rings.features == Feature.VERSION_1


def test_owner_needs_no_reply() -> None:
    with connected() as pair:
        assert pair.tell(SET_OWNER)


def test_a_reply_only_if_negotiated() -> None:
    """Before REPLY_ACK, the flag that asks for a reply has no meaning."""
    with connected() as pair:
        flags = VERSION | NEED_REPLY
        pair.front.send(SET_OWNER, flags=flags)
        assert pair.session.serve()
        assert not pair.front.has_reply
        pair.front.send(SET_PROTOCOL_FEATURES, number(0), flags=flags)
        assert pair.session.serve()
        assert not pair.front.has_reply
        assert pair.ask(SET_PROTOCOL_FEATURES, number(REPLY_ACK)) == 0
        assert pair.ask(SET_OWNER) == 0


def test_a_get_request_has_one_reply() -> None:
    with negotiated() as pair:
        assert pair.ask(GET_QUEUE_NUM) == 1


def test_mtu_of_the_guest() -> None:
    with negotiated() as pair:
        assert pair.ask(NET_SET_MTU, number(9000)) == 0
        assert pair.session.mtu == 9000
        for mtu in (67, 65536, 1 << 63):
            assert "NET_SET_MTU" in pair.refused(NET_SET_MTU, number(mtu))
        assert pair.session.mtu == 9000


def test_memory_is_shared() -> None:
    """Both regions show their part of the file, in both directions."""
    with negotiated() as pair:
        file = pair.file(8 * PAGE)
        os.pwrite(file, b"guest", 3 * PAGE)
        regions = table(
            (0, 2 * PAGE, USER, 0), (1 << 32, PAGE, USER + (1 << 32), 3 * PAGE)
        )
        assert pair.ask(SET_MEM_TABLE, regions, [file, file]) == 0
        low, high = pair.rings.memory
        assert low.memory.nbytes == 2 * PAGE
        assert high.region.guest_address == 1 << 32
        assert high.region.user_address == USER + (1 << 32)
        assert bytes(high.memory[:5]) == b"guest"
        high.memory[:5] = b"hello"
        assert os.pread(file, 5, 3 * PAGE) == b"hello"


def test_a_table_with_space_for_more_regions() -> None:
    with negotiated() as pair:
        file = pair.file(PAGE)
        region = (0, PAGE, USER, 0)
        regions = table(region, (1, 2, 3, 4), (5, 6, 7, 8), count=1)
        assert pair.ask(SET_MEM_TABLE, regions, [file]) == 0
        assert len(pair.rings.memory) == 1


def test_new_memory_while_rings_run() -> None:
    """The rings have the new table before the old one is unmapped."""
    with negotiated() as pair:
        pair.share()
        kick = pair.start(0)
        (old,) = pair.rings.memory
        pair.share(32 * PAGE)
        (new,) = pair.rings.memory
        assert new.memory.nbytes == 32 * PAGE
        with pytest.raises(ValueError, match="released"):
            old.memory[0]
        assert pair.rings.running == {0}
        os.eventfd_write(kick, 1)
        ((_, index),) = pair.session.kicks.items()
        pair.session.kicked(index)
        assert pair.rings.kicks == [0]


def test_a_new_table_without_a_running_ring_is_refused() -> None:
    with negotiated() as pair:
        pair.share()
        pair.start(0)
        (old,) = pair.rings.memory
        pair.rings.reason = "ring 0 is not in the memory table"
        file = pair.file(PAGE)
        regions = table((0, PAGE, 0, 0))
        reason = pair.refused(SET_MEM_TABLE, regions, [file])
        assert "not in the memory table" in reason
        assert old.memory[0] == 0


@pytest.mark.parametrize("index", [0, 1])
def test_setting_up_a_ring(index: int) -> None:
    with negotiated() as pair:
        pair.share()
        assert pair.ask(SET_VRING_NUM, state(index, 1024)) == 0
        assert pair.ask(SET_VRING_BASE, state(index, 65535)) == 0
        assert pair.ask(SET_VRING_ADDR, addresses(index)) == 0
        assert pair.rings.running == set()
        kick = pair.eventfd()
        assert pair.ask(SET_VRING_KICK, number(index), [kick]) == 0
        assert pair.rings.running == {index}
        assert pair.rings.sizes == {index: 1024}
        assert pair.rings.bases == {index: 65535}
        descriptors, used, available = ADDRESSES
        assert pair.rings.addresses == {
            index: RingAddresses(descriptors, used, available)
        }
        assert list(pair.session.kicks.values()) == [index]


def test_a_ring_is_enabled_by_request() -> None:
    with negotiated() as pair:
        pair.share()
        pair.start(1)
        assert pair.rings.enabled == {}
        assert pair.ask(SET_VRING_ENABLE, state(1, 1)) == 0
        assert pair.rings.enabled == {1: True}
        assert pair.ask(SET_VRING_ENABLE, state(1, 0)) == 0
        assert pair.rings.enabled == {1: False}
        assert pair.rings.running == {1}


def test_a_ring_may_be_enabled_before_anything_else() -> None:
    """QEMU does so when it makes the network card."""
    with connected() as pair:
        assert pair.tell(SET_VRING_ENABLE, state(0, 1))
        pair.negotiate()
        pair.share()
        pair.start(0)
        assert pair.rings.enabled == {0: True}


def test_without_protocol_features_a_ring_starts_enabled() -> None:
    with connected() as pair:
        pair.negotiate(VERSION_1)
        pair.share()
        pair.start(1)
        assert pair.rings.enabled == {1: True}


def test_reset_owner_disables_all_rings() -> None:
    with negotiated() as pair:
        pair.share()
        pair.start(0)
        assert pair.ask(SET_VRING_ENABLE, state(0, 1)) == 0
        assert pair.ask(RESET_OWNER) == 0
        assert pair.rings.enabled == {0: False, 1: False}
        assert pair.rings.running == {0}


def test_get_base_stops_a_ring() -> None:
    """And a ring that is set up again continues, like after a reboot."""
    with negotiated() as pair:
        pair.share()
        pair.start(0)
        pair.rings.bases[0] = 4711
        pair.front.send(GET_VRING_BASE, state(0, 0))
        assert pair.session.serve()
        assert pair.front.reply() == (GET_VRING_BASE, state(0, 4711))
        assert pair.rings.running == set()
        assert pair.session.kicks == {}
        pair.start(0)
        assert pair.rings.running == {0}


def test_call_can_change_while_a_ring_runs() -> None:
    """QEMU does so when the guest masks an interrupt."""
    with negotiated() as pair:
        pair.share()
        pair.start(0)
        for _ in range(3):
            call = pair.eventfd()
            assert pair.ask(SET_VRING_CALL, number(0), [call]) == 0
            given = pair.rings.call_descriptors[0]
            assert given is not None
            os.eventfd_write(given, 7)
            assert os.eventfd_read(call) == 7
        assert pair.ask(SET_VRING_CALL, number(NO_DESCRIPTOR)) == 0
        assert pair.rings.call_descriptors[0] is None


def test_kick_can_change_while_a_ring_runs() -> None:
    with negotiated() as pair:
        pair.share()
        pair.start(0)
        kick = pair.eventfd()
        assert pair.ask(SET_VRING_KICK, number(0), [kick]) == 0
        assert len(pair.session.kicks) == 1


def test_error_eventfd_is_accepted() -> None:
    with negotiated() as pair:
        assert pair.ask(SET_VRING_ERR, number(0), [pair.eventfd()]) == 0
        assert pair.ask(SET_VRING_ERR, number(1 | NO_DESCRIPTOR)) == 0


def test_the_same_addresses_again_while_a_ring_runs() -> None:
    with negotiated() as pair:
        pair.share()
        pair.start(0)
        assert pair.ask(SET_VRING_ADDR, addresses(0)) == 0


def test_messages_may_arrive_byte_by_byte() -> None:
    with connected() as pair:
        message = struct.pack("=IIIQ", SET_FEATURES, VERSION, 8, VERSION_1)
        for position in range(len(message)):
            pair.front.sock.send(message[position : position + 1])
            assert pair.rings.features == 0
            assert pair.session.serve()
        assert pair.session.serve()
        assert pair.rings.features == Feature.VERSION_1


def test_messages_sent_at_once_keep_their_descriptors() -> None:
    with negotiated() as pair:
        calls = [pair.eventfd(), pair.eventfd()]
        pair.front.send(SET_OWNER)
        for index, call in enumerate(calls):
            pair.front.send(SET_VRING_CALL, number(index), [call])
        pair.front.send(SET_OWNER)
        for _ in range(4):
            assert pair.session.serve()
        for index, call in enumerate(calls):
            given = pair.rings.call_descriptors[index]
            assert given is not None
            os.eventfd_write(given, index + 1)
            assert os.eventfd_read(call) == index + 1

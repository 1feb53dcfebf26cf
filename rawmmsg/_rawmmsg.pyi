"""Batched packet I/O on AF_PACKET sockets, in C."""

import os
from collections.abc import Iterable, Iterator, Sequence
from socket import AddressFamily, SocketKind
from typing import (
    Any,
    Final,
    Literal,
    Protocol,
    Self,
    TypeAlias,
    final,
    overload,
)

from _typeshed import structseq
from typing_extensions import Buffer

from .constants import FanoutMode

_FanoutMode: TypeAlias = (
    FanoutMode
    | Literal[
        "hash", "lb", "cpu", "rollover", "random", "queue", "cbpf", "ebpf"
    ]
)
_Fanout: TypeAlias = (
    _FanoutMode
    | tuple[_FanoutMode]
    | tuple[_FanoutMode, int | None]
    | tuple[_FanoutMode, int | None, int]
    | tuple[_FanoutMode, int | None, int, Buffer | int | None]
)
_LinkAddress: TypeAlias = (
    tuple[str | int, int]
    | tuple[str | int, int, int]
    | tuple[str | int, int, int, int]
    | tuple[str | int, int, int, int, Buffer]
)
_PeerAddress: TypeAlias = (
    str
    | bytes
    | tuple[str, int]
    | tuple[str, int, int]
    | tuple[str, int, int, int]
)
# What an address is when it is read: of AF_PACKET, AF_UNIX (None: a sender
# without a name), AF_INET, AF_INET6.
_Address: TypeAlias = Any

class _Rows(Protocol):
    """A NumPy array of frames, which typing does not call a Sequence."""

    def __len__(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...

_Packets: TypeAlias = (
    PacketBatch
    | Sequence[Buffer]
    | Sequence[Buffer | tuple[Buffer, ...]]
    | _Rows
)

@final
class PacketBatch:
    """Memory for a batch of packets, with all that recvmmsg(2) and
    sendmmsg(2) need laid out once.

    PacketBatch(capacity=64, frame_size=2048) owns its memory.
    ``buffer=`` takes the caller's: any writable C-contiguous buffer of bytes.
    Two dimensions give capacity and frame size; a flat one is divided by
    `frame_size` (2,048 unless given), or by `capacity` alone.
    ``buffers=`` takes a sequence of writable buffers, one per packet, each
    with its own size, none overlapping another. The caller's memory stays
    exported (a bytearray cannot be resized) until the batch and every view of
    it are gone.

    len(batch) is the number of packets that the batch holds. batch[i], with
    negative i too, is a writable view of exactly packet i, without a copy:
    IndexError outside the batch, ValueError if `lengths` was written beyond
    the frame. memoryview(batch) is a view of all frames, unsigned bytes of
    shape (capacity, frame_size), whose rows may be further apart than
    frame_size (strides); BufferError for a batch made with ``buffers=``.

    A view stays safe to use even after the batch has been deleted, but the
    next receive overwrites its contents. To keep a packet, copy it:
    bytes(batch[i]).

    While a call is using the batch, any other use of it raises BufferError.

    Raises ValueError for sizes that do not fit and for buffers that overlap,
    BufferError (or what the exporter raises) for memory that is read-only or
    not contiguous, MemoryError.
    """

    def __new__(
        cls,
        capacity: int | None = None,
        frame_size: int | None = None,
        *,
        buffer: Buffer | None = None,
        buffers: Sequence[Buffer] | None = None,
    ) -> Self: ...
    @property
    def capacity(self) -> int:
        """How many packets the batch can hold."""

    @property
    def frame_size(self) -> int | None:
        """Bytes of memory per frame; None where each buffer has its own."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> memoryview[int]: ...
    def __iter__(self) -> Iterator[memoryview[int]]: ...
    def __buffer__(self, flags: int, /) -> memoryview[int]: ...
    def tolist(self) -> list[bytes]:
        """Copies of the packets."""

    def address(self, index: int, /) -> _Address:
        """The address of packet `index`, negative too: on AF_PACKET where
        it came from, on other sockets its sender, None for one without a
        name.

        As recvfrom() returns it, except that an AF_PACKET address begins with
        the index of the interface, since a batch has no socket on which its
        name could be looked up; sendto() takes both. IndexError outside the
        batch; ValueError where the last receive did not collect addresses;
        BufferError while a call uses the batch.
        """

    def append(self, data: Buffer, /) -> None:
        """Copies one packet into the next free frame.

        ValueError where the batch is full or the packet longer than the frame.
        """

    def extend(self, packets: Iterable[Buffer], /) -> None:
        """Appends each packet; those before one that fails stay."""

    def clear(self) -> None:
        """Empties the batch, and zeroes its offload headers."""

    def set_count(self, count: int, /) -> None:
        """Declares that frames 0..count-1, written in place, hold packets of
        `lengths` bytes.

        Their offload headers stay, as received or as written: clear() first
        where the frames are new. All are zero where the last receive
        collected none.
        """

    def complete_checksums(self) -> int:
        """Computes the checksums that were left to the hardware
        (VNET_NEEDS_CSUM), for a sink without offloads; returns how many.

        SCTP over IPv4 and IPv6, behind any tags, gets its CRC32c, and every
        other frame an Internet checksum, where its header says (net/core/
        dev.c:skb_crc32c_csum_help(), skb_checksum_help()). Super-frames are
        left as they are: segment_into() completes theirs. ValueError names a
        frame whose header does not fit it (those before it are done), or says
        that the batch holds no headers.
        """

    def segment_into(
        self, target: PacketBatch, /, start: int = 0, segment: int = 0
    ) -> tuple[int, int]:
        """Fills `target` with what a sink without offloads needs: frames from
        `start` on, checksums complete, super-frames cut into segments.

        Returns the frame, and the segment of it, to go on from when `target`
        has been emptied; (len(batch), 0) when all is done. Cuts TCP over IPv4
        and IPv6 and UDP, behind any tags, as the kernel does
        (tcp_gso_segment(), __udp_gso_segment()).

        Stops before a frame or segment that cannot be done: its header does
        not fit it, its type is another, or it is longer than the next frame
        of `target`. Raises ValueError, which names it, where it is the first,
        so that `target` stays empty; and for a `target` whose memory overlaps
        this batch's.
        """

    # The columns. Each has `capacity` entries, the first len(batch) of them
    # meaningful. One that the last receive did not collect is None, and
    # filling the batch for send (append, extend, clear, set_count) drops all
    # but `lengths` and the offload headers.

    @property
    def lengths(self) -> memoryview[int]:
        """Bytes held of each packet ("I"). Writable: read once, and validated
        against the frame, at every use."""

    @property
    def wire_lengths(self) -> memoryview[int]:
        """Bytes each packet had on the wire, its tags included ("I"), also
        where the frame or a filter cut it. Collected on AF_PACKET with
        vlan=True (packet(7), tp_len)."""

    @property
    def timestamps_ns(self) -> memoryview[int]:
        """When the kernel or the interface received each packet, ns since
        the epoch ("q"). 0: it has no stamp. Collected with timestamps=."""

    @property
    def ifindexes(self) -> memoryview[int]:
        """Index of the interface of each packet ("i"). Collected with
        addresses=True."""

    @property
    def packet_types(self) -> memoryview[int]:
        """PACKET_HOST, PACKET_OUTGOING ... of each packet ("B"). Collected
        with addresses=True."""

    @property
    def flags(self) -> memoryview[int]:
        """TRUNCATED, CHECKSUM_NOT_READY, CHECKSUM_VALID, VLAN_RESTORED,
        CONTROL_TRUNCATED and FOREIGN of each packet ("H"). The checksum flags
        and VLAN_RESTORED need vlan=True, FOREIGN needs a `peer`. Collected by
        every receive."""

    @property
    def vlan_tcis(self) -> memoryview[int]:
        """Tag control information of each frame's outer tag, in host order
        ("H"), whether it came stripped or inline. Collected with
        vlan=True."""

    @property
    def vlan_tpids(self) -> memoryview[int]:
        """EtherType of each frame's outer tag, 0x8100 or 0x88a8, in host
        order ("H"). 0: no tag. Collected with vlan=True."""

    # The offload headers (struct virtio_net_hdr; kernel's
    # include/uapi/linux/virtio_net.h), one per frame, in host order and
    # writable. Collected with vnet_hdr=; a batch that is filled for send has
    # them too, zero until written (append() zeroes its frame's).

    @property
    def vnet_flags(self) -> memoryview[int]:
        """VNET_NEEDS_CSUM, VNET_DATA_VALID of each frame ("B")."""

    @property
    def gso_types(self) -> memoryview[int]:
        """GSO_NONE, or what kind of super-frame each frame is ("B")."""

    @property
    def header_lengths(self) -> memoryview[int]:
        """Bytes of headers in front of a super-frame's payload, a hint
        ("H")."""

    @property
    def gso_sizes(self) -> memoryview[int]:
        """Bytes of payload in each segment of a super-frame ("H")."""

    @property
    def checksum_starts(self) -> memoryview[int]:
        """Where the bytes begin that a missing checksum covers ("H")."""

    @property
    def checksum_offsets(self) -> memoryview[int]:
        """Where the checksum belongs, counted from there ("H")."""

    @property
    def buffer_counts(self) -> memoryview[int]:
        """num_buffers of each header ("H"). Collected with vnet_hdr=12; None
        while the batch holds headers of 10 bytes."""

@final
class Statistics(
    structseq[int | None], tuple[int, int | None, int, int, int, int]
):
    """What a socket has done since it was made; 64-bit counts."""

    __match_args__: Final = (
        "packets_received",
        "packets_dropped",
        "batches_received",
        "packets_sent",
        "batches_sent",
        "send_retries",
    )

    def _asdict(self) -> dict[str, int | None]:
        """The counts by their names, as a namedtuple has it: for json."""

    @property
    def packets_received(self) -> int:
        """Packets delivered to the caller."""

    @property
    def packets_dropped(self) -> int | None:
        """Packets that the kernel dropped because the receive buffer was full
        (packet(7), PACKET_STATISTICS); None off AF_PACKET."""

    @property
    def batches_received(self) -> int:
        """Receiving system calls that delivered packets."""

    @property
    def packets_sent(self) -> int:
        """Packets that the kernel took."""

    @property
    def batches_sent(self) -> int:
        """Sending system calls that took packets."""

    @property
    def send_retries(self) -> int:
        """Times that sendmmsg_all() came back after ENOBUFS."""

@final
class RawSocket:
    """A packet socket (packet(7)) that receives and sends in batches.

    Without `interface` it listens on all of them. `protocol` is an EtherType
    in host order; 0 makes a socket that only sends and costs the receive path
    nothing. When the constructor returns, the socket is listening, and no
    packet of another interface and none that `filter` rejects can ever be
    read from it.

    filter          a pcap-filter(7) expression, a buffer of struct
                    sock_filter (rawmmsg.bpf.Program is one), or the
                    descriptor of an eBPF program
    promisc         receive what is addressed to others too
    ignore_outgoing do not receive what this machine sends; None: on for
                    loopback, where each frame is seen twice otherwise
    vlan            put a stripped 802.1Q/802.1ad tag back into the frame and
                    fill the columns that go with it; None: on, or as found on
                    an adopted descriptor. Needs a protocol of ETH_P_ALL: for
                    any other the kernel discards a stripped tag
                    (net/core/dev.c:__netif_receive_skb_core())
    addresses       collect packet_types and ifindexes, and what
                    PacketBatch.address() returns; None: only where `interface`
                    is None. On an adopted AF_UNIX, AF_INET or AF_INET6 socket:
                    collect the sender of each datagram; None: off
    timestamps      "software": collect timestamps_ns, the time at which the
                    packet arrived. It is 0 for the packets that came before
                    the kernel had begun to stamp, which takes it a moment,
                    and on AF_UNIX, where nothing is stamped.
                    "hardware": taken by the interface (raw, of its own clock;
                    OSError EOPNOTSUPP where it has none; to have it stamp at
                    all is the administrator's, SIOCSHWTSTAMP). None: no
                    stamping option is touched
    vnet_hdr        exchange a virtio_net_hdr with each frame, in columns of
                    the batch: frames of up to SUPER_FRAME bytes arrive as the
                    sender made them, checksums to be completed, and are sent
                    so. True: 10 bytes, as all kernels have it. 12: with
                    num_buffers (Linux 6.4). None: off, or as found on an
                    adopted descriptor. SOCK_RAW only
    fanout          join a fanout group: a mode, or a tuple of set_fanout()'s
                    arguments. No packet is read twice in the group. Packets
                    that come between the join and the filter, some
                    microseconds, are lost, and the kernel does not count
                    them (net/packet/af_packet.c:packet_rcv()). On an adopted
                    descriptor as set_fanout(), and after all other options
    allmulti        receive all multicast (PACKET_MR_ALLMULTI)
    multicast       hardware addresses to receive, as bytes
                    (PACKET_MR_MULTICAST)
    qdisc_bypass    send past the traffic control layer: taps do not see it
    rcvbuf, sndbuf  bytes, beyond rmem_max and wmem_max where privilege allows;
                    what was got: getsockopt(SOL_SOCKET, SO_RCVBUF), which
                    Linux doubles. rcvbuf None: 8 MiB for a socket that
                    receives
    netns           a name (as of `ip netns`) or a path: the network namespace
                    to open the socket in
    allow_down      accept an interface that is down; the socket works when
                    the link comes up
    fileno          adopt a descriptor instead: AF_PACKET, any datagram
                    socket, or AF_UNIX with SOCK_SEQPACKET, on which an empty
                    packet means that the peer has closed. Nothing on it is
                    changed unless asked; options of AF_PACKET raise on
                    others. When the constructor raises, the caller still owns
                    it, and its options, filter and memberships are as they
                    were (but an eBPF filter cannot be read, and so not be put
                    back)

    A new socket blocks. settimeout() and setblocking() mean what they mean in
    the socket module. Threads may share a socket; close() from any of them
    wakes a call that waits.

    Raises OSError by errno (ENODEV: no such interface, ENETDOWN: it is down,
    EPERM: no CAP_NET_RAW), ValueError and TypeError for arguments,
    rawmmsg.bpf.FilterError for an expression. RuntimeWarning where protocol
    looks like htons() of a protocol.
    """

    def __new__(
        cls,
        interface: str | None = None,
        *,
        protocol: int = 3,
        type: int = 3,
        filter: str | Buffer | int | None = None,
        promisc: bool = False,
        ignore_outgoing: bool | None = None,
        vlan: bool | None = None,
        addresses: bool | None = None,
        timestamps: Literal["software", "hardware"] | None = None,
        vnet_hdr: bool | Literal[0, 10, 12] | None = None,
        fanout: _Fanout | None = None,
        allmulti: bool = False,
        multicast: Iterable[Buffer] | None = None,
        qdisc_bypass: bool = False,
        rcvbuf: int | None = None,
        sndbuf: int | None = None,
        netns: str | os.PathLike[str] | None = None,
        allow_down: bool = False,
        fileno: int | None = None,
    ) -> Self: ...

    # Batches

    def recvmmsg_into(self, batch: PacketBatch, /) -> int:
        """Receives what waits, up to batch.capacity packets, into frames
        0..n-1 and returns n >= 1.

        One system call when packets wait; otherwise the call waits as the
        timeout says. Raises TimeoutError, BlockingIOError (timeout 0),
        OSError: ENETDOWN once when the link goes down, ENODEV when the
        interface is gone, EBADF when the socket is closed meanwhile,
        EOPNOTSUPP on a send-only socket, EINVAL with vnet_hdr, once, for a
        packet that the kernel lost because the header cannot express its
        offload; BufferError for a batch in use. A call that raises leaves the
        batch as it was.
        """

    def sendmmsg(
        self,
        packets: _Packets,
        /,
        start: int = 0,
        stop: int | None = None,
        *,
        addresses: Literal[True]
        | Sequence[_LinkAddress]
        | _PeerAddress
        | None = None,
    ) -> int:
        """Sends packets from index `start` on, at most 1,024, in one system
        call, and returns how many the kernel took, like socket.send().

        `packets` is a PacketBatch or a sequence of buffers, sent straight
        from their memory; a tuple of buffers in it is one packet, gathered.
        0 where nothing is left to send. Raises when the first of them fails:
        EMSGSIZE (longer than the MTU allows), EINVAL (shorter than the link
        header), ENOBUFS (the queue is full, or something on the way out
        drops the packet), ENETDOWN, ENODEV, TimeoutError, BlockingIOError.
        An error that is not about this packet, but pending on the socket, is
        kept for the next receive.

        With vnet_hdr, a batch's frames go with their offload headers, those
        of a sequence with zeroes. No such header can ask for SCTP's CRC32c:
        where it is missing (VNET_NEEDS_CSUM), it is first completed in the
        batch, as by complete_checksums(). ValueError names a frame whose
        header does not fit it, or that needs one (a super-frame, a missing
        checksum) on a socket without vnet_hdr. With qdisc_bypass, a
        super-frame that the device cannot segment is ENOBUFS, for nothing else
        segments it there (net/core/dev.c:__dev_direct_xmit()); `ethtool -k`
        tells what it can.

        `addresses` gives each packet its destination, in the form of
        sendto(). On AF_PACKET: a sequence with one address for each packet,
        which `start` counts as well, or True with a PacketBatch that was
        received with addresses=True: each packet leaves by the interface that
        it came from, on a SOCK_DGRAM socket with the protocol that it had and
        addressed to the hardware address that it came from. On an adopted
        AF_UNIX, AF_INET or AF_INET6 socket: one address for all packets.
        Every address is checked before the first packet is sent: ValueError
        and TypeError say which one is wrong, OSError ENODEV names an interface
        that does not exist.
        """

    def sendmmsg_all(self, packets: _Packets, /) -> None:
        """Sends every packet, resuming after short counts.

        ENOBUFS is retried with growing pauses until the timeout, or for a
        second without progress where there is none. The error then says how
        often the packet was tried: the queue may be full, but something on
        the way out may also refuse this one packet, and the kernel says the
        same of both. The timeout is for the whole call. An error carries how
        far it came in `packets_sent`.
        """

    # One packet, as socket.socket. OSError EOPNOTSUPP with vnet_hdr.

    def recv(self, bufsize: int, /) -> bytes:
        """Receives one packet, cut to `bufsize` bytes; tags restored."""

    def recv_into(self, buffer: Buffer, nbytes: int = 0, /) -> int:
        """Receives one packet into `buffer` (or its first `nbytes`); returns
        the bytes written."""

    def recvfrom(self, bufsize: int, /) -> tuple[bytes, _Address]:
        """Receives one packet, cut to `bufsize` bytes, and its address.

        The addresses are those of the socket module, and sendto() takes
        them. AF_PACKET: (interface, protocol, packet type, link type, hardware
        address of the sender), the protocol in host order, the interface ""
        where it is gone by now. AF_UNIX: a path as str, an abstract name as
        bytes, None for a sender without a name. AF_INET: (host, port);
        AF_INET6: (host, port, flowinfo, scope_id). ValueError on a socket of
        another family.
        """

    def send(self, data: Buffer, /) -> int:
        """Sends one packet; returns its length. A packet socket on all
        interfaces, and most of type SOCK_DGRAM, need an address: sendto()."""

    def sendto(
        self, data: Buffer, address: _LinkAddress | _PeerAddress, /
    ) -> int:
        """Sends one packet to `address`; returns its length.

        AF_PACKET: (interface, protocol[, packet type[, link type[, hardware
        address]]]), of which the kernel uses interface (a name, looked up in
        the socket's network namespace, or an index) and protocol (in host
        order; 0 on a SOCK_RAW socket: as the frame says), and on a SOCK_DGRAM
        socket the hardware address, the receiver's. ValueError on a socket
        that is bound to an interface, except that a SOCK_DGRAM one takes
        addresses of that interface: the kernel would let the address win over
        bind().

        AF_UNIX: a path or, beginning with NUL, an abstract name, str or bytes.
        AF_INET: (host, port), AF_INET6: (host, port[, flowinfo[, scope_id]]),
        hosts in numbers only. ValueError on a socket of another family.

        ValueError and TypeError say what is wrong with the address; OSError
        ENODEV: no such interface.
        """

    @property
    def peer(self) -> _Address:
        """Address of the only sender expected, in the form that sendto()
        takes; None, as it is at first: anybody.

        While it is set, what comes from another address, or from a sender
        without one, is received all the same: recvmmsg_into() marks it with
        FOREIGN in batch.flags, and `strangers` counts it. recv(), recv_into()
        and recvfrom() only count it. It is the address that must be equal, not
        the socket: of AF_UNIX the very path that the sender bound.

        May be set at any time, from one thread while others receive; a
        receive in flight may use either value. Only on a socket adopted with
        addresses=True that is not of AF_PACKET (ValueError). ValueError for a
        link-local IPv6 address without scope_id; OSError EBUSY where two
        threads set it at once.
        """

    @peer.setter
    def peer(self, value: _PeerAddress | None) -> None: ...
    @property
    def strangers(self) -> int:
        """Datagrams received from others than `peer` while it was set; a
        64-bit count."""

    # Filters

    def attach_filter(self, filter: str | Buffer | int, /) -> None:
        """Has the kernel keep only what `filter` accepts.

        Packets queued under an earlier filter are discarded, and those that
        arrive during the change are lost, not let through. A packet that
        another CPU is just queueing can still slip in. OSError: EINVAL for a
        program that the kernel refuses, ENOMEM beyond optmem_max, EPERM after
        lock_filter(), EBUSY while another thread changes the filter; the
        earlier filter stays then. (Beyond optmem_max the kernel can fail
        halfway: an earlier eBPF filter, which cannot be read, is not put back
        then.)
        """

    def detach_filter(self) -> None:
        """Removes the filter; OSError ENOENT where there is none."""

    def lock_filter(self) -> None:
        """Forbids changing the filter for the life of the socket."""

    # Fanout and multicast

    def set_fanout(
        self,
        mode: _FanoutMode,
        group: int | None = None,
        flags: int = 0,
        program: Buffer | int | None = None,
    ) -> int:
        """Joins a fanout group, each packet of which goes to one of its
        sockets; returns its number.

        `group` is 0 to 65,535; None: a new one, which the kernel chooses.
        `flags`: FANOUT_FLAG_DEFRAG, FANOUT_FLAG_ROLLOVER. `program` chooses
        the socket: instructions for "cbpf", a descriptor for "ebpf". What the
        socket has queued before it joins stays, and may have reached other
        members too; from then on each packet is one member's. A group can only
        be left by close().

        Raises OSError: EINVAL where the members differ in interface,
        protocol, mode or flags or the socket is not bound, EALREADY for a
        member, ENOSPC for a full group (packet(7), PACKET_FANOUT), EINVAL for
        a program that the kernel refuses, EPERM for one after lock_filter().
        The socket has not joined then.
        """

    @property
    def fanout_group(self) -> int | None:
        """Number of the fanout group; None outside."""

    def add_membership(self, address: Buffer, /) -> None:
        """Has the interface receive a multicast address too
        (PACKET_ADD_MEMBERSHIP); OSError EINVAL for one of another length."""

    def drop_membership(self, address: Buffer, /) -> None:
        """Undoes one add_membership(); harmless where there is none."""

    # Options and state

    def statistics(self) -> Statistics:
        """Counts since the socket was made; after close(), the last ones."""

    @overload
    def getsockopt(self, level: int, optname: int, /) -> int:
        """A socket option, as socket.getsockopt().

        ValueError for PACKET_STATISTICS, which would take drops away from
        statistics(), and for SO_GET_FILTER, whose length is no number of
        bytes.
        """

    @overload
    def getsockopt(
        self, level: int, optname: int, buflen: int, /
    ) -> bytes: ...
    @overload
    def setsockopt(
        self, level: int, optname: int, value: int | Buffer, /
    ) -> None:
        """Sets a socket option, as socket.setsockopt().

        ValueError for PACKET_VNET_HDR, which would put a header in front of
        every frame: that is vnet_hdr=.
        """

    @overload
    def setsockopt(
        self, level: int, optname: int, value: None, optlen: int, /
    ) -> None: ...
    def getsockname(self) -> tuple[str, int, int, int, bytes]:
        """(interface, protocol, packet type, link type, hardware address), as
        socket.getsockname() gives it; OSError EOPNOTSUPP off AF_PACKET."""

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""

    def detach(self) -> int:
        """Closes the object without closing the descriptor, and returns it.

        OSError EBUSY while a call of this process uses it.
        """

    def close(self) -> None:
        """Closes the socket; a call that waits in another thread raises
        OSError EBADF at once. Harmless when closed already."""

    def settimeout(self, timeout: float | None, /) -> None:
        """Seconds that a call may wait; None: for ever, 0: not at all."""

    def gettimeout(self) -> float | None:
        """Returns the timeout in seconds; None if calls wait for ever."""

    def setblocking(self, flag: bool, /) -> None:
        """settimeout(None) or settimeout(0)."""

    def getblocking(self) -> bool:
        """Whether a call may wait: gettimeout() != 0."""

    @property
    def timeout(self) -> float | None:
        """What gettimeout() returns."""

    @property
    def closed(self) -> bool:
        """Whether close() or detach() has been called."""

    @property
    def family(self) -> AddressFamily:
        """AF_PACKET, or the family of the adopted descriptor."""

    @property
    def type(self) -> SocketKind:
        """SOCK_RAW or SOCK_DGRAM, or SOCK_SEQPACKET of an adopted AF_UNIX
        socket."""

    @property
    def proto(self) -> int:
        """The protocol. On AF_PACKET the EtherType that the socket receives,
        in host order as `protocol=` takes it (the socket module has it in
        network order); 0 on a send-only socket."""

    @property
    def vnet_hdr(self) -> int:
        """Bytes of offload header that go with each frame: 0, 10 or 12."""

    @property
    def interface(self) -> str | None:
        """Name of the interface; None for all of them."""

    @property
    def ifindex(self) -> int | None:
        """Index of the interface; None for all of them."""

    @property
    def link_type(self) -> int | None:
        """ARPHRD_ number of the interface (1: Ethernet); None for all."""

    @property
    def mtu(self) -> int | None:
        """Largest payload of the interface, now, in bytes; None for all."""

    def __enter__(self) -> Self:
        """Returns the socket itself."""

    def __exit__(self, *args: object) -> None:
        """Closes the socket."""

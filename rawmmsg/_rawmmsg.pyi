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
from .vhost import MappedRegion, RingAddresses

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

# One integer for each packet.
_Column: TypeAlias = Sequence[int] | Buffer

_Packets: TypeAlias = (
    PacketBatch
    | Sequence[Buffer]
    | Sequence[Buffer | tuple[Buffer, ...]]
    | _Rows
)

@final
class PacketBatch:
    """Memory for a batch of packets, prepared once for recvmmsg(2) and
    sendmmsg(2).

    PacketBatch(capacity=64, frame_size=2048) allocates its own memory.
    ``buffer=`` uses the caller's: any writable C-contiguous buffer of bytes.
    A two-dimensional buffer determines the capacity and the frame size. A flat
    one is divided into frames of `frame_size` bytes (2,048 by default), or
    into `capacity` frames if only that is given. ``buffers=`` uses a sequence
    of writable buffers, one for each packet. They may differ in size, and must
    not overlap. The caller's memory stays exported (a bytearray cannot be
    resized) until the batch and every view of it are gone. A batch over the
    caller's memory begins with each of `lengths` set to the full row, so that
    set_count() makes the frames ready to send.

    ``offsets=`` and ``lengths=`` make a batch of slices of ``buffer=``, which
    may be read-only: packet i is lengths[i] bytes at offsets[i]. Each is a
    column of integers, such as an array or a list; one length may be for all.
    Slices may overlap. Such a batch is full from the beginning. It is sent
    without a copy, merged, and read; its frames are read-only, and a call that
    would receive into it or change a frame raises BufferError.

    len(batch) is the number of packets that the batch holds. batch[i] is a
    writable view of exactly packet i, without a copy; i may be negative. It
    raises IndexError if there is no packet i, and ValueError if `lengths[i]`
    was set beyond the frame. memoryview(batch) is a view of all frames:
    unsigned bytes of shape (capacity, frame_size), whose rows may be further
    apart than frame_size (see its strides). A batch made with ``buffers=`` or
    ``offsets=`` raises BufferError there.

    A view stays safe to use even after the batch has been deleted, but the
    next receive overwrites its contents. To keep a packet, copy it:
    bytes(batch[i]).

    While a call is using the batch, any other use of it raises BufferError.

    Raises ValueError if the sizes do not fit, buffers overlap or a slice is
    not in the buffer, BufferError (or what the exporter raises) if the memory
    is read-only or not contiguous, and MemoryError.
    """

    def __new__(
        cls,
        capacity: int | None = None,
        frame_size: int | None = None,
        *,
        buffer: Buffer | None = None,
        buffers: Sequence[Buffer] | None = None,
        offsets: _Column | None = None,
        lengths: _Column | int | None = None,
    ) -> Self: ...
    @property
    def capacity(self) -> int:
        """How many packets the batch can hold."""

    @property
    def frame_size(self) -> int | None:
        """Bytes of memory for each frame; None if ``buffers=`` or ``offsets=``
        was given, because each frame then has its own size."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> memoryview[int]: ...
    def __iter__(self) -> Iterator[memoryview[int]]: ...
    def __buffer__(self, flags: int, /) -> memoryview[int]: ...
    def tolist(self) -> list[bytes]:
        """Returns copies of the packets, as bytes. Raises ValueError if one of
        `lengths` was set beyond its frame."""

    def address(self, index: int, /) -> _Address:
        """Returns the address of packet `index`, which may be negative: on
        AF_PACKET where the packet came from, on other sockets its sender (None
        for a sender without a name).

        It has the form that recvfrom() returns, except that an AF_PACKET
        address begins with the index of the interface instead of its name,
        because a batch has no socket to look the name up. sendto() accepts
        both. Raises IndexError if there is no such packet, ValueError if the
        last receive did not collect addresses (``addresses=True``), and
        BufferError while a call is using the batch.
        """

    def append(self, data: Buffer, /) -> None:
        """Copies one packet into the next free frame.

        Raises ValueError if the batch is full or the packet is longer than the
        frame, and TypeError or BufferError if `data` is not a contiguous
        buffer.
        """

    def extend(self, packets: Iterable[Buffer], /) -> None:
        """Appends each packet. Raises what append() raises, and what the
        iterable raises; the packets before the error stay."""

    def clear(self) -> None:
        """Removes all packets, and sets all offload headers to zero."""

    def set_count(self, count: int, /) -> None:
        """Declares that frames 0 to count-1, written in place, hold packets of
        `lengths` bytes.

        Their offload headers stay as they were received or written; to begin
        with zeros, call clear() first. All are zero if the last receive
        collected none. Raises ValueError unless 0 <= count <= capacity.
        """

    def complete_checksums(self) -> int:
        """Computes the checksums that were left to the hardware
        (VNET_NEEDS_CSUM), and returns how many. Call it before sending on a
        socket without `vnet_hdr`.

        SCTP over IPv4 and IPv6, behind any number of tags, gets its CRC32c.
        Every other frame gets an Internet checksum at the place that its
        header names (net/core/dev.c:skb_crc32c_csum_help(),
        skb_checksum_help()). Super-frames stay unchanged: segment_into()
        completes their checksums. Raises ValueError if the batch holds no
        offload headers, or if a frame's header does not fit the frame: the
        error names the frame, and the frames before it are complete.
        """

    def compute_checksums(self) -> int:
        """Computes all checksums of the IPv4 and IPv6 frames from scratch, and
        returns how many such frames there are. Call it after you have made or
        edited frames.

        These are the checksum of the IPv4 header, and that of TCP, UDP, ICMP,
        ICMPv6 or SCTP, behind any number of tags. Padding behind the packet
        does not count; the end of the packet is where the length field of IP,
        or of UDP, says. If there is a source route, the pseudo-header has the
        final destination (RFC 8200, 8.1). A fragment gets the checksum of its
        IPv4 header only. Other frames stay as they are.

        If the batch holds offload headers, VNET_NEEDS_CSUM is cleared, because
        no checksum is missing any more. Only a super-frame keeps it: its
        segments get their checksums when it is cut. If an offload header says
        that another checksum is missing, such as one in a tunnel, that is
        completed as by complete_checksums(). Without an offload header, a
        checksum that is missing in a tunnel stays missing.

        Raises ValueError if the headers of an IPv4 or IPv6 frame are
        malformed, if its offload header does not fit it, or if one of
        `lengths` was set beyond its frame: the error names the frame, and the
        frames before it are complete.
        """

    def verify_checksums(self) -> memoryview:
        """Checks the checksums that compute_checksums() computes, and returns
        a new, read-only memoryview (format "B") with the ChecksumStatus of
        each frame. The batch stays as it is.

        CHECKSUM_GOOD     all checksums are right
        CHECKSUM_BAD      that of the IPv4 header is wrong, or that of TCP,
                          UDP, ICMP, ICMPv6 or SCTP
        CHECKSUM_PENDING  one is still missing, because it was left to the
                          hardware (VNET_NEEDS_CSUM, CHECKSUM_NOT_READY)
        CHECKSUM_NONE     there is none, except that of an IPv4 header, which
                          is right: a fragment, UDP without a checksum, a
                          super-frame, another protocol, or a frame that cannot
                          be read

        If the checksum of the IPv4 header is wrong, the frame is CHECKSUM_BAD
        even if another one is missing. Raises ValueError if one of `lengths`
        was set beyond its frame.
        """

    def segment_into(
        self, target: PacketBatch, /, start: int = 0, segment: int = 0
    ) -> tuple[int, int]:
        """Fills `target` with frames that a socket without `vnet_hdr` can
        send: the frames from `start` on, with complete checksums, and with
        super-frames cut into segments.

        Returns the frame and the segment of it with which the next call must
        begin, once the caller has sent what `target` holds; (len(batch), 0)
        if nothing is left. Cuts TCP over IPv4 and IPv6, and UDP, behind any
        number of tags, as the kernel does (tcp_gso_segment(),
        __udp_gso_segment()).

        If the batch has the columns timestamps_ns, ifindexes and packet_types,
        `target` has them too: each segment has those of its super-frame.

        Stops before a frame or segment that it cannot convert: its header does
        not fit it, its type is another one, or it is longer than the next
        frame of `target`. If that is the first one, `target` stays empty and
        the call raises ValueError, which names the frame. Also raises
        ValueError if the batch holds no offload headers, if its memory
        overlaps that of `target`, or if `start` or `segment` is out of range,
        and BufferError if `target` is this batch.
        """

    def merge_into(
        self,
        target: PacketBatch,
        /,
        start: int = 0,
        stop: int | None = None,
        *,
        flows: int = 1,
        keep_ids: bool = True,
        segments: int = 64,
        max_length: int | None = None,
        udp: bool = True,
    ) -> int:
        """Fills `target` with the frames from `start` on, and before `stop` if
        that is given, and merges frames of the same TCP or UDP flow into
        super-frames, which a socket with `vnet_hdr` sends in one piece. The
        inverse of segment_into().

        A flow is all frames with the same IP version, addresses, protocol and
        ports. Returns the frame with which the next call must begin, once the
        caller has sent what `target` holds; `stop`, or len(batch), if nothing
        is left.

        A frame is merged only if segment_into() would give back exactly its
        bytes: it must have payload, right checksums and no padding, and its
        headers must continue those of the frame before it. All other frames,
        and super-frames, are copied together with their offload headers.

        flows       how many flows are open at a time, 1 to 256. With 1, only
                    frames that follow each other are merged, so the order of
                    all frames stays the same. With more, frames of several
                    flows may alternate; the order within each flow stays the
                    same
        keep_ids    False: also merge IPv4 frames that have the flag DF and all
                    the same id, as the kernel does. Their ids count up when
                    the super-frame is cut
        segments    how many frames a super-frame may stand for, 1 to 128; for
                    UDP, kernels before Linux 6.9 allow 64
        max_length  do not merge frames that are longer; a frame with an 802.1Q
                    tag may have 4 bytes more. With ``sock.mtu + 14``, sending
                    a frame that is too long raises an error, as it does
                    without merging: the kernel does not compare the segments
                    of a super-frame with the MTU
        udp         False: merge only TCP. A program on the far side that does
                    not expect super-frames sees merged datagrams as one long
                    datagram

        Stops when `target` is full, or before a frame that is longer than the
        next frame of `target`. If that is the frame at `start`, raises
        ValueError, which names it. Also raises ValueError if an argument is
        out of range or if the memory of the batches overlaps, and BufferError
        if `target` is this batch. Sending super-frames of UDP needs Linux 6.2.

        The rules are those of the kernel's GRO (net/core/gro.c), except that
        checksums must be exactly those that segment_into() writes, and that IP
        options and extension headers may be there if they are equal. Frames
        with more than 7 tags, which the kernel cannot cut, are copied, and so
        are frames that have not reached the end of their source route. A
        super-frame has at most 65,535 bytes, and never more than the frame of
        `target`.
        """

    # The columns. Each has `capacity` entries, of which the first len(batch)
    # are meaningful. A column that the last receive did not collect raises
    # AttributeError. append(), extend(), clear() and set_count() remove all
    # columns except `lengths` and the offload headers.

    @property
    def lengths(self) -> memoryview[int]:
        """Column of format "I": how many bytes of each packet the batch holds.

        Writable. Every use reads it once, and checks it against the frame.
        """

    @property
    def wire_lengths(self) -> memoryview[int]:
        """Column of format "I": how many bytes each packet had on the wire,
        including its tags, even if the frame or a filter cut it.

        Collected on AF_PACKET with vlan=True (packet(7), tp_len).
        """

    @property
    def timestamps_ns(self) -> memoryview[int]:
        """Column of format "q": when the kernel or the interface received each
        packet, in nanoseconds since the epoch; 0 if it has no time stamp.

        Collected with timestamps=.
        """

    @property
    def ifindexes(self) -> memoryview[int]:
        """Column of format "i": the index of the interface of each packet.

        Collected with addresses=True.
        """

    @property
    def packet_types(self) -> memoryview[int]:
        """Column of format "B": to whom each packet was addressed, as
        PACKET_HOST or PACKET_OUTGOING (rawmmsg.constants.PacketType).

        Collected with addresses=True.
        """

    @property
    def flags(self) -> memoryview[int]:
        """Column of format "H": TRUNCATED, CHECKSUM_NOT_READY, CHECKSUM_VALID,
        VLAN_RESTORED, CONTROL_TRUNCATED and FOREIGN, or-ed, of each packet
        (rawmmsg.constants.PacketFlag).

        Collected by every receive. The checksum flags and VLAN_RESTORED need
        vlan=True, FOREIGN needs a `peer`.
        """

    @property
    def vlan_tcis(self) -> memoryview[int]:
        """Column of format "H": the tag control information of each frame's
        outer tag, in host order, whether the kernel had stripped the tag or
        not.

        Collected with vlan=True.
        """

    @property
    def vlan_tpids(self) -> memoryview[int]:
        """Column of format "H": the EtherType of each frame's outer tag,
        0x8100 or 0x88a8, in host order; 0 if there is no tag.

        Collected with vlan=True.
        """

    # The offload headers (struct virtio_net_hdr; the kernel's
    # include/uapi/linux/virtio_net.h), one for each frame, in host order and
    # writable. A batch that is filled for sending has them too, and they are
    # zero until they are written; append() sets those of its frame to zero.

    @property
    def vnet_flags(self) -> memoryview[int]:
        """Column of format "B": VNET_NEEDS_CSUM and VNET_DATA_VALID, or-ed, of
        each frame (rawmmsg.constants.VnetFlag). Writable.

        Collected with vnet_hdr=.
        """

    @property
    def gso_types(self) -> memoryview[int]:
        """Column of format "B": which kind of super-frame each frame is, or
        GSO_NONE. Writable.

        The bit GSO_ECN is or-ed into GSO_TCPV4 and GSO_TCPV6 if the TCP header
        has CWR set: compare ``batch.gso_types[i] & ~GSO_ECN``. Collected with
        vnet_hdr=.
        """

    @property
    def header_lengths(self) -> memoryview[int]:
        """Column of format "H": a hint at how many bytes of headers each
        super-frame begins with. Writable.

        It is exact in a super-frame that merge_into() has made. Otherwise it
        may be wrong. The kernel writes the length of the first piece of its
        own buffer, which can include payload (include/linux/virtio_net.h:
        virtio_net_hdr_from_skb()), and a virtual machine may write anything.
        Take the length from the headers themselves, as in `gso_sizes`.
        Collected with vnet_hdr=.
        """

    @property
    def gso_sizes(self) -> memoryview[int]:
        """Column of format "H": how many bytes of payload each segment of a
        super-frame has. Writable.

        A super-frame has ``max(1, ceil((lengths[i] - headers) /
        gso_sizes[i]))`` segments, the last of which may be shorter. `headers`
        is the offset of the payload: ``checksum_starts[i] + 8`` for
        GSO_UDP_L4, and for TCP ``checksum_starts[i] + 4 * (batch[i]
        [checksum_starts[i] + 12] >> 4)``. Collected with vnet_hdr=.
        """

    @property
    def checksum_starts(self) -> memoryview[int]:
        """Column of format "H": the offset of the first byte that a missing
        checksum covers, which is that of the transport header. Writable.

        Collected with vnet_hdr=.
        """

    @property
    def checksum_offsets(self) -> memoryview[int]:
        """Column of format "H": where a missing checksum belongs, counted from
        `checksum_starts`. Writable.

        Collected with vnet_hdr=.
        """

    @property
    def buffer_counts(self) -> memoryview[int]:
        """Column of format "H": num_buffers of each offload header. Writable.

        Collected with vnet_hdr=12.
        """

@final
class Statistics(
    structseq[int | None], tuple[int, int | None, int, int, int, int]
):
    """The counts of a socket since it was created, of 64 bits each."""

    __match_args__: Final = (
        "packets_received",
        "packets_dropped",
        "batches_received",
        "packets_sent",
        "batches_sent",
        "send_retries",
    )

    def _asdict(self) -> dict[str, int | None]:
        """Returns the counts by their names, as a namedtuple does."""

    @property
    def packets_received(self) -> int:
        """Packets delivered to the caller."""

    @property
    def packets_dropped(self) -> int | None:
        """Packets that the kernel dropped because the receive buffer was full
        (packet(7), PACKET_STATISTICS); None if the socket is not AF_PACKET."""

    @property
    def batches_received(self) -> int:
        """System calls that delivered packets."""

    @property
    def packets_sent(self) -> int:
        """Packets that the kernel accepted."""

    @property
    def batches_sent(self) -> int:
        """System calls with which the kernel accepted packets."""

    @property
    def send_retries(self) -> int:
        """How often sendmmsg_all() tried again after ENOBUFS."""

@final
class RawSocket:
    """A packet socket (packet(7)) that receives and sends in batches.

    Without `interface` it receives from all interfaces. `protocol` is an
    EtherType in host order; 3, the default, is ETH_P_ALL: all protocols. With
    protocol 0 the socket only sends, and costs the kernel nothing when packets
    arrive. The socket is listening when the constructor returns. It never
    delivers a packet of another interface, or a packet that `filter` rejects.
    With `type` SOCK_RAW, the default (3), packets begin with their link
    header. With SOCK_DGRAM (2) they come and are sent without it, and the
    kernel makes the header from an address.

    A socket also receives what this machine sends on the interface, except
    what it sends itself. To forward packets in both directions, use
    ``ignore_outgoing=True``; otherwise each packet is forwarded again and
    again.

    filter          a pcap-filter(7) expression, a buffer of struct
                    sock_filter (rawmmsg.bpf.Program is one), or the
                    descriptor of an eBPF program
    promisc         receive packets that are addressed to other hosts too
    ignore_outgoing do not receive what this machine sends. None: True on the
                    loopback interface, where each frame would be received
                    twice, otherwise False. With fanout= this needs Linux 6.2
                    (on earlier ones, use the filter "inbound")
    vlan            put a VLAN tag (802.1Q, 802.1ad) that the kernel has
                    stripped back into the frame, and collect wire_lengths,
                    vlan_tcis and vlan_tpids. None: True, or the setting of an
                    adopted descriptor. Needs protocol ETH_P_ALL: with any
                    other protocol the kernel discards a stripped tag
                    (net/core/dev.c:__netif_receive_skb_core())
    addresses       collect packet_types, ifindexes and the addresses that
                    PacketBatch.address() returns. None: True only if
                    `interface` is None. On an adopted AF_UNIX, AF_INET or
                    AF_INET6 socket: collect the sender of each datagram; None:
                    False
    timestamps      "software": collect timestamps_ns, when the kernel received
                    each packet. The first packets may have 0, because the
                    kernel needs a moment to begin; so have all packets of
                    AF_UNIX, which has no time stamps.
                    "hardware": the time stamps of the interface (raw, of its
                    own clock). Raises OSError EOPNOTSUPP if the interface has
                    none. The administrator must switch them on
                    (SIOCSHWTSTAMP).
                    None: rawmmsg sets no time-stamping option
    vnet_hdr        exchange an offload header (virtio_net_hdr) with each
                    frame, in columns of the batch: frames of up to SUPER_FRAME
                    bytes are received as the sender made them, with checksums
                    still missing, and are sent in the same form. True: 10
                    bytes, which every kernel supports. 12: with num_buffers
                    (Linux 6.4). None: off, or the setting of an adopted
                    descriptor. SOCK_RAW only
    fanout          join a fanout group: a mode, or a tuple of the arguments of
                    set_fanout(). Each packet is received once in the group.
                    Packets that arrive between the join and the attachment of
                    the filter, some microseconds, are lost, and the kernel
                    does not count them (net/packet/af_packet.c:packet_rcv()).
                    An adopted descriptor joins last of all, as by set_fanout()
    allmulti        receive all multicast packets (PACKET_MR_ALLMULTI)
    multicast       multicast hardware addresses to receive, as bytes
                    (PACKET_MR_MULTICAST)
    qdisc_bypass    send past the traffic control layer; other packet sockets
                    do not see these packets
    rcvbuf, sndbuf  sizes of the socket's buffers in bytes. With CAP_NET_ADMIN
                    they may exceed net.core.rmem_max and wmem_max. Otherwise
                    the kernel reduces them to that limit, and the constructor
                    issues a RuntimeWarning. rcvbuf None: 8 MiB, or the limit,
                    if the socket receives; sndbuf None: the kernel's default
    netns           the network namespace to open the socket in: a name (as of
                    `ip netns`) or a path
    allow_down      accept an interface that is down; the socket works as soon
                    as the link is up
    fileno          adopt a descriptor: AF_PACKET, any datagram socket, or
                    AF_UNIX with SOCK_SEQPACKET, on which an empty packet means
                    that the peer has closed. The constructor changes only the
                    options that are given; options of AF_PACKET raise
                    ValueError on other sockets. If the constructor raises, the
                    caller still owns the descriptor, and its options, filter
                    and memberships are as they were (except that an eBPF
                    filter cannot be read, and so cannot be restored)

    A new socket blocks. settimeout() and setblocking() work as in the socket
    module. Several threads may use a socket at the same time; close() in one
    of them ends the calls that wait in the others. On a closed socket, every
    call that needs the descriptor raises OSError EBADF.

    The constructor raises OSError (ENODEV: there is no such interface;
    ENETDOWN: it is down; EPERM: CAP_NET_RAW is missing), ValueError and
    TypeError for wrong arguments, and rawmmsg.bpf.FilterError for a wrong
    expression. It issues a RuntimeWarning if `protocol` looks like the htons()
    of a protocol.
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
        """Receives the packets that are waiting, up to batch.capacity, into
        frames 0 to n-1, and returns n, which is at least 1.

        Makes one system call if packets are waiting. Otherwise it waits as
        long as the timeout allows. Views of earlier packets (batch[i]) show
        the new ones afterwards.

        Raises TimeoutError, BlockingIOError (timeout 0), BufferError if
        another call is using the batch, and OSError: ENETDOWN once when the
        link goes down, ENODEV if the interface is gone, EBADF if the socket is
        closed meanwhile, EOPNOTSUPP on a send-only socket, and with vnet_hdr
        EINVAL once for each packet that the kernel lost because an offload
        header cannot describe it. A call that raises leaves the batch
        unchanged.
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
        """Sends packets[start:stop], at most 1,024 of them, in one system
        call. Returns how many the kernel accepted; like socket.send(), that
        may be fewer.

        `packets` is a PacketBatch, a sequence of buffers or a two-dimensional
        array. The kernel reads them from their own memory. A tuple of buffers
        in the sequence is one packet, which the kernel gathers. ValueError
        unless 0 <= start <= stop <= len(packets). Returns 0 if start == stop.

        Raises if the first packet fails. The error names the packet and the
        reason: EMSGSIZE (longer than the MTU allows), EINVAL (shorter than the
        link header), ENOBUFS (the queue is full, or something on the path
        drops the packet), ENETDOWN, ENODEV, TimeoutError, BlockingIOError. If
        the socket has a pending error that does not concern this packet, the
        next receive raises it.

        With vnet_hdr, a batch's frames are sent with their offload headers,
        and the packets of a sequence with zeros. An offload header cannot ask
        for SCTP's CRC32c: if one is missing (VNET_NEEDS_CSUM), the call first
        completes it in the batch, as complete_checksums() does. ValueError
        names a frame whose header does not fit it, or that needs a header (a
        super-frame, or a frame without checksum) on a socket without vnet_hdr.
        With qdisc_bypass, a super-frame that the device cannot segment fails
        with ENOBUFS, because nothing else segments it there
        (net/core/dev.c:__dev_direct_xmit()). `ethtool -k` shows what the
        device can segment.

        `addresses` gives each packet its destination, in the form of sendto().
        On AF_PACKET it is a sequence with one address for each of `packets`,
        or True with a PacketBatch that was received with addresses=True: each
        packet is sent on the interface that it came from, and on a SOCK_DGRAM
        socket with the protocol that it had, to the hardware address that it
        came from. On an adopted AF_UNIX, AF_INET or AF_INET6 socket it is one
        address for all packets. All addresses are checked before the first
        packet is sent: ValueError and TypeError name the wrong one, and
        OSError ENODEV names an interface that does not exist.
        """

    def sendmmsg_all(self, packets: _Packets, /) -> None:
        """Sends every packet, with as many system calls as that takes.

        After ENOBUFS it tries again, with growing pauses, until the timeout,
        or, if there is none, for a second without progress. The error then
        says how often it tried this packet: the queue may be full, or
        something on the path may drop this one packet, and the kernel reports
        both with the same error. The timeout covers the whole call. The
        attribute `packets_sent` of an error is the number of packets that were
        sent before it.
        """

    # One packet, as in the socket module. OSError EOPNOTSUPP with vnet_hdr.

    def recv(self, bufsize: int, /) -> bytes:
        """Receives one packet, and returns up to `bufsize` bytes of it, with
        its VLAN tag restored. Raises what recvmmsg_into() raises, and
        ValueError if `bufsize` is negative."""

    def recv_into(self, buffer: Buffer, nbytes: int = 0, /) -> int:
        """Receives one packet into `buffer`, or into its first `nbytes` bytes
        if that is not 0. Returns the number of bytes written. Raises what
        recvmmsg_into() raises, and ValueError if `nbytes` is negative or
        greater than the buffer."""

    def recvfrom(self, bufsize: int, /) -> tuple[bytes, _Address]:
        """Receives one packet, and returns up to `bufsize` bytes of it and its
        address.

        Addresses have the form of the socket module, and sendto() accepts
        them. AF_PACKET: (interface, protocol, packet type, link type, hardware
        address of the sender), with the protocol in host order, and "" for an
        interface that is gone. AF_UNIX: a path as str, an abstract name as
        bytes, None for a sender without a name. AF_INET: (host, port);
        AF_INET6: (host, port, flowinfo, scope_id). Raises ValueError on a
        socket of another family.
        """

    def send(self, data: Buffer, /) -> int:
        """Sends one packet, and returns its length. Raises what sendmmsg()
        raises. A packet socket on all interfaces, and most sockets of type
        SOCK_DGRAM, need an address: use sendto()."""

    def sendto(
        self, data: Buffer, address: _LinkAddress | _PeerAddress, /
    ) -> int:
        """Sends one packet to `address`, and returns its length.

        AF_PACKET: (interface, protocol[, packet type[, link type[, hardware
        address]]]). The kernel uses the interface (a name, which is looked up
        in the network namespace of the socket, or an index), the protocol (in
        host order; 0 on a SOCK_RAW socket means the one in the frame), and on
        a SOCK_DGRAM socket the hardware address of the receiver. Raises
        ValueError on a socket that is bound to an interface, because the
        kernel would let the address override bind(). A bound SOCK_DGRAM socket
        accepts addresses of its own interface.

        AF_UNIX: a path or, beginning with NUL, an abstract name, as str or
        bytes. AF_INET: (host, port); AF_INET6: (host, port[, flowinfo[,
        scope_id]]). Hosts must be numeric. Raises ValueError on a socket of
        another family.

        ValueError and TypeError say what is wrong with the address. Raises
        OSError ENODEV if there is no such interface.
        """

    @property
    def peer(self) -> _Address:
        """The address of the only sender that is expected, in the form that
        sendto() accepts; None, the initial value, if any sender is.

        While it is set, packets from another address, or from a sender without
        one, are still received. recvmmsg_into() marks them with FOREIGN in
        batch.flags, and `strangers` counts them; recv(), recv_into() and
        recvfrom() only count them. The addresses are compared, not the
        sockets: on AF_UNIX the sender must have bound exactly this path.

        A thread may set it at any time while others receive; a receive that is
        in progress may use the old or the new value. It can be set only on a
        socket adopted with addresses=True that is not AF_PACKET (ValueError).
        Raises ValueError for a link-local IPv6 address without scope_id, and
        OSError EBUSY if two threads set it at the same time.
        """

    @peer.setter
    def peer(self, value: _PeerAddress | None) -> None: ...
    @property
    def strangers(self) -> int:
        """How many datagrams were received from others than `peer` while it
        was set; a 64-bit count."""

    # Filters

    def attach_filter(self, filter: str | Buffer | int, /) -> None:
        """Makes the kernel discard what `filter` does not accept.

        The packets that are queued, which an earlier filter has accepted, are
        discarded, and the packets that arrive during the change are lost. A
        packet that another CPU is adding to the queue at this moment may still
        be received. Raises OSError: EINVAL for a program that the kernel
        refuses, ENOMEM if it exceeds optmem_max, EPERM after lock_filter(),
        EBUSY while another thread changes the filter. Raises FilterError for a
        wrong expression, and ValueError for an expression on a socket that
        cannot use one, or for a buffer of another size. The earlier filter
        then stays, with one exception: if the kernel fails with ENOMEM
        halfway, an earlier eBPF filter cannot be restored, because it cannot
        be read.
        """

    def detach_filter(self) -> None:
        """Removes the filter. Raises OSError: ENOENT if there is none, EPERM
        after lock_filter()."""

    def lock_filter(self) -> None:
        """Prevents every further change of the filter, for as long as the
        socket exists."""

    # Fanout and multicast

    def set_fanout(
        self,
        mode: _FanoutMode,
        group: int | None = None,
        flags: int = 0,
        program: Buffer | int | None = None,
    ) -> int:
        """Joins a fanout group, in which each packet goes to one of the
        sockets. Returns the number of the group.

        `mode` is a name such as "hash", or a rawmmsg.constants.FanoutMode.
        `group` is 0 to 65,535; None: a new group, whose number the kernel
        chooses. `flags`: FANOUT_FLAG_DEFRAG and FANOUT_FLAG_ROLLOVER, or-ed.
        `program` chooses the socket: instructions for "cbpf", a descriptor for
        "ebpf". Packets that the socket had queued before it joined stay, and
        other members may have received them too. A socket leaves its group
        only by close().

        Raises OSError: EINVAL if the members differ in interface, protocol,
        mode or flags, if the socket is not bound, or if the kernel refuses the
        program; EALREADY if the socket is a member already; ENOSPC if the
        group is full (packet(7), PACKET_FANOUT); EPERM for a program after
        lock_filter(); EOPNOTSUPP if the socket is not AF_PACKET. Raises
        ValueError and TypeError for wrong arguments. The socket has not joined
        then.
        """

    @property
    def fanout_group(self) -> int | None:
        """The number of the fanout group; None if the socket is in none."""

    def add_membership(self, address: Buffer, /) -> None:
        """Makes the interface receive a multicast hardware address too
        (PACKET_ADD_MEMBERSHIP). Raises OSError EINVAL if its length is not
        that of the interface's addresses, and ValueError on a socket without
        an interface."""

    def drop_membership(self, address: Buffer, /) -> None:
        """Undoes one add_membership(); does nothing if there was none. Raises
        ValueError on a socket without an interface."""

    # Options and state

    def statistics(self) -> Statistics:
        """Returns the counts since the socket was created; after close(), the
        final ones."""

    @overload
    def getsockopt(self, level: int, optname: int, /) -> int:
        """Reads a socket option, as socket.getsockopt() does: an int, or up to
        `buflen` bytes if that is given.

        Raises ValueError for PACKET_STATISTICS, because reading it would take
        drops away from statistics(), and for SO_GET_FILTER, whose length does
        not count bytes.
        """

    @overload
    def getsockopt(
        self, level: int, optname: int, buflen: int, /
    ) -> bytes: ...
    @overload
    def setsockopt(
        self, level: int, optname: int, value: int | Buffer, /
    ) -> None:
        """Sets a socket option, as socket.setsockopt() does.

        Raises ValueError for PACKET_VNET_HDR, which puts a header in front of
        every frame: use vnet_hdr= instead.
        """

    @overload
    def setsockopt(
        self, level: int, optname: int, value: None, optlen: int, /
    ) -> None: ...
    def getsockname(self) -> tuple[str, int, int, int, bytes]:
        """Returns (interface, protocol, packet type, link type, hardware
        address), as socket.getsockname() does. Raises OSError EOPNOTSUPP if
        the socket is not AF_PACKET."""

    def fileno(self) -> int:
        """Returns the descriptor; -1 if the socket is closed."""

    def detach(self) -> int:
        """Closes the object without closing the descriptor, and returns it.

        Raises OSError EBUSY while a call of this process is using it.
        """

    def close(self) -> None:
        """Closes the socket. A call that waits in another thread raises
        OSError EBADF at once. Packets that wait in the receive buffer are
        discarded, and not counted. Does nothing if the socket is closed
        already."""

    def settimeout(self, timeout: float | None, /) -> None:
        """Sets how many seconds a call may wait; None: without limit, 0: not
        at all. Raises ValueError if `timeout` is negative or not a number, and
        OverflowError if it is too large."""

    def gettimeout(self) -> float | None:
        """Returns the timeout in seconds; None: without limit."""

    def setblocking(self, flag: bool, /) -> None:
        """Calls settimeout(None) if `flag` is true, else settimeout(0)."""

    def getblocking(self) -> bool:
        """Returns whether a call may wait: gettimeout() != 0."""

    @property
    def timeout(self) -> float | None:
        """The same as gettimeout()."""

    @property
    def closed(self) -> bool:
        """Whether close() or detach() has been called."""

    @property
    def family(self) -> AddressFamily:
        """AF_PACKET, or the family of the adopted descriptor."""

    @property
    def type(self) -> SocketKind:
        """SOCK_RAW or SOCK_DGRAM, or SOCK_SEQPACKET for an adopted AF_UNIX
        socket."""

    @property
    def proto(self) -> int:
        """The protocol. On AF_PACKET it is the EtherType that the socket
        receives, in host order as `protocol=` takes it (unlike in the socket
        module), and 0 if the socket only sends."""

    @property
    def vnet_hdr(self) -> int:
        """Bytes of the offload header of each frame: 0 (none), 10 or 12."""

    @property
    def interface(self) -> str | None:
        """The present name of the interface, or its last name if it is gone or
        the socket is closed; None: all interfaces."""

    @property
    def ifindex(self) -> int | None:
        """The index of the interface; None: all interfaces."""

    @property
    def link_type(self) -> int | None:
        """The ARPHRD_ number of the interface (1: Ethernet); None: all
        interfaces."""

    @property
    def mtu(self) -> int | None:
        """The largest payload of the interface in bytes, read from the kernel
        each time; None: all interfaces. Raises OSError ENODEV if the interface
        is gone."""

    def __enter__(self) -> Self:
        """Returns the socket."""

    def __exit__(self, *args: object) -> None:
        """Closes the socket."""

# For rawmmsg/bridge/ports/vhost.py and rawmmsg/vhost, whose class Rings
# documents the first methods. Ring 0 is the one from which the guest receives,
# ring 1 the one by which it sends. One call at a time; RuntimeError otherwise.
@final
class _GuestRings:
    # batch: messages of one system call. filter: for what the guest sends.
    def __new__(cls, batch: int = 64, filter: bytes | None = None) -> Self: ...
    def set_features(self, features: int, /) -> None: ...
    def set_memory(self, regions: Sequence[MappedRegion], /) -> None: ...
    def set_size(self, index: int, size: int, /) -> None: ...
    def set_addresses(
        self, index: int, addresses: RingAddresses, /
    ) -> None: ...
    def set_base(self, index: int, base: int, /) -> None: ...
    def start(self, index: int, /) -> None: ...
    def set_call(self, index: int, descriptor: int | None, /) -> None: ...
    def set_enabled(self, index: int, enabled: bool, /) -> None: ...
    def kicked(self, index: int, /) -> bool: ...
    # Frames that are held for the guest are dropped.
    def stop(self, index: int, /) -> int: ...

    # Whether the ring runs, is enabled and is not broken.
    def is_ready(self, index: int, /) -> bool: ...
    # Why the ring must not be used any more.
    def broken(self, index: int, /) -> str | None: ...
    # Asks the guest to kick when it adds buffers, and looks again. Returns
    # whether there is work already: then the caller must not sleep.
    def ask_for_kick(self, index: int, /) -> bool: ...

    # Takes frames from the guest unless some are pending, and sends them from
    # its buffers with one system call. Returns how many were sent. Raises what
    # RawSocket.sendmmsg() raises: about the next pending frame.
    def send(self, sock: RawSocket, /) -> int: ...
    # Frames taken from the guest that are neither sent nor refused.
    @property
    def pending(self) -> int: ...
    # Drops the next pending frame.
    def refuse(self) -> None: ...
    # Receives into the guest's buffers with one system call. Returns how many
    # frames; 0 if it is full, or if the ring has just broken. Raises what
    # RawSocket.recvmmsg_into() raises. If ring 0 is not ready, it drops what
    # it receives.
    def receive(self, sock: RawSocket, /) -> int: ...
    # The guest has too few buffers, and was asked for a kick of ring 0. Before
    # the caller sleeps, ask_for_kick(0) says whether the guest has added some
    # meanwhile.
    @property
    def is_full(self) -> bool: ...

    # As the methods of a RawSocket with vnet_hdr that does not wait. The
    # frames of the batch have SUPER_FRAME bytes.
    def recvmmsg_into(self, batch: PacketBatch, /) -> int: ...
    # Completes checksums and cuts super-frames that the guest does not take.
    # Raises BlockingIOError if it is full. If ring 0 is not ready, it drops
    # all.
    def sendmmsg(self, batch: PacketBatch, start: int = 0, /) -> int: ...
    # From the guest:
    #   received   frames that were passed on or dropped
    #   received_bytes  of these, except malformed, too_long, disabled
    #   batches    how often frames were taken
    #   malformed  received, dropped: no whole Ethernet header, or an offload
    #              header that was not negotiated
    #   too_long   received, dropped: their length
    #   rejected   by the filter; not in received
    #   disabled   received, dropped: the ring is disabled
    # To the guest:
    #   taken_bytes  that receive() took from the socket
    #   sent       frames that it got
    #   no_room    dropped: no buffers of its ring can hold them
    #   missed     dropped: the ring was not ready
    #   bad        dropped: they could not be cut
    #   spilled    frames whose end was copied, into more buffers
    #   moved      frames that were copied
    #   cut        segments, minus the super-frames that they were cut from
    def statistics(self) -> dict[str, int]: ...

@final
class _FrameSorter:
    # The batch has at most 1,024 rows.
    def __new__(cls, batch: PacketBatch) -> Self: ...
    # Returns the distinct keys of the frames: struct "=6s6sH" of destination,
    # source, and the id of the 802.1Q tag (0xffff: no tag). A malformed frame
    # has a key of two addresses of zeroes and no tag; show() leaves it out. So
    # it does with frames whose indices are in `skip`, which have no key.
    def sort(self, skip: Sequence[int] = (), /) -> list[bytes]: ...
    # How many frames each key has.
    def counts(self) -> list[int]: ...
    # Returns the frames of some keys, in order. It is always the same batch,
    # and its frames are in the memory of the batch that was sorted. Each key
    # has a choice, an unsigned number of 16 bits. 0xffff: leave its frames
    # out. 0xfffe: show them as they were sorted. 0: without a tag. 1 to 4,095:
    # with a tag of this id. Choices that change tags need a batch with memory
    # of its own, and change its frames: only those that were shown last are
    # as they should be.
    def show(self, choices: Buffer, /) -> PacketBatch: ...

# For rawmmsg/pcap. _rawmmsg_recording.c describes both.
@final
class _RecordFinder:
    def __new__(cls, capacity: int) -> Self: ...
    def find(
        self, buffer: Buffer, at: int, stop_at: int, /
    ) -> tuple[
        PacketBatch | None,
        int,
        int,
        int,
        list[
            tuple[int, int, str, str, str] | tuple[int, int | None, int | None]
        ],
        str | None,
    ]: ...
    def totals(
        self,
    ) -> tuple[int, int, int, int, Literal["pcap", "pcapng"] | None]: ...
    def reset(self) -> None: ...

@final
class _RecordWriter:
    def __new__(cls, is_pcapng: bool, snap_length: int) -> Self: ...
    def write(
        self,
        fd: int,
        batch: PacketBatch,
        start: int,
        stop: int,
        interfaces: int,
        interface: _Column | int,
        times: _Column | int | None,
        dropped: int,
        /,
    ) -> None: ...
    def progress(self) -> tuple[int, int, int]: ...

# Copies frames start to stop-1 behind those of the target, until it is full or
# a frame does not fit into its row. Returns the index of the next one.
def _copy_frames(
    batch: PacketBatch, start: int, stop: int, target: PacketBatch, /
) -> int: ...

# Writes addresses of six bytes, or leaves them as they are (None), in all
# frames that have an Ethernet header.
def _set_addresses(
    batch: PacketBatch,
    destination: Buffer | None,
    source: Buffer | None,
    /,
) -> None: ...

# For commands: takes all capabilities from the calling thread, and
# prevents that programs which it executes get any. Raises OSError.
def _drop_capabilities() -> None: ...

# For rawmmsg/bpf/program.py, which documents the arguments.
def _check_filter(program: bytes, /) -> None: ...
def _run_filter(
    program: bytes,
    packet: Buffer,
    wire_length: int | None,
    vlan: int | tuple[int, int] | None,
    packet_type: int | None,
    ifindex: int | None,
    network_offset: int,
    ancillary: dict[int, int] | None,
    trace: list[int] | None,
    /,
) -> int: ...

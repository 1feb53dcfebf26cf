/* Completes checksums, cuts super-frames into segments, and merges frames into
   super-frames, as the kernel does in software: _rawmmsg_offload.h says what
   for. */

#define _DEFAULT_SOURCE /* le64toh() */

#include <endian.h>
#include <stdatomic.h>
#include <string.h>

#include <linux/if_ether.h>

#include "_rawmmsg_offload.h"

/* ---- Constants ---------------------------------------------------------- */

/* VLAN_MAX_DEPTH in include/linux/if_vlan.h. */
#define MAX_TAGS 8
/* GSO_BY_FRAGS in include/linux/skbuff.h: this value does not give a size. */
#define NO_GSO_SIZE 0xffff
#define MAX_SEGMENTS UINT16_MAX

#define IPV4_HEADER 20
#define IPV4_FRAGMENT 6 /* offset in the IP header: flags, fragment offset */
#define IPV4_DF 0x4000
#define IPV4_PART 0x3fff /* the bit for more fragments, and the offset */
#define IPV6_HEADER 40
#define IPV6_ADDRESS 16
#define IPV6_ROUTING 43
#define IPV6_FRAGMENT 44
#define JUMBO_HEADER 8

enum {
    ICMP = 1,
    TCP = 6,
    UDP = 17,
    ICMPV6 = 58,
    SCTP = 132
};
enum {
    TCP_SEQUENCE = 4,
    TCP_SIZE = 12,
    TCP_FLAGS = 13,
    TCP_CHECKSUM = 16,
    TCP_HEADER = 20,
    UDP_LENGTH = 4,
    UDP_CHECKSUM = 6,
    UDP_HEADER = 8,
    SCTP_CHECKSUM = 8,
    SCTP_HEADER = 12,
    ICMP_CHECKSUM = 2,
    ICMP_HEADER = 4 /* the part that all messages have */
};
enum {
    TCP_FIN = 0x01,
    TCP_PSH = 0x08,
    TCP_CWR = 0x80
};

/* What read_super_frame() has read of a frame and its header, once, and has
   checked. A local of one call: nobody else can change it. */
struct super_frame {
    size_t length;         /* of the whole frame */
    size_t network;        /* offset of the IP header */
    size_t transport;      /* offset of the TCP or UDP header */
    size_t payload;        /* offset of the bytes that are cut */
    size_t payload_length; /* without padding */
    size_t removed;  /* bytes of the jumbo header, behind the IPv6 header:
                              segments do not have it */
    size_t gso_size; /* bytes of payload in each segment but the last */
    uint32_t segment_count;
    uint32_t sequence;        /* of the first byte (TCP) */
    uint32_t seed;            /* see read_seed() */
    uint16_t id;              /* of the first segment (IPv4) */
    uint16_t checksum_start;  /* as in the header */
    uint16_t checksum_offset; /* as in the header */
    uint8_t tcp_flags;
    uint8_t next_header; /* the type of what follows the removed header */
    bool needs_checksum;
    bool ipv6;
    bool udp;
};

/* ---- Bytes and checksums ------------------------------------------------ */

static void
store_be16(unsigned char *p, uint16_t value)
{
    value = htons(value);
    memcpy(p, &value, sizeof(value));
}

static void
store_be32(unsigned char *p, uint32_t value)
{
    value = htonl(value);
    memcpy(p, &value, sizeof(value));
}

typedef uint64_t word_pair __attribute__((vector_size(16)));

/* The sum of the last n < 8 bytes. */
static uint64_t
sum_rest(const unsigned char *p, size_t n)
{
    uint64_t sum = 0;
    uint32_t word;
    uint16_t half;

    /* A memcpy() of n bytes would be a call, as expensive as all else that a
       short header needs. */
    if (n & 4) {
        memcpy(&word, p, sizeof(word));
        sum += word;
        p += sizeof(word);
    }
    if (n & 2) {
        memcpy(&half, p, sizeof(half));
        sum += half;
        p += sizeof(half);
    }
    if (n & 1) {
        half = 0;
        memcpy(&half, p, 1);
        sum += half;
    }
    return sum;
}

/* The sum of n bytes that the Internet checksum folds into 16 bits. It may be
   taken over words of any size, in the machine's byte order (RFC 1071, 2).
   Here they have 32 bits, and the sum has 64 and cannot overflow. */
static uint64_t
sum_bytes(const unsigned char *p, size_t n)
{
    word_pair all = {0, 0}, high = {0, 0}, a, b;
    uint64_t sum = 0, word;

    if (n >= 4 * sizeof(a)) { /* where pairs begin to be faster */
        for (; n >= 2 * sizeof(a); p += 2 * sizeof(a), n -= 2 * sizeof(a)) {
            memcpy(&a, p, sizeof(a));
            memcpy(&b, p + sizeof(a), sizeof(b));
            all += a + b;
            high += (a >> 32) + (b >> 32);
        }
        /* The sum of whole words overflows, but what remains of it without the
           high halves is the sum of the low halves, which does not. */
        all += high - (high << 32);
        sum = all[0] + all[1];
    }
    for (; n >= sizeof(word); p += sizeof(word), n -= sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        sum += (word & UINT32_MAX) + (word >> 32);
    }
    return sum + sum_rest(p, n);
}

/* Folds a sum into 16 bits, in the machine's byte order. */
static inline uint16_t
fold(uint64_t sum)
{
    uint32_t low = (uint32_t)sum, all = low + (uint32_t)(sum >> 32);

    all += all < low; /* the carry */
    all = (all & UINT16_MAX) + (all >> 16);
    return (uint16_t)(all + (all >> 16));
}

/* Returns the checksum of bytes with this sum, in the machine's byte order. */
static inline uint16_t
checksum_of(uint64_t sum, bool mangle)
{
    uint16_t checksum = (uint16_t)~fold(sum);

    /* CSUM_MANGLED_0: a checksum of 0 tells a receiver of UDP that there is
       none, and 0xffff is the same number. */
    return mangle && checksum == 0 ? UINT16_MAX : checksum;
}

static void
store_checksum(unsigned char *p, uint64_t sum, bool mangle)
{
    uint16_t checksum = checksum_of(sum, mangle);

    memcpy(p, &checksum, sizeof(checksum));
}

/* Completes the checksum of any protocol except SCTP, as
   net/core/dev.c:skb_checksum_help() does. */
static void
finish_checksum(unsigned char *frame, size_t length, uint16_t start,
                uint16_t offset)
{
    uint64_t sum = sum_bytes(frame + start, length - start);

    store_checksum(frame + start + offset, sum, true);
}

/* ---- Which headers are possible ----------------------------------------- */

/* What a gso_type says about the headers of a frame. */
struct gso_kind {
    size_t network;   /* bytes of the shortest IP header; 0: unknown type */
    size_t transport; /* bytes of the shortest TCP or UDP header, or 0 */
    uint16_t checksum_offset;
};

static struct gso_kind
kind_of(uint8_t gso_type)
{
    switch (gso_type) {
    case GSO_NONE:
        return (struct gso_kind){IPV4_HEADER, 0, 0};
    case GSO_TCPV4:
    case GSO_TCPV4 | GSO_ECN:
        return (struct gso_kind){IPV4_HEADER, TCP_HEADER, TCP_CHECKSUM};
    case GSO_TCPV6:
    case GSO_TCPV6 | GSO_ECN:
        return (struct gso_kind){IPV6_HEADER, TCP_HEADER, TCP_CHECKSUM};
    case GSO_UDP_L4:
        return (struct gso_kind){IPV4_HEADER, UDP_HEADER, UDP_CHECKSUM};
    default:
        return (struct gso_kind){0, 0, 0};
    }
}

static const char checksum_beyond[] = "its checksum field is behind its end";

static const char *
check_checksum(const struct offload_header *h, size_t length,
               const struct gso_kind *kind)
{
    size_t needed = (size_t)h->checksum_offset + sizeof(uint16_t);

    if (needed < kind->transport) {
        needed = kind->transport;
    }
    if (h->checksum_start + needed > length) {
        return checksum_beyond;
    }
    if (h->checksum_start < kind->network) {
        return "its checksum starts before its transport header";
    }
    if (kind->transport > 0 && h->checksum_offset != kind->checksum_offset) {
        return "its checksum_offset does not match its gso_type";
    }
    return NULL;
}

/* Returns why the kernel would refuse a frame with this header
   (net/packet/af_packet.c:packet_snd(),
   include/linux/virtio_net.h:__virtio_net_hdr_to_skb()), or NULL. Refuses also
   what only newer kernels refuse. Accepts a UDP super-frame with too many
   segments: the limit depends on the kernel, which then refuses the frame. */
static const char *
check_offload(const struct offload_header *h, size_t length)
{
    struct gso_kind kind = kind_of(h->gso_type);

    if (h->header_length > length) {
        return "its header_length is more than its length";
    }
    if (kind.network == 0) {
        return "its gso_type is unknown";
    }
    if (h->gso_type != GSO_NONE
        && (h->gso_size == 0 || h->gso_size == NO_GSO_SIZE)) {
        return "its gso_size is not 1 to 65,534";
    }
    if (h->flags & VNET_NEEDS_CSUM) {
        return check_checksum(h, length, &kind);
    }
    if (h->gso_type == GSO_UDP_L4) {
        return "a UDP super-frame must have VNET_NEEDS_CSUM";
    }
    if (h->gso_type != GSO_NONE && length < kind.network + kind.transport) {
        return "it is too short for its gso_type";
    }
    return NULL;
}

/* ---- Reading a frame ---------------------------------------------------- */

/* The functions below read a frame from the outside in. Each finds the next
   header before offset `end`, which is never beyond the frame, or returns why
   it cannot. */

static const char too_short[] = "it is too short for its headers";

/* Finds the IP header, behind the Ethernet header and any VLAN tags. */
static const char *
read_ethernet(struct super_frame *f, const unsigned char *frame, size_t end,
              uint16_t *protocol)
{
    int tags;

    f->network = ETH_HLEN;
    if (end < f->network) {
        return too_short;
    }
    *protocol = load_be16(frame + f->network - 2);
    for (tags = 0; *protocol == ETH_P_8021Q || *protocol == ETH_P_8021AD;
         tags++) {
        if (tags == MAX_TAGS) {
            return "it has too many VLAN tags";
        }
        if (end - f->network < TAG_SIZE) {
            return too_short;
        }
        f->network += TAG_SIZE;
        *protocol = load_be16(frame + f->network - 2);
    }
    return NULL;
}

/* Moves *end to the end of the datagram, before any padding. An IP length of 0
   stands for more than 64 KiB (BIG TCP), and such a frame has no padding. */
static const char *
trim(size_t start, uint16_t ip_length, size_t *end)
{
    if (ip_length > *end - start) {
        return "its IP header gives a length beyond its end";
    }
    if (ip_length > 0) {
        *end = start + ip_length;
    }
    return NULL;
}

static const char *
read_ipv4(struct super_frame *f, const unsigned char *frame, size_t *end,
          uint8_t *protocol)
{
    const unsigned char *ip = frame + f->network;
    uint8_t first;
    size_t size;
    const char *reason;

    if (*end - f->network < IPV4_HEADER) {
        return too_short;
    }
    first = load_byte(ip);
    size = (size_t)(first & 0x0f) * 4;
    if (first >> 4 != 4 || size < IPV4_HEADER) {
        return "its IPv4 header is malformed";
    }
    reason = trim(f->network, load_be16(ip + 2), end);
    if (reason != NULL) {
        return reason;
    }
    if (size > *end - f->network) {
        return too_short;
    }
    f->id = load_be16(ip + 4);
    *protocol = load_byte(ip + 9);
    f->transport = f->network + size;
    return NULL;
}

/* BIG TCP: whether this Hop-by-Hop header has the jumbo payload option and
   nothing else. The kernel removes it from each segment
   (include/net/ipv6.h:ipv6_hopopt_jumbo_remove()). */
static bool
is_jumbo_header(const unsigned char *header)
{
    const unsigned char lone_jumbo[] = {0, 0xc2, 4};

    return memcmp(header + 1, lone_jumbo, sizeof(lone_jumbo)) == 0;
}

/* Whether it is one of the extension headers that the kernel allows in a
   super-frame: Hop-by-Hop, Routing, Destination
   (net/ipv6/exthdrs_offload.c). */
static bool
is_extension(uint8_t next)
{
    return next == 0 || next == 43 || next == 60;
}

static const char *
read_extensions(struct super_frame *f, const unsigned char *frame, size_t end,
                uint8_t *next)
{
    const unsigned char *header;
    size_t size;

    while (is_extension(*next)) {
        if (end - f->transport < 8) {
            return too_short;
        }
        header = frame + f->transport;
        size = (size_t)(load_byte(header + 1) + 1) * 8;
        if (size > end - f->transport) {
            return too_short;
        }
        *next = load_byte(header);
        f->transport += size;
    }
    return NULL;
}

static const char *
read_ipv6(struct super_frame *f, const unsigned char *frame, size_t *end,
          uint8_t *next)
{
    const unsigned char *ip = frame + f->network;
    uint16_t ip_length;
    const char *reason;

    if (*end - f->network < IPV6_HEADER) {
        return too_short;
    }
    if (load_byte(ip) >> 4 != 6) {
        return "its IPv6 header is malformed";
    }
    f->ipv6 = true;
    f->transport = f->network + IPV6_HEADER;
    ip_length = load_be16(ip + 4);
    reason = trim(f->transport, ip_length, end);
    if (reason != NULL) {
        return reason;
    }
    *next = load_byte(ip + 6);
    if (ip_length == 0 && *next == 0 && *end - f->transport >= JUMBO_HEADER
        && is_jumbo_header(frame + f->transport)) {
        f->next_header = load_byte(frame + f->transport);
        *next = f->next_header;
        f->removed = JUMBO_HEADER;
        f->transport += JUMBO_HEADER;
    }
    return read_extensions(f, frame, *end, next);
}

static const char *
read_network(struct super_frame *f, const unsigned char *frame, size_t *end,
             uint8_t *protocol)
{
    uint16_t ethertype;
    const char *reason = read_ethernet(f, frame, *end, &ethertype);

    if (reason != NULL) {
        return reason;
    }
    switch (ethertype) {
    case ETH_P_IP:
        return read_ipv4(f, frame, end, protocol);
    case ETH_P_IPV6:
        return read_ipv6(f, frame, end, protocol);
    default:
        return "it is neither IPv4 nor IPv6";
    }
}

/* ---- SCTP --------------------------------------------------------------- */

/* SCTP has a CRC32c of the packet (RFC 9260, 6.8) where TCP and UDP have the
   Internet checksum. The kernel can leave both to the device
   (net/sctp/output.c:sctp_packet_pack()). Which one is missing is noted in the
   sk_buff (csum_not_inet) but not in the offload header, so we have to look at
   the protocol. We need not look into tunnels: their devices do not have
   NETIF_F_SCTP_CRC, so the kernel completes the CRC before. */

/* Entry i of a table of 256, given entries 1, 2, 4 ... 128 as a..h. A CRC is
   linear, so every other entry is a sum (xor) of some of these. */
#define CRC_ENTRY(i, a, b, c, d, e, f, g, h)                             \
    (((i) & 1 ? (a) : 0) ^ ((i) & 2 ? (b) : 0) ^ ((i) & 4 ? (c) : 0)     \
     ^ ((i) & 8 ? (d) : 0) ^ ((i) & 16 ? (e) : 0) ^ ((i) & 32 ? (f) : 0) \
     ^ ((i) & 64 ? (g) : 0) ^ ((i) & 128 ? (h) : 0))
#define CRC_4(i, ...)                                             \
    CRC_ENTRY((i), __VA_ARGS__), CRC_ENTRY((i) + 1, __VA_ARGS__), \
        CRC_ENTRY((i) + 2, __VA_ARGS__), CRC_ENTRY((i) + 3, __VA_ARGS__)
#define CRC_16(i, ...)                                    \
    CRC_4((i), __VA_ARGS__), CRC_4((i) + 4, __VA_ARGS__), \
        CRC_4((i) + 8, __VA_ARGS__), CRC_4((i) + 12, __VA_ARGS__)
#define CRC_64(i, ...)                                       \
    CRC_16((i), __VA_ARGS__), CRC_16((i) + 16, __VA_ARGS__), \
        CRC_16((i) + 32, __VA_ARGS__), CRC_16((i) + 48, __VA_ARGS__)
#define CRC_256(i, ...)                                      \
    CRC_64((i), __VA_ARGS__), CRC_64((i) + 64, __VA_ARGS__), \
        CRC_64((i) + 128, __VA_ARGS__), CRC_64((i) + 192, __VA_ARGS__)

/* crc_tables[i][x] is the CRC32c of 8 bytes, of which byte i is x and all
   others are 0; it starts from 0 and is not inverted. */
static const uint32_t crc_tables[8][256] = {
    {CRC_256(0, 0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da, 0x847609b4,
             0x0d006599, 0x1a00cb32, 0x34019664)},
    {CRC_256(0, 0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53, 0x9c5bfaa6,
             0x3d5b83bd, 0x7ab7077a, 0xf56e0ef4)},
    {CRC_256(0, 0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f, 0xc00c303e,
             0x85f4168d, 0x0e045beb, 0x1c08b7d6)},
    {CRC_256(0, 0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91, 0x8f2261d3,
             0x1ba8b557, 0x37516aae, 0x6ea2d55c)},
    {CRC_256(0, 0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6, 0xe964b13d,
             0xd725148b, 0xaba65fe7, 0x52a0c93f)},
    {CRC_256(0, 0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5, 0x70a27d8a,
             0xe144fb14, 0xc76580d9, 0x8b277743)},
    {CRC_256(0, 0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8, 0x3fc5f181,
             0x7f8be302, 0xff17c604, 0xfbc3faf9)},
    {CRC_256(0, 0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf, 0x105ec76f,
             0x20bd8ede, 0x417b1dbc, 0x82f63b78)},
};

static uint32_t
update_crc32c(uint32_t crc, const unsigned char *p, size_t n)
{
    uint64_t word;

    for (; n >= sizeof(word); p += sizeof(word), n -= sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        word = le64toh(word) ^ crc;
        crc = crc_tables[0][word & 0xff] ^ crc_tables[1][word >> 8 & 0xff]
              ^ crc_tables[2][word >> 16 & 0xff]
              ^ crc_tables[3][word >> 24 & 0xff]
              ^ crc_tables[4][word >> 32 & 0xff]
              ^ crc_tables[5][word >> 40 & 0xff]
              ^ crc_tables[6][word >> 48 & 0xff] ^ crc_tables[7][word >> 56];
    }
    for (; n > 0; p++, n--) {
        crc = crc >> 8 ^ crc_tables[7][(crc ^ *p) & 0xff];
    }
    return crc;
}

/* Whether the missing checksum is that of an SCTP packet. Then *end is where
   the packet ends: padding behind it must not count in a CRC. The header's
   checksum_offset rules out almost every other frame at once. */
static bool
leaves_sctp_open(const struct offload_header *h, const unsigned char *frame,
                 size_t length, size_t *end)
{
    struct super_frame f = {0};
    uint8_t protocol = 0;

    if (!(h->flags & VNET_NEEDS_CSUM) || h->checksum_offset != SCTP_CHECKSUM) {
        return false;
    }
    *end = length;
    return read_network(&f, frame, end, &protocol) == NULL && protocol == SCTP
           && f.transport == h->checksum_start;
}

/* Completes the CRC32c of the packet from `start` to `end`, as
   net/core/dev.c:skb_crc32c_csum_help() does; start <= end. */
static const char *
finish_sctp(unsigned char *frame, size_t start, size_t end)
{
    unsigned char *checksum = frame + start + SCTP_CHECKSUM;
    uint32_t crc = 0;

    if (end - start < SCTP_HEADER) {
        return checksum_beyond;
    }
    memcpy(checksum, &crc, sizeof(crc));
    crc = htole32(~update_crc32c(UINT32_MAX, frame + start, end - start));
    memcpy(checksum, &crc, sizeof(crc));
    return NULL;
}

/* Completes the checksum if the header says that it is missing, and clears
   that flag in *h. */
static const char *
complete_checksum(struct offload_header *h, unsigned char *frame,
                  size_t length)
{
    const char *reason = check_offload(h, length);
    size_t end;

    if (reason == NULL && h->gso_type != GSO_NONE) {
        reason = "a super-frame has no checksum of its own";
    }
    if (reason != NULL || !(h->flags & VNET_NEEDS_CSUM)) {
        return reason;
    }
    if (!leaves_sctp_open(h, frame, length, &end)) {
        finish_checksum(frame, length, h->checksum_start, h->checksum_offset);
    }
    else {
        reason = finish_sctp(frame, h->checksum_start, end);
    }
    if (reason == NULL) {
        h->flags &= (uint8_t)~VNET_NEEDS_CSUM;
    }
    return reason;
}

/* ---- Segments ----------------------------------------------------------- */

static const char *
read_transport(struct super_frame *f, const unsigned char *frame, size_t end)
{
    const unsigned char *header = frame + f->transport;
    size_t size = f->udp ? UDP_HEADER : TCP_HEADER;

    if (end - f->transport < size) {
        return too_short;
    }
    if (!f->udp) {
        f->sequence = load_be32(header + TCP_SEQUENCE);
        f->tcp_flags = load_byte(header + TCP_FLAGS);
        size = (size_t)(load_byte(header + TCP_SIZE) >> 4) * 4;
        if (size < TCP_HEADER) {
            return "its TCP header is malformed";
        }
        if (end - f->transport < size) {
            return too_short;
        }
    }
    f->payload = f->transport + size;
    f->payload_length = end - f->payload;
    return NULL;
}

/* Finds the sum that the checksum of every segment starts from: that of the
   pseudo-header without its length field, because lengths differ.

   The pseudo-header cannot always be made from the IP header: with a source
   route, the destination address there is only the next router's, and every
   receiver would drop segments with a checksum made from it. But a sender that
   left the checksum to the device has stored the pseudo-header's sum in the
   checksum field, with the length of the whole super-frame. So we take that
   and subtract the length, as the kernel does
   (net/ipv4/tcp_offload.c:tcp_gso_segment(),
   net/ipv4/udp_offload.c:__udp_gso_segment()).

   What remains: a TCP super-frame whose checksum is not missing has no such
   sum in the field. For it we use the addresses of the IP header, so with a
   source route its segments have wrong checksums. (For UDP the kernel requires
   the missing checksum.) */
static void
read_seed(struct super_frame *f, const unsigned char *frame, size_t end)
{
    const unsigned char *ip = frame + f->network;
    const unsigned char *header = frame + f->transport;
    uint64_t sum, all;

    if (f->needs_checksum) {
        sum = sum_bytes(header + f->checksum_offset, sizeof(uint16_t));
        all = f->udp ? load_be16(header + UDP_LENGTH) : end - f->transport;
        sum += (uint16_t)~fold(htonl((uint32_t)all));
    }
    else {
        sum = f->ipv6 ? sum_bytes(ip + 8, 32) : sum_bytes(ip + 12, 8);
        sum += htons(TCP);
    }
    f->seed = fold(sum);
}

static const char *
check_kind(const struct super_frame *f, const struct offload_header *h,
           uint8_t protocol)
{
    bool v6 = (h->gso_type & ~GSO_ECN) == GSO_TCPV6;

    if (protocol != (f->udp ? UDP : TCP) || (!f->udp && f->ipv6 != v6)) {
        return "its gso_type does not match its protocol";
    }
    if (f->needs_checksum && f->checksum_start != f->transport) {
        return "its checksum does not start at its outer transport header "
               "(a tunnel cannot be segmented)";
    }
    return NULL;
}

/* Decides into how many segments the frame is cut. One whose payload fits into
   a single segment stays as it is, as in
   include/linux/virtio_net.h:__virtio_net_hdr_to_skb(). */
static const char *
count_segments(struct super_frame *f)
{
    size_t headers = f->payload - f->removed - f->network;
    size_t count = (f->payload_length + f->gso_size - 1) / f->gso_size;

    if (count > MAX_SEGMENTS) {
        return "it has more than 65,535 segments";
    }
    if (count > 1
        && headers - (f->ipv6 ? IPV6_HEADER : 0) + f->gso_size > UINT16_MAX) {
        return "its segments are too long for IP";
    }
    f->segment_count = count > 1 ? (uint32_t)count : 1;
    return NULL;
}

/* Fills *f from the frame and its header. */
static const char *
read_super_frame(struct super_frame *f, const struct offload_header *h,
                 const unsigned char *frame, size_t length)
{
    const char *reason = check_offload(h, length);
    uint8_t protocol = 0;
    size_t end = length;

    if (reason != NULL) {
        return reason;
    }
    if (h->gso_type == GSO_NONE) {
        return "it is not a super-frame";
    }
    *f = (struct super_frame){
        .length = length,
        .gso_size = h->gso_size,
        .checksum_start = h->checksum_start,
        .checksum_offset = h->checksum_offset,
        .needs_checksum = h->flags & VNET_NEEDS_CSUM,
        .udp = h->gso_type == GSO_UDP_L4,
    };
    reason = read_network(f, frame, &end, &protocol);
    if (reason == NULL) {
        reason = check_kind(f, h, protocol);
    }
    if (reason == NULL) {
        reason = read_transport(f, frame, end);
    }
    if (reason != NULL) {
        return reason;
    }
    read_seed(f, frame, end);
    return count_segments(f);
}

/* The bytes of payload in segment i < f->segment_count. */
static size_t
payload_of(const struct super_frame *f, uint32_t i)
{
    size_t left = f->payload_length - i * f->gso_size;

    return left < f->gso_size ? left : f->gso_size;
}

/* The bytes of segment i < f->segment_count. */
static size_t
segment_length(const struct super_frame *f, uint32_t i)
{
    if (f->segment_count == 1) {
        return f->length;
    }
    return f->payload - f->removed + payload_of(f, i);
}

/* Completes the IP header of segment i, which with its payload has `size`
   bytes, as net/ipv4/af_inet.c:inet_gso_segment() and
   net/ipv6/ip6_offload.c:ipv6_gso_segment() do. */
static void
fix_network(const struct super_frame *f, unsigned char *ip, uint32_t i,
            size_t size)
{
    if (f->ipv6) {
        store_be16(ip + 4, (uint16_t)(size - IPV6_HEADER));
        if (f->removed > 0) {
            ip[6] = f->next_header;
        }
        return;
    }
    store_be16(ip + 2, (uint16_t)size);
    store_be16(ip + 4, (uint16_t)(f->id + i));
    store_be16(ip + 10, 0);
    store_checksum(ip + 10, sum_bytes(ip, f->transport - f->network), false);
}

/* The same for its TCP or UDP header, as
   net/ipv4/tcp_offload.c:tcp_gso_segment() and
   net/ipv4/udp_offload.c:__udp_gso_segment() do. */
static void
fix_transport(const struct super_frame *f, unsigned char *header, uint32_t i,
              size_t size)
{
    unsigned char *checksum = header + (f->udp ? UDP_CHECKSUM : TCP_CHECKSUM);
    uint8_t flags = f->tcp_flags;

    if (f->udp) {
        store_be16(header + UDP_LENGTH, (uint16_t)size);
    }
    else {
        if (i + 1 < f->segment_count) {
            flags &= (uint8_t)~(TCP_FIN | TCP_PSH);
        }
        if (i > 0) {
            flags &= (uint8_t)~TCP_CWR;
        }
        header[TCP_FLAGS] = flags;
        store_be32(header + TCP_SEQUENCE,
                   f->sequence + i * (uint32_t)f->gso_size);
    }
    store_be16(checksum, 0);
    store_checksum(checksum,
                   f->seed + htons((uint16_t)size) + sum_bytes(header, size),
                   f->udp);
}

/* Writes segment i < f->segment_count to `out`, which has room for its
   segment_length() bytes and does not overlap the frame. */
static void
write_segment(const struct super_frame *f, const unsigned char *frame,
              uint32_t i, unsigned char *out)
{
    size_t kept = f->network + IPV6_HEADER;
    size_t headers = f->payload - f->removed;
    size_t transport = f->transport - f->removed;
    size_t length = segment_length(f, i);

    if (f->segment_count == 1) {
        memcpy(out, frame, length);
        if (f->needs_checksum) {
            finish_checksum(out, length, f->checksum_start,
                            f->checksum_offset);
        }
        return;
    }
    if (f->removed > 0) {
        memcpy(out, frame, kept);
        memcpy(out + kept, frame + kept + f->removed, headers - kept);
    }
    else {
        memcpy(out, frame, headers);
    }
    memcpy(out + headers, frame + f->payload + i * f->gso_size,
           length - headers);
    fix_network(f, out + f->network, i, length - f->network);
    fix_transport(f, out + transport, i, length - transport);
}

/* ---- From scratch ------------------------------------------------------- */

/* The functions below compute or verify the checksums of the outer headers,
   whatever the offload header says about them. */

/* What is_ip(), read_ip() and read_checksum() have read of a frame, and have
   checked. A local of one call. */
struct packet {
    struct super_frame f; /* offsets of the headers */
    size_t end;           /* of the bytes that the transport checksum covers */
    size_t checksum;      /* offset of the transport checksum, or 0 */
    size_t destination;   /* offset of the address in the pseudo-header, or 0;
                             both are 0 in a packet without such a part */
    uint8_t protocol;
};

/* Where the checksum of a protocol is. */
struct place {
    size_t header; /* the bytes that every header has; 0: no such checksum */
    size_t offset;
};

static struct place
place_of(uint8_t protocol, bool ipv6)
{
    switch (protocol) {
    case TCP:
        return (struct place){TCP_HEADER, TCP_CHECKSUM};
    case UDP:
        return (struct place){UDP_HEADER, UDP_CHECKSUM};
    case SCTP:
        return (struct place){SCTP_HEADER, SCTP_CHECKSUM};
    default:
        return protocol == (ipv6 ? ICMPV6 : ICMP)
                   ? (struct place){ICMP_HEADER, ICMP_CHECKSUM}
                   : (struct place){0, 0};
    }
}

/* Returns the offset of the destination in the pseudo-header: of the last
   address of a source route that is not used up (RFC 791, 3.1), otherwise of
   that in the IP header. Options that are malformed are ignored, as in
   tcpdump's print-ip.c:ip_finddst(). */
static size_t
find_ipv4_destination(const struct packet *p, const unsigned char *frame)
{
    enum {
        END = 0,
        NOP = 1,
        LOOSE_ROUTE = 131,
        STRICT_ROUTE = 137
    };
    size_t at = p->f.network + IPV4_HEADER, size;
    uint8_t type;

    for (; p->f.transport - at >= 3; at += size) {
        type = load_byte(frame + at);
        size = type == NOP ? 1 : load_byte(frame + at + 1);
        if (type == END || (type != NOP && size < 2)
            || size > p->f.transport - at) {
            break;
        }
        if ((type == LOOSE_ROUTE || type == STRICT_ROUTE) && size >= 7
            && load_byte(frame + at + 2) <= size) {
            return at + size - 4;
        }
    }
    return p->f.network + 16;
}

/* Returns where in a routing header of `size` bytes the last address of the
   route is, or 0 if that is not known. Types 0 and 2 end with it (RFC 2460,
   4.4; RFC 6275, 6.4). Type 4 begins with it (RFC 8754, 2). */
static size_t
find_last_address(uint8_t type, size_t size)
{
    const size_t fixed = 8;

    if (size < fixed + IPV6_ADDRESS) {
        return 0;
    }
    if (type == 4) {
        return fixed;
    }
    return (type == 0 || type == 2) && size % IPV6_ADDRESS == fixed
               ? size - IPV6_ADDRESS
               : 0;
}

/* The same as find_ipv4_destination() (RFC 8200, 8.1), but returns 0 if the
   destination is not known. */
static size_t
find_ipv6_destination(const struct packet *p, const unsigned char *frame)
{
    size_t at = p->f.network + IPV6_HEADER, size, found;
    size_t destination = at - IPV6_ADDRESS;
    uint8_t next = load_byte(frame + p->f.network + 6);

    /* read_extensions() has seen that these headers fill the bytes before the
       transport header, but somebody may have changed them since. */
    for (; p->f.transport - at >= 8; at += size) {
        size = (size_t)(load_byte(frame + at + 1) + 1) * 8;
        if (size > p->f.transport - at) {
            return 0;
        }
        if (next == IPV6_ROUTING && load_byte(frame + at + 3) > 0) {
            found = find_last_address(load_byte(frame + at + 2), size);
            if (found == 0) {
                return 0;
            }
            destination = at + found;
        }
        next = load_byte(frame + at);
    }
    return destination;
}

/* Whether it is a frame of IP. Tags may precede it, as many as the kernel
   skips. */
static bool
is_ip(struct packet *p, const unsigned char *frame, size_t length)
{
    uint16_t ethertype;

    /* The rest is set before it is read. To zero all of it for each frame would
       take as long as the sums of a short one. */
    p->end = length;
    p->checksum = 0;
    p->destination = 0;
    if (read_ethernet(&p->f, frame, length, &ethertype) != NULL) {
        return false;
    }
    p->f.ipv6 = ethertype == ETH_P_IPV6;
    return p->f.ipv6 || ethertype == ETH_P_IP;
}

/* Whoever makes frames may forget to write it. (In a frame of more than 64 KiB
   it is right: see trim().) */
static const char no_length[] = "its IP header gives a length of 0";

static const char *
read_ip(struct packet *p, const unsigned char *frame)
{
    const unsigned char *ip = frame + p->f.network;
    const char *reason;

    if (p->f.ipv6) {
        return read_ipv6(&p->f, frame, &p->end, &p->protocol);
    }
    reason = read_ipv4(&p->f, frame, &p->end, &p->protocol);
    if (reason == NULL && p->end - p->f.network <= UINT16_MAX
        && load_be16(ip + 2) == 0) {
        return no_length;
    }
    return reason;
}

/* Finds the transport checksum. A fragment has none, because others have the
   rest of the bytes that it covers. */
static const char *
read_checksum(struct packet *p, const unsigned char *frame)
{
    struct place place = place_of(p->protocol, p->f.ipv6);
    size_t size = p->end - p->f.transport;
    uint16_t udp_length;

    if (place.header == 0
        || (!p->f.ipv6
            && load_be16(frame + p->f.network + IPV4_FRAGMENT) & IPV4_PART)) {
        return NULL;
    }
    if (p->f.ipv6 && p->end - p->f.network - IPV6_HEADER <= UINT16_MAX
        && load_be16(frame + p->f.network + 4) == 0) {
        return no_length;
    }
    if (size < place.header) {
        return too_short;
    }
    if (p->protocol == UDP) {
        udp_length = load_be16(frame + p->f.transport + UDP_LENGTH);
        if (udp_length < UDP_HEADER || udp_length > size) {
            return "its UDP header gives a length that its packet does not "
                   "have";
        }
        p->end = p->f.transport + udp_length;
    }
    if (p->protocol != ICMP && p->protocol != SCTP) {
        p->destination = p->f.ipv6 ? find_ipv6_destination(p, frame)
                                   : find_ipv4_destination(p, frame);
        if (p->destination == 0) {
            return "the final destination, which its checksum covers, cannot "
                   "be read from its source route";
        }
    }
    p->checksum = p->f.transport + place.offset;
    return NULL;
}

static uint32_t
load_word(const unsigned char *p)
{
    uint32_t word;

    memcpy(&word, p, sizeof(word));
    return word;
}

static uint64_t
sum_pseudo_header(const struct packet *p, const unsigned char *frame)
{
    const unsigned char *source = frame + p->f.network + (p->f.ipv6 ? 8 : 12);
    const unsigned char *destination = frame + p->destination;
    size_t size = p->f.ipv6 ? IPV6_ADDRESS : 4, i;
    uint64_t sum = htons(p->protocol);

    if (p->destination == 0) {
        return 0;
    }
    for (i = 0; i < size; i += 4) {
        sum += load_word(source + i);
        sum += load_word(destination + i);
    }
    return sum + htonl((uint32_t)(p->end - p->f.transport));
}

/* Stores the Internet checksum of bytes that include the field itself. */
static void
compute_checksum(unsigned char *field, uint64_t sum, bool mangle)
{
    uint16_t old;

    /* Adding the inverse takes the old value out. Storing 0 before the sum is
       taken would be slower: a load of more bytes than a store before it has
       written waits for that store. */
    memcpy(&old, field, sizeof(old));
    store_checksum(field, sum + (uint16_t)~old, mangle);
}

static void
compute_transport(const struct packet *p, unsigned char *frame)
{
    unsigned char *header = frame + p->f.transport;
    unsigned char *field = frame + p->checksum;
    size_t size = p->end - p->f.transport;

    switch (p->protocol) {
    case SCTP:
        /* Cannot fail: read_checksum() has seen the whole header. */
        (void)finish_sctp(frame, p->f.transport, p->end);
        return;
    case ICMP:
        /* A message may have zeroes alone, and 0 has no inverse that takes it
           out: see compute_checksum(). */
        store_be16(field, 0);
        store_checksum(field, sum_bytes(header, size), false);
        return;
    default:
        compute_checksum(field,
                         sum_pseudo_header(p, frame) + sum_bytes(header, size),
                         p->protocol == UDP);
    }
}

/* Does what the offload header asks for, and what compute_transport() does not
   do. */
static const char *
apply_header(struct packet *p, struct offload_header *h, unsigned char *frame,
             size_t length)
{
    const char *reason;

    if (h->gso_type != GSO_NONE) {
        p->f.checksum_start = h->checksum_start;
        p->f.needs_checksum = h->flags & VNET_NEEDS_CSUM;
        p->f.udp = h->gso_type == GSO_UDP_L4;
        reason = check_offload(h, length);
        return reason != NULL ? reason : check_kind(&p->f, h, p->protocol);
    }
    if ((h->flags & VNET_NEEDS_CSUM)
        && (h->checksum_start != p->f.transport
            || p->f.transport + h->checksum_offset != p->checksum)) {
        return complete_checksum(h, frame, length);
    }
    return NULL;
}

/* Computes the checksums of a packet of IP, and returns NULL or why it cannot.
   Sets *found to false if the frame is not a frame of IP. Clears
   VNET_NEEDS_CSUM in *h, and CHECKSUM_NOT_READY in *flags, if it has computed
   what was missing. */
static const char *
compute_checksums(struct offload_header *h, uint16_t *flags,
                  unsigned char *frame, size_t length, bool *found)
{
    struct packet p;
    const char *reason;
    unsigned char *ip;
    uint16_t seed;
    bool open = h->flags & VNET_NEEDS_CSUM;
    bool whole = h->gso_type == GSO_NONE;

    *found = is_ip(&p, frame, length);
    if (!*found) {
        return NULL;
    }
    reason = read_ip(&p, frame);
    if (reason == NULL) {
        reason = read_checksum(&p, frame);
    }
    if (reason == NULL && (open || !whole)) {
        reason = apply_header(&p, h, frame, length);
    }
    if (reason != NULL) {
        return reason;
    }
    if (!p.f.ipv6) {
        ip = frame + p.f.network;
        compute_checksum(ip + 10, sum_bytes(ip, p.f.transport - p.f.network),
                         false);
    }
    if (p.checksum > 0 && whole) {
        compute_transport(&p, frame);
    }
    else if (p.checksum > 0 && open) {
        /* What a device starts from; see read_seed(). */
        seed = fold(sum_pseudo_header(&p, frame));
        memcpy(frame + p.checksum, &seed, sizeof(seed));
    }
    if (whole && (p.checksum > 0 || open)) {
        h->flags &= (uint8_t)~VNET_NEEDS_CSUM;
        *flags &= (uint16_t)~CHECKSUM_NOT_READY;
    }
    return NULL;
}

/* Whether the transport checksum is right; it has one. */
static bool
is_right_transport(const struct packet *p, const unsigned char *frame)
{
    const unsigned char *header = frame + p->f.transport;
    size_t size = p->end - p->f.transport;
    const unsigned char zeros[4] = {0};
    uint32_t stored, crc = UINT32_MAX;

    if (p->protocol != SCTP) {
        return fold(sum_pseudo_header(p, frame) + sum_bytes(header, size))
               == UINT16_MAX;
    }
    memcpy(&stored, header + SCTP_CHECKSUM, sizeof(stored));
    crc = update_crc32c(crc, header, SCTP_CHECKSUM);
    crc = update_crc32c(crc, zeros, sizeof(zeros));
    crc = update_crc32c(crc, header + SCTP_HEADER, size - SCTP_HEADER);
    return stored == htole32(~crc);
}

/* `missing`: the transport checksum is still to be computed. `whole`: the frame
   is not a super-frame, and so can have a checksum of its own. */
static enum checksum_status
verify_checksums(const unsigned char *frame, size_t length, bool missing,
                 bool whole)
{
    struct packet p;
    const unsigned char *ip;
    bool readable = is_ip(&p, frame, length) && read_ip(&p, frame) == NULL;

    if (readable && !p.f.ipv6) {
        ip = frame + p.f.network;
        if (fold(sum_bytes(ip, p.f.transport - p.f.network)) != UINT16_MAX) {
            return CHECKSUM_BAD;
        }
    }
    if (missing) {
        return CHECKSUM_PENDING;
    }
    if (!readable || !whole || read_checksum(&p, frame) != NULL
        || p.checksum == 0
        || (p.protocol == UDP && load_be16(frame + p.checksum) == 0)) {
        return CHECKSUM_NONE;
    }
    return is_right_transport(&p, frame) ? CHECKSUM_GOOD : CHECKSUM_BAD;
}

/* ---- Tables of frames --------------------------------------------------- */

static const char beyond_frame[] = "its length is more than the frame "
                                   "holds";
static const char beyond_target[] =
    "it does not fit into the next frame of the target";

static size_t
room_of(const struct frame_table *t, size_t i)
{
    return t->parts[2 * i + 1].iov_len;
}

static unsigned char *
frame_of(const struct frame_table *t, size_t i)
{
    return t->parts[2 * i + 1].iov_base;
}

/* Returns the offload header of frame i, each byte of which is read once. */
static inline struct offload_header
load_header(const struct frame_table *t, size_t i)
{
    const volatile unaligned_32 *words;
    struct offload_header h = {0};
    uint32_t copy[sizeof(h) / sizeof(*words)];

    if (t->headers != NULL) {
        words = (const volatile unaligned_32 *)&t->headers[i];
        copy[0] = words[0];
        copy[1] = words[1];
        copy[2] = words[2];
        memcpy(&h, copy, sizeof(h));
    }
    return h;
}

/* Reads the length and header of frame i once. Returns false if user code has
   written a length that is beyond the frame. */
static inline bool
load_frame(const struct frame_table *t, size_t i, size_t *length,
           struct offload_header *h)
{
    *length = atomic_load_explicit(&t->lengths[i], memory_order_relaxed);
    *h = load_header(t, i);
    return *length <= room_of(t, i);
}

/* Completes the checksum of frame i. Its length and header have been read. */
static const char *
complete_frame(const struct frame_table *t, size_t i, size_t length,
               struct offload_header *h)
{
    const char *reason = complete_checksum(h, frame_of(t, i), length);

    if (reason == NULL) {
        __atomic_store_n(&t->headers[i].flags, h->flags, __ATOMIC_RELAXED);
        t->flags[i] &= (uint16_t)~CHECKSUM_NOT_READY;
    }
    return reason;
}

size_t
complete_frames(const struct frame_table *t, size_t *at, const char **reason)
{
    size_t done = 0, length, i;
    struct offload_header h;

    for (i = 0; i < t->count; i++) {
        *at = i;
        if (!load_frame(t, i, &length, &h)) {
            *reason = beyond_frame;
            return done;
        }
        if (h.gso_type != GSO_NONE || !(h.flags & VNET_NEEDS_CSUM)) {
            continue;
        }
        *reason = complete_frame(t, i, length, &h);
        if (*reason != NULL) {
            return done;
        }
        done++;
    }
    return done;
}

size_t
compute_frames(const struct frame_table *t, size_t *at, const char **reason)
{
    size_t done = 0, length, i;
    struct offload_header h;
    uint8_t before;
    bool found;

    for (i = 0; i < t->count; i++) {
        *at = i;
        if (!load_frame(t, i, &length, &h)) {
            *reason = beyond_frame;
            return done;
        }
        before = h.flags;
        *reason = compute_checksums(&h, &t->flags[i], frame_of(t, i), length,
                                    &found);
        if (*reason != NULL) {
            return done;
        }
        if (h.flags != before) {
            __atomic_store_n(&t->headers[i].flags, h.flags, __ATOMIC_RELAXED);
        }
        done += found;
    }
    return done;
}

void
verify_frames(const struct frame_table *t, uint8_t *statuses, size_t *at,
              const char **reason)
{
    struct offload_header h;
    size_t length, i;
    bool missing;

    for (i = 0; i < t->count; i++) {
        *at = i;
        if (!load_frame(t, i, &length, &h)) {
            *reason = beyond_frame;
            return;
        }
        missing = (h.flags & VNET_NEEDS_CSUM)
                  || (t->flags != NULL && (t->flags[i] & CHECKSUM_NOT_READY));
        statuses[i] = (uint8_t)verify_checksums(
            frame_of(t, i), length, missing, h.gso_type == GSO_NONE);
    }
}

size_t
check_frames(const struct frame_table *t, size_t start, const char **reason)
{
    struct offload_header h;
    size_t i, length, sctp_end;

    for (i = start; i < t->count; i++) {
        h = load_header(t, i);
        length = room_of(t, i);
        *reason = check_offload(&h, length);
        if (*reason == NULL
            && leaves_sctp_open(&h, frame_of(t, i), length, &sctp_end)) {
            *reason = complete_frame(t, i, length, &h);
        }
        if (*reason != NULL) {
            break;
        }
    }
    return i - start;
}

/* Takes the next frame of the target and stores its length. Returns the frame,
   or NULL with the reason set if `length` bytes do not fit. */
static unsigned char *
next_target(struct segmentation *g, size_t length)
{
    if (length > room_of(&g->to, g->written)) {
        g->reason = beyond_target;
        return NULL;
    }
    atomic_store_explicit(&g->to.lengths[g->written], (uint32_t)length,
                          memory_order_relaxed);
    return frame_of(&g->to, g->written++);
}

/* Copies a frame that is not a super-frame and completes its checksum. */
static void
copy_frame(struct segmentation *g, struct offload_header *h, size_t length)
{
    unsigned char *target;

    if (g->segment > 0) {
        g->reason = "it has no such segment";
        return;
    }
    target = next_target(g, length);
    if (target == NULL) {
        return;
    }
    memcpy(target, frame_of(&g->from, g->frame), length);
    if (h->flags & VNET_NEEDS_CSUM) {
        g->reason = complete_checksum(h, target, length);
        if (g->reason != NULL) {
            g->written--;
            return;
        }
    }
    g->frame++;
}

/* Writes segments of a super-frame, as many as the target has frames for. */
static void
cut_frame(struct segmentation *g, const struct offload_header *h,
          size_t length)
{
    const unsigned char *frame = frame_of(&g->from, g->frame);
    struct super_frame f;
    unsigned char *target;

    g->reason = read_super_frame(&f, h, frame, length);
    if (g->reason != NULL) {
        return;
    }
    if (g->segment >= f.segment_count) {
        g->reason = "it has no such segment";
        return;
    }
    while (g->segment < f.segment_count && g->written < g->to.count) {
        target = next_target(g, segment_length(&f, g->segment));
        if (target == NULL) {
            return;
        }
        write_segment(&f, frame, g->segment, target);
        g->segment++;
    }
    if (g->segment == f.segment_count) {
        g->segment = 0;
        g->frame++;
    }
}

void
segment_frames(struct segmentation *g)
{
    struct offload_header h;
    size_t length;

    while (g->reason == NULL && g->frame < g->from.count
           && g->written < g->to.count) {
        if (!load_frame(&g->from, g->frame, &length, &h)) {
            g->reason = beyond_frame;
        }
        else if (h.gso_type == GSO_NONE) {
            copy_frame(g, &h, length);
        }
        else {
            cut_frame(g, &h, length);
        }
    }
}

/* ---- Merging ------------------------------------------------------------ */

/* A frame is merged into a super-frame only if write_segment() would write
   exactly this frame, its checksums included: whoever receives a super-frame
   takes the checksums of all its segments for granted.

   The other rules are those of the kernel's GRO (net/core/gro.c,
   net/ipv4/af_inet.c:inet_gro_receive(), net/ipv6/ip6_offload.c,
   net/ipv4/tcp_offload.c:tcp_gro_receive(), net/ipv4/udp_offload.c). */

/* The most bytes of a super-frame. If it is longer, the kernel cuts it in
   software, even for a device that could: the usual gso_max_size is 65,536
   (net/core/dev.c:gso_features_check()). */
#define MAX_SUPER_FRAME 65535
/* The most tags of a super-frame. The kernel drops a longer one: it has to cut
   it in software, and there does not find the type of the IP header
   (include/linux/if_vlan.h:__vlan_get_protocol_offset()). */
#define MOST_GSO_TAGS (MAX_TAGS - 1)

enum {
    TCP_ACK_NUMBER = 8,
    TCP_WINDOW = 14,
    TCP_URGENT = 18,
    TCP_SYN = 0x02,
    TCP_RST = 0x04,
    TCP_URG = 0x20
};

/* A row of the target that can grow into a super-frame. Until close_flow(),
   its headers are those of its first frame. */
struct flow {
    unsigned char *frame; /* the memory of the row */
    size_t row;
    size_t length;  /* bytes in the row */
    size_t limit;   /* the most that it may have */
    size_t network; /* offsets, as in struct super_frame */
    size_t transport;
    size_t payload;
    size_t gso_size;        /* bytes of payload in each frame but the last */
    size_t count;           /* frames in the row */
    uint64_t network_sum;   /* of the IPv4 header without what differs */
    uint64_t transport_sum; /* of the TCP or UDP header without what differs */
    uint64_t pseudo_sum;    /* of the pseudo-header without its length */
    uint32_t sequence;      /* of the next frame (TCP) */
    uint16_t id;            /* of the first frame (IPv4) */
    uint8_t first_flags;    /* of TCP */
    uint8_t last_flags;
    bool ipv6;
    bool udp;
    bool may_repeat_id; /* all frames may have the same id (IPv4) ... */
    bool repeats_id;    /* ... and have, so far */
    bool is_ended;      /* the last frame must stay the last */
};

/* What differs between the frames of a flow. */
struct differing {
    uint64_t sum; /* of these fields in the TCP or UDP header */
    uint32_t sequence;
    uint16_t id;
    uint8_t flags; /* of TCP */
};

/* The flows that can grow. Their keys differ. */
struct open_flows {
    size_t count;
    size_t last;               /* the one that has grown or was opened last */
    uint64_t keys[MOST_FLOWS]; /* see read_key() */
    struct flow flows[];       /* as many as struct merging allows */
};

size_t
merging_memory(size_t flows)
{
    return sizeof(struct open_flows) + flows * sizeof(struct flow);
}

static inline __attribute__((always_inline)) bool
same_bytes(const unsigned char *a, const unsigned char *b, size_t n)
{
    uint64_t x, y, difference = 0;
    uint32_t s, t;

    for (; n >= sizeof(x); n -= sizeof(x)) {
        memcpy(&x, a, sizeof(x));
        memcpy(&y, b, sizeof(y));
        difference |= x ^ y;
        a += sizeof(x);
        b += sizeof(y);
    }
    if (n >= sizeof(s)) {
        memcpy(&s, a, sizeof(s));
        memcpy(&t, b, sizeof(t));
        difference |= s ^ t;
        a += sizeof(s);
        b += sizeof(t);
        n -= sizeof(s);
    }
    for (; n > 0; n--) {
        difference |= (uint64_t)(*a++ ^ *b++);
    }
    return difference == 0;
}

/* Copies n bytes and returns the sum of the copy, as sum_bytes() does. */
static inline uint64_t
copy_and_sum(unsigned char *to, const unsigned char *from, size_t n)
{
    word_pair all = {0, 0}, high = {0, 0}, a, b;
    uint64_t sum, word;
    uint32_t half;
    uint16_t pair;
    uint8_t last[2] = {0};

    /* Each round is so short that its time depends on where the compiler puts
       the loop, unless two of them are one. */
#pragma GCC unroll 2
    for (; n >= 2 * sizeof(a); n -= 2 * sizeof(a)) {
        memcpy(&a, from, sizeof(a));
        memcpy(&b, from + sizeof(a), sizeof(b));
        memcpy(to, &a, sizeof(a));
        memcpy(to + sizeof(a), &b, sizeof(b));
        all += a + b;
        high += (a >> 32) + (b >> 32);
        from += 2 * sizeof(a);
        to += 2 * sizeof(a);
    }
    all += high - (high << 32); /* as in sum_bytes() */
    sum = all[0] + all[1];
    for (; n >= sizeof(word); n -= sizeof(word)) {
        memcpy(&word, from, sizeof(word));
        memcpy(to, &word, sizeof(word));
        sum += (word & UINT32_MAX) + (word >> 32);
        from += sizeof(word);
        to += sizeof(word);
    }
    if (n >= sizeof(half)) {
        memcpy(&half, from, sizeof(half));
        memcpy(to, &half, sizeof(half));
        sum += half;
        from += sizeof(half);
        to += sizeof(half);
        n -= sizeof(half);
    }
    if (n >= sizeof(pair)) {
        memcpy(&pair, from, sizeof(pair));
        memcpy(to, &pair, sizeof(pair));
        sum += pair;
        from += sizeof(pair);
        to += sizeof(pair);
        n -= sizeof(pair);
    }
    if (n > 0) {
        last[0] = *to = load_byte(from);
        memcpy(&pair, last, sizeof(pair));
        sum += pair;
    }
    return sum;
}

/* Whether the fields that are equal in all segments are equal in this frame,
   whose headers are as long as those of the flow: IP at offset `ip`, TCP or
   UDP at offset `header`. */
static inline __attribute__((always_inline)) bool
has_same_headers_at(const struct flow *f, const unsigned char *frame,
                    size_t ip, size_t header)
{
    const unsigned char same[] = {255, 255, 255, 255, 255, 0, 255, 255};
    const unsigned char *a = f->frame, *b = frame;
    uint64_t mask, x, y;

    if (f->ipv6
            ? !same_bytes(a, b, ip + 4)
                  || !same_bytes(a + ip + 6, b + ip + 6, header - ip - 2)
            : !same_bytes(a, b, ip + 2)
                  || !same_bytes(a + ip + 6, b + ip + 6, 4)
                  || !same_bytes(a + ip + 12, b + ip + 12, header - ip - 8)) {
        return false;
    }
    if (f->udp) {
        return true;
    }
    /* Acknowledgement, header length and window, without the flags. */
    memcpy(&mask, same, sizeof(mask));
    memcpy(&x, a + header + TCP_ACK_NUMBER, sizeof(x));
    memcpy(&y, b + header + TCP_ACK_NUMBER, sizeof(y));
    return ((x ^ y) & mask) == 0
           && same_bytes(a + header + TCP_URGENT, b + header + TCP_URGENT,
                         f->payload - header - TCP_URGENT);
}

static inline bool
has_same_headers(const struct flow *f, const unsigned char *frame)
{
    /* Most frames. With constants it takes half the time. */
    if (f->network == ETH_HLEN && f->transport == ETH_HLEN + IPV4_HEADER) {
        return has_same_headers_at(f, frame, ETH_HLEN, ETH_HLEN + IPV4_HEADER);
    }
    return has_same_headers_at(f, frame, f->network, f->transport);
}

static inline uint16_t
ipv4_checksum(const struct flow *f, size_t length, uint16_t id)
{
    return checksum_of(f->network_sum + htons((uint16_t)length) + htons(id),
                       false);
}

/* Reads what differs. Returns false if a length or the checksum of the IPv4
   header is not what write_segment() would write. */
static inline bool
read_differing(struct differing *d, const struct flow *f,
               const unsigned char *frame, size_t length)
{
    const unsigned char *ip = frame + f->network;
    const unsigned char *header = frame + f->transport;
    size_t size = length - f->network;

    *d = (struct differing){0};
    if (f->ipv6) {
        if (load_be16(ip + 4) != size - IPV6_HEADER) {
            return false;
        }
    }
    else {
        d->id = load_be16(ip + 4);
        if (load_be16(ip + 2) != size
            || htons(load_be16(ip + 10)) != ipv4_checksum(f, size, d->id)) {
            return false;
        }
    }
    if (f->udp) {
        size = length - f->transport;
        d->sum = htons((uint16_t)size);
        return load_be16(header + UDP_LENGTH) == size;
    }
    d->flags = load_byte(header + TCP_FLAGS);
    d->sequence = load_be32(header + TCP_SEQUENCE);
    d->sum = (uint64_t)htonl(d->sequence) + htons(d->flags);
    return true;
}

/* Whether the checksum of a frame of this length is what write_segment() would
   write. `sum` is that of its TCP or UDP header and its payload. If the
   checksum is missing, what counts is what finish_checksum() would write. */
static inline bool
has_checksum(const struct flow *f, const struct offload_header *h,
             const unsigned char *frame, size_t length, uint64_t sum)
{
    size_t at = f->transport + (f->udp ? UDP_CHECKSUM : TCP_CHECKSUM);
    uint16_t stored = htons(load_be16(frame + at));
    size_t size = length - f->transport;

    if (h->flags & VNET_NEEDS_CSUM) {
        if (h->checksum_start != f->transport
            || h->checksum_start + (size_t)h->checksum_offset != at) {
            return false;
        }
        stored = checksum_of(sum + stored, true);
    }
    sum += f->pseudo_sum + htons((uint16_t)size);
    return stored == checksum_of(sum, f->udp);
}

/* Whether the next frame of the flow may have this id (IPv4). */
static bool
is_next_id(const struct flow *f, uint16_t id)
{
    if (f->repeats_id) {
        return id == f->id;
    }
    return id == (uint16_t)(f->id + f->count)
           || (f->may_repeat_id && f->count == 1 && id == f->id);
}

/* Appends the payload of a frame that may be merged, if the frame is the next
   of the flow. Returns whether it did. */
static bool
extend_flow(struct flow *f, const struct offload_header *h,
            const unsigned char *frame, size_t length)
{
    struct differing d;
    size_t size = length - f->payload;
    uint64_t sum;

    if (length <= f->payload || size > f->gso_size
        || size > f->limit - f->length || !has_same_headers(f, frame)
        || !read_differing(&d, f, frame, length)
        || (!f->ipv6 && !is_next_id(f, d.id))
        || (!f->udp
            && (d.sequence != f->sequence
                || (d.flags & ~(TCP_FIN | TCP_PSH))
                       != (f->first_flags & ~TCP_CWR)))) {
        return false;
    }
    sum = copy_and_sum(f->frame + f->length, frame + f->payload, size);
    if (!has_checksum(f, h, frame, length, sum + f->transport_sum + d.sum)) {
        return false;
    }
    f->repeats_id = f->count == 1 ? d.id == f->id : f->repeats_id;
    f->last_flags = d.flags;
    f->sequence += (uint32_t)size;
    f->length += size;
    f->count++;
    f->is_ended = size < f->gso_size || (d.flags & (TCP_FIN | TCP_PSH));
    return true;
}

/* Adds up what is equal in all segments. */
static void
sum_headers(struct flow *f)
{
    const unsigned char *ip = f->frame + f->network;
    const unsigned char *header = f->frame + f->transport;

    if (f->ipv6) {
        f->pseudo_sum = sum_bytes(ip + 8, 32);
    }
    else {
        f->network_sum = sum_bytes(ip, 2) + sum_bytes(ip + 6, 4)
                         + sum_bytes(ip + 12, f->transport - f->network - 12);
        f->pseudo_sum = sum_bytes(ip + 12, 8);
    }
    f->pseudo_sum += htons(f->udp ? UDP : TCP);
    f->transport_sum = sum_bytes(header, 4);
    if (!f->udp) {
        f->transport_sum +=
            sum_bytes(header + TCP_ACK_NUMBER, 4)
            + htons((uint16_t)(load_byte(header + TCP_SIZE) << 8))
            + sum_bytes(header + TCP_WINDOW, 2)
            + sum_bytes(header + TCP_URGENT,
                        f->payload - f->transport - TCP_URGENT);
    }
}

/* Whether the destination in the IP header is not the one in the pseudo-header.
   If such a frame had a checksum that has_checksum() takes for right, a
   receiver would find it wrong. */
static bool
is_source_routed(const struct super_frame *s, const unsigned char *frame)
{
    struct packet p = {.f = *s};

    return s->ipv6 ? find_ipv6_destination(&p, frame) != s->network + 24
                   : find_ipv4_destination(&p, frame) != s->network + 16;
}

/* Makes a flow of a frame that has been copied to a row of the target. Returns
   false if no other frame can be merged with it. */
static bool
begin_flow(struct flow *f, const struct merging *m, size_t row,
           const struct offload_header *h, size_t length)
{
    unsigned char *frame = frame_of(&m->to, row);
    struct super_frame s = {0};
    struct differing d;
    uint8_t protocol = 0;
    size_t end = length;
    uint16_t fragment;

    if (read_network(&s, frame, &end, &protocol) != NULL || end != length
        || s.network > ETH_HLEN + MOST_GSO_TAGS * TAG_SIZE
        || is_source_routed(&s, frame)) {
        return false;
    }
    s.udp = protocol == UDP;
    if ((!s.udp && protocol != TCP) || (s.udp && !m->udp)
        || read_transport(&s, frame, end) != NULL || s.payload_length == 0
        || (s.tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_PSH | TCP_URG))) {
        return false;
    }
    *f = (struct flow){
        .frame = frame,
        .row = row,
        .length = length,
        .limit = room_of(&m->to, row) < MAX_SUPER_FRAME ? room_of(&m->to, row)
                                                        : MAX_SUPER_FRAME,
        .network = s.network,
        .transport = s.transport,
        .payload = s.payload,
        .gso_size = s.payload_length,
        .count = 1,
        .sequence = s.sequence + (uint32_t)s.payload_length,
        .id = s.id,
        .first_flags = s.tcp_flags,
        .ipv6 = s.ipv6,
        .udp = s.udp,
    };
    if (!s.ipv6) {
        fragment = load_be16(frame + s.network + IPV4_FRAGMENT);
        if (fragment & ~IPV4_DF) {
            return false;
        }
        f->may_repeat_id = !m->keep_ids && (fragment & IPV4_DF);
    }
    sum_headers(f);
    return read_differing(&d, f, frame, length) && length <= f->limit
           && has_checksum(f, h, frame, length,
                           f->transport_sum + d.sum
                               + sum_bytes(frame + f->payload, f->gso_size));
}

/* Completes the headers of a super-frame. Its checksum stays missing: the
   field gets the sum of the pseudo-header, as read_seed() expects it. */
static void
end_flow(const struct frame_table *to, const struct flow *f)
{
    unsigned char *ip = f->frame + f->network;
    unsigned char *header = f->frame + f->transport;
    size_t size = f->length - f->transport;
    uint8_t type = f->udp ? GSO_UDP_L4 : f->ipv6 ? GSO_TCPV6 : GSO_TCPV4;
    uint16_t offset = f->udp ? UDP_CHECKSUM : TCP_CHECKSUM;
    uint16_t sum = fold(f->pseudo_sum + htons((uint16_t)size)), checksum;

    if (f->count == 1) {
        return;
    }
    if (f->ipv6) {
        store_be16(ip + 4, (uint16_t)(f->length - f->network - IPV6_HEADER));
    }
    else {
        store_be16(ip + 2, (uint16_t)(f->length - f->network));
        checksum = ipv4_checksum(f, f->length - f->network, f->id);
        memcpy(ip + 10, &checksum, sizeof(checksum));
    }
    if (f->udp) {
        store_be16(header + UDP_LENGTH, (uint16_t)size);
    }
    else {
        header[TCP_FLAGS] =
            f->first_flags | (f->last_flags & (TCP_FIN | TCP_PSH));
        type |= f->first_flags & TCP_CWR ? GSO_ECN : 0;
    }
    memcpy(header + offset, &sum, sizeof(sum));
    to->headers[f->row] = (struct offload_header){
        .flags = VNET_NEEDS_CSUM,
        .gso_type = type,
        .header_length = (uint16_t)f->payload,
        .gso_size = (uint16_t)f->gso_size,
        .checksum_start = (uint16_t)f->transport,
        .checksum_offset = offset,
    };
    atomic_store_explicit(&to->lengths[f->row], (uint32_t)f->length,
                          memory_order_relaxed);
}

/* ---- Flows that are open ------------------------------------------------ */

enum flow_kind {
    NO_FLOW,  /* neither TCP nor UDP */
    ANY_FLOW, /* a fragment, or headers that cannot be read */
    KNOWN_FLOW,
};

/* A step of a hash: multiplies by 2^64 divided by the golden ratio (Knuth, The
   Art of Computer Programming, 6.4). */
static uint64_t
mix(uint64_t hash, uint32_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    return hash ^ hash >> 32;
}

/* Finds out to which flow a frame belongs: version, addresses, protocol and
   ports. Sets *key to a hash of them. If two flows have the same key, only one
   of them is open at a time. */
static enum flow_kind
read_key(const unsigned char *frame, size_t length, uint64_t *key)
{
    struct super_frame f = {0};
    uint8_t protocol = 0;
    size_t end = length, at, last, ip;
    uint64_t hash;
    uint32_t word;

    if (read_network(&f, frame, &end, &protocol) != NULL) {
        return ANY_FLOW;
    }
    ip = f.network;
    if (f.ipv6 ? protocol == IPV6_FRAGMENT
               : load_be16(frame + ip + IPV4_FRAGMENT) & IPV4_PART) {
        return ANY_FLOW;
    }
    if (protocol != TCP && protocol != UDP) {
        return NO_FLOW;
    }
    if (end - f.transport < sizeof(word)) {
        return ANY_FLOW;
    }
    memcpy(&word, frame + f.transport, sizeof(word));
    hash = mix(protocol, word);
    at = ip + (f.ipv6 ? 8 : 12);
    last = ip + (f.ipv6 ? IPV6_HEADER : IPV4_HEADER);
    for (; at < last; at += sizeof(word)) {
        memcpy(&word, frame + at, sizeof(word));
        hash = mix(hash, word);
    }
    *key = hash;
    return KNOWN_FLOW;
}

/* Returns the flow with this key, or the number of open flows. */
static size_t
find_flow(const struct open_flows *o, uint64_t key)
{
    size_t i = 0;

    while (i < o->count && o->keys[i] != key) {
        i++;
    }
    return i;
}

static void
close_flow(struct open_flows *o, size_t i, const struct frame_table *to)
{
    end_flow(to, &o->flows[i]);
    o->count--;
    o->flows[i] = o->flows[o->count];
    o->keys[i] = o->keys[o->count];
    o->last = 0;
}

static void
close_all_flows(struct open_flows *o, const struct frame_table *to)
{
    while (o->count > 0) {
        close_flow(o, o->count - 1, to);
    }
}

static void
close_oldest_flow(struct open_flows *o, const struct frame_table *to)
{
    size_t oldest = 0, i;

    for (i = 1; i < o->count; i++) {
        if (o->flows[i].row < o->flows[oldest].row) {
            oldest = i;
        }
    }
    close_flow(o, oldest, to);
}

static bool
extend_open_flow(struct open_flows *o, size_t i, const struct merging *m,
                 const struct offload_header *h, const unsigned char *frame,
                 size_t length)
{
    struct flow *f = &o->flows[i];

    if (!extend_flow(f, h, frame, length)) {
        return false;
    }
    o->last = i;
    if (f->is_ended || f->count == m->segments) {
        close_flow(o, i, &m->to);
    }
    return true;
}

/* Whether a frame may be merged if its headers are those of a flow. */
static bool
may_be_merged(const struct merging *m, const struct offload_header *h,
              const unsigned char *frame, size_t length)
{
    bool is_plain = !(h->flags & VNET_NEEDS_CSUM) && h->header_length == 0;

    if (h->gso_type != GSO_NONE || length < ETH_HLEN
        || (!is_plain && check_offload(h, length) != NULL)) {
        return false;
    }
    /* As in net/packet/af_packet.c:packet_extra_vlan_len_allowed(). */
    return length <= m->max_length
           || (length - TAG_SIZE <= m->max_length
               && load_be16(frame + TAG_OFFSET) == ETH_P_8021Q);
}

/* Copies a frame to the next row. Returns false, with the reason set if it
   does not fit into that row, if it cannot. */
static bool
copy_to_row(struct merging *m, const struct offload_header *h,
            const unsigned char *frame, size_t length)
{
    size_t row = m->written;

    if (row == m->to.count) {
        return false;
    }
    if (length > room_of(&m->to, row)) {
        m->reason = beyond_target;
        return false;
    }
    memcpy(frame_of(&m->to, row), frame, length);
    m->to.headers[row] = *h;
    atomic_store_explicit(&m->to.lengths[row], (uint32_t)length,
                          memory_order_relaxed);
    m->written++;
    return true;
}

/* Merges the next frame into an open flow, or gives it a row of its own.
   Returns false if it cannot. */
static bool
take_frame(struct merging *m, struct open_flows *o,
           const struct offload_header *h, size_t length)
{
    const unsigned char *frame = frame_of(&m->from, m->frame);
    bool can_merge = may_be_merged(m, h, frame, length);
    enum flow_kind kind;
    struct flow next;
    uint64_t key = 0;
    size_t i;

    if (can_merge && o->count > 0
        && extend_open_flow(o, o->last, m, h, frame, length)) {
        return true;
    }
    kind = read_key(frame, length, &key);
    i = kind == KNOWN_FLOW ? find_flow(o, key) : o->count;
    if (can_merge && i < o->count && i != o->last
        && extend_open_flow(o, i, m, h, frame, length)) {
        return true;
    }
    if (!copy_to_row(m, h, frame, length)) {
        return false;
    }
    if (kind == ANY_FLOW || m->flows == 1) {
        close_all_flows(o, &m->to);
    }
    else if (i < o->count) {
        close_flow(o, i, &m->to);
    }
    if (can_merge && kind == KNOWN_FLOW && m->segments > 1
        && begin_flow(&next, m, m->written - 1, h, length)) {
        if (o->count == m->flows) {
            close_oldest_flow(o, &m->to);
        }
        o->last = o->count++;
        o->keys[o->last] = key;
        o->flows[o->last] = next;
    }
    return true;
}

void
merge_frames(struct merging *m)
{
    struct open_flows *open = m->memory;
    struct offload_header h;
    size_t length;

    open->count = open->last = 0;
    for (; m->frame < m->from.count; m->frame++) {
        if (!load_frame(&m->from, m->frame, &length, &h)) {
            m->reason = beyond_frame;
            break;
        }
        if (!take_frame(m, open, &h, length)) {
            break;
        }
    }
    close_all_flows(open, &m->to);
}

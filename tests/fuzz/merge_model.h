/* What merge_frames() must do, in plain code: merging is decided by writing the
   bytes that the cutter would write, and comparing them. It shares nothing
   with _rawmmsg_offload.c. */

#ifndef MERGE_MODEL_H
#define MERGE_MODEL_H

#include "sums.h"

#define MAX_SUPER_FRAME 65535
#define KEY_SIZE 38

enum {
    FIN = 0x01,
    SYN = 0x02,
    RST = 0x04,
    PSH = 0x08,
    URG = 0x20,
    CWR = 0x80
};

/* The arguments of merge_into(). */
struct rules {
    size_t flows;
    size_t segments;
    size_t max_length; /* SIZE_MAX: none */
    bool keep_ids;
    bool udp;
    bool plain; /* the source has no offload headers: all are 0 */
};

/* What a frame closes: all super-frames, none, or that of its flow. */
enum reach {
    UNREADABLE,
    NO_FLOW,
    IN_FLOW
};

/* A frame of the source. */
struct seen {
    uint8_t *bytes; /* owned; its checksum is complete if it is a candidate */
    size_t length;
    size_t payload; /* offset of the first byte behind all headers */
    struct shape shape;
    enum reach reach;
    uint8_t key[KEY_SIZE]; /* of the flow: version, protocol, addresses, ports
                              */
    bool beyond;           /* its length is more than its memory */
    bool candidate;        /* a segment may have exactly these bytes */
};

/* A row of the target. */
struct made {
    size_t first; /* the frames in it, rows of the source */
    size_t count;
    size_t members[128];
    bool open;
    bool same_ids; /* from the second frame on */
};

/* The whole result. */
struct model {
    struct seen seen[MAX_ROWS];
    struct made made[MAX_ROWS];
    size_t written;
    size_t next;  /* the frame to go on with */
    bool refused; /* that frame cannot be taken */
};

/* ---- Frames of the source ----------------------------------------------- */

static inline size_t
gso_size_of(const struct seen *s)
{
    return s->length - s->payload;
}

/* Whether the kernel accepts the header of a frame that is not a super-frame.
   */
static inline bool
is_accepted(const struct offload_header *h, size_t n)
{
    return h->header_length <= n
           && (!(h->flags & VNET_NEEDS_CSUM)
               || (h->checksum_start >= 20
                   && h->checksum_start + h->checksum_offset + 2u <= n));
}

/* Finds the flow of a frame. */
static inline void
find_flow(struct seen *s)
{
    struct shape *shape = &s->shape;
    const uint8_t *ip, *transport;
    size_t addresses, left;

    s->reach = UNREADABLE;
    if (!parse(s->bytes, s->length, shape)) {
        return;
    }
    ip = s->bytes + shape->network;
    transport = s->bytes + shape->transport;
    left = shape->end - shape->transport;
    if (shape->version == 4 ? (be16(ip + 6) & 0x3fff) != 0
                            : shape->protocol == 44) {
        return;
    }
    if (shape->protocol != TCP && shape->protocol != UDP) {
        s->reach = NO_FLOW;
        return;
    }
    if (left < 4) {
        return;
    }
    s->reach = IN_FLOW;
    addresses = shape->version == 4 ? 8 : 32;
    s->key[0] = (uint8_t)shape->version;
    s->key[1] = shape->protocol;
    memcpy(s->key + 2, transport, 4);
    memcpy(s->key + 6, ip + (shape->version == 4 ? 12 : 8), addresses);
}

/* Finds the end of the headers. Returns false if there is none within the
   datagram. */
static inline bool
find_payload(struct seen *s)
{
    const uint8_t *transport = s->bytes + s->shape.transport;
    size_t left = s->shape.end - s->shape.transport, n = 8;

    if (s->shape.protocol == TCP) {
        n = left < 20 ? 20 : (transport[12] >> 4) * 4u;
    }
    s->payload = s->shape.transport + n;
    return n <= left && (s->shape.protocol == UDP || n >= 20);
}

/* ---- What the cutter writes --------------------------------------------- */

/* The sum of the pseudo-header of n bytes behind the IP header. */
static inline uint64_t
pseudo_sum(const uint8_t *frame, const struct shape *shape, size_t n)
{
    const uint8_t *ip = frame + shape->network;

    return (shape->version == 4 ? sum_of(ip + 12, 8) : sum_of(ip + 8, 32))
           + shape->protocol + n;
}

/* Completes the lengths and the IP header of a frame of n bytes. */
static inline void
write_lengths(uint8_t *frame, size_t n, const struct shape *shape)
{
    uint8_t *ip = frame + shape->network;

    if (shape->version == 4) {
        put16(ip + 2, (unsigned)(n - shape->network));
        put16(ip + 10, 0);
        put16(ip + 10,
              0xffff ^ fold(sum_of(ip, shape->transport - shape->network)));
    }
    else {
        put16(ip + 4, (unsigned)(n - shape->network - 40));
    }
    if (shape->protocol == UDP) {
        put16(frame + shape->transport + 4, (unsigned)(n - shape->transport));
    }
}

static inline size_t
checksum_at(const struct shape *shape)
{
    return shape->transport + (shape->protocol == UDP ? 6 : 16);
}

/* Writes segment i of a super-frame that begins with the headers of `first`
   and has the payload of `s` there. Returns its length. */
static inline size_t
write_plainly(uint8_t *out, const struct seen *first, size_t i,
              const struct seen *s, bool same_ids)
{
    const struct shape *shape = &first->shape;
    uint8_t *header = out + shape->transport, *ip = out + shape->network;
    size_t size = s->length - s->payload, n = first->payload + size;
    unsigned sum;
    uint64_t at;

    memcpy(out, first->bytes, first->payload);
    memcpy(out + first->payload, s->bytes + s->payload, size);
    if (shape->version == 4 && !same_ids) {
        put16(ip + 4, be16(ip + 4) + (unsigned)i);
    }
    write_lengths(out, n, shape);
    if (shape->protocol == TCP) {
        at = ((uint64_t)be16(header + 4) << 16 | be16(header + 6))
             + i * gso_size_of(first);
        put16(header + 4, (unsigned)(at >> 16));
        put16(header + 6, (unsigned)at);
        header[13] &= (uint8_t)~(i > 0 ? CWR : 0);
        header[13] |= s->bytes[s->shape.transport + 13] & (FIN | PSH);
    }
    put16(out + checksum_at(shape), 0);
    sum = fold(pseudo_sum(out, shape, n - shape->transport)
               + sum_of(header, n - shape->transport));
    sum ^= 0xffff;
    put16(out + checksum_at(shape),
          sum == 0 && shape->protocol == UDP ? 0xffff : sum);
    return n;
}

/* Whether the cutter writes exactly the bytes of `s` as segment i. */
static inline bool
is_segment(const struct seen *first, size_t i, const struct seen *s,
           bool same_ids)
{
    static uint8_t out[2 * MAX_SUPER_FRAME];

    return write_plainly(out, first, i, s, same_ids) == s->length
           && memcmp(out, s->bytes, s->length) == 0;
}

/* Whether the bit of the IPv4 header is set that must be 0. */
static inline bool
is_reserved(const struct seen *s)
{
    return s->shape.version == 4 && s->bytes[s->shape.network + 6] & 0x80;
}

/* Whether the checksum covers the destination in the IP header. */
static inline bool
has_plain_destination(const struct seen *s)
{
    return s->shape.version == 4
               ? ipv4_destination(s->bytes, &s->shape) == s->shape.network + 16
               : ipv6_destination(s->bytes, &s->shape)
                     == s->shape.network + 24;
}

/* Fills *s from frame i. */
static inline void
see(struct seen *s, const struct rows *r, size_t i, const struct rules *rules)
{
    const struct offload_header *h = &r->headers[i];
    bool tagged, readable = true;
    struct seen kept;
    size_t n;

    memset(s, 0, sizeof(*s));
    n = s->length = r->lengths[i];
    s->beyond = n > r->parts[2 * i + 1].iov_len;
    if (s->beyond) {
        s->bytes = NULL;
        return;
    }
    s->bytes = malloc(n + 1);
    promise(s->bytes != NULL, "there is memory");
    memcpy(s->bytes, frame_of(r, i), n);
    find_flow(s);
    if (s->reach != IN_FLOW || h->gso_type != GSO_NONE || !is_accepted(h, n)) {
        return;
    }
    if (h->flags & VNET_NEEDS_CSUM) {
        /* This can change any bytes, but not to which flow it belongs. */
        kept = *s;
        complete(s->bytes, n, h);
        find_flow(s);
        /* A sum from elsewhere could also give the right checksum, but no
           sender makes such frames. */
        readable = s->reach == IN_FLOW
                   && h->checksum_start == s->shape.transport
                   && h->checksum_start + h->checksum_offset
                          == (int)checksum_at(&s->shape);
        s->reach = kept.reach;
        memcpy(s->key, kept.key, KEY_SIZE);
    }
    tagged = n >= 14 && be16(s->bytes + 12) == 0x8100;
    s->candidate =
        readable && find_payload(s) && s->payload < n && s->shape.end == n
        && s->shape.removed == 0 && !is_reserved(s)
        && s->shape.network <= 14 + 7 * 4 && has_plain_destination(s)
        && (rules->max_length == SIZE_MAX
            || n <= rules->max_length + (tagged ? 4 : 0))
        && n <= MAX_SUPER_FRAME
        && (s->shape.protocol == UDP
                ? rules->udp
                : !(s->bytes[s->shape.transport + 13] & (SYN | RST | URG)))
        && is_segment(s, 0, s, false);
}

/* ---- The rules ---------------------------------------------------------- */

static inline bool
ends(const struct seen *s)
{
    return s->shape.protocol == TCP
           && s->bytes[s->shape.transport + 13] & (FIN | PSH);
}

static inline bool
is_atomic(const struct seen *s)
{
    return s->shape.version == 4 && s->bytes[s->shape.network + 6] & 0x40;
}

static inline size_t
merged_length(const struct model *m, const struct made *made)
{
    const struct seen *first = &m->seen[made->first];
    size_t i, n = first->payload;

    for (i = 0; i < made->count; i++) {
        n += gso_size_of(&m->seen[made->members[i]]);
    }
    return n;
}

/* Merges frame i into this row, if that is possible. */
static inline bool
merge(struct model *m, struct made *made, size_t i, size_t room,
      const struct rules *rules)
{
    const struct seen *first = &m->seen[made->first], *s = &m->seen[i];
    size_t length;

    if (!s->candidate || s->shape.transport != first->shape.transport
        || s->shape.protocol != first->shape.protocol
        || gso_size_of(s) > gso_size_of(first)) {
        return false;
    }
    length = merged_length(m, made) + gso_size_of(s);
    if (length > room || length > MAX_SUPER_FRAME) {
        return false;
    }
    if ((made->count > 1 && made->same_ids)
        || !is_segment(first, made->count, s, false)) {
        if (rules->keep_ids || !is_atomic(first)
            || (made->count > 1 && !made->same_ids)
            || !is_segment(first, made->count, s, true)) {
            return false;
        }
        made->same_ids = true;
    }
    made->members[made->count++] = i;
    made->open = made->count < rules->segments && !ends(s)
                 && gso_size_of(s) == gso_size_of(first);
    return true;
}

/* Finds the open row that this frame may be merged into. */
static inline struct made *
find_open(struct model *m, const struct seen *s, const struct rules *rules)
{
    size_t k;

    for (k = 0; k < m->written; k++) {
        struct made *made = &m->made[k];

        if (made->open
            && (rules->flows == 1
                || (s->reach == IN_FLOW
                    && memcmp(s->key, m->seen[made->first].key, KEY_SIZE)
                           == 0))) {
            return made;
        }
    }
    return NULL;
}

/* Closes what a frame closes that was copied into a row of its own. */
static inline void
close_rows(struct model *m, const struct seen *s, const struct rules *rules)
{
    struct made *made = find_open(m, s, rules);
    size_t k;

    if (made != NULL) {
        made->open = false;
    }
    for (k = 0; s->reach == UNREADABLE && k < m->written; k++) {
        m->made[k].open = false;
    }
}

/* Opens the last row; closes the one that was opened first if there are too
   many. */
static inline void
open_row(struct model *m, const struct rules *rules)
{
    size_t k, open = 0;

    for (k = m->written; k-- > 0;) {
        open += m->made[k].open;
        m->made[k].open &= open < rules->flows;
    }
    m->made[m->written].open = true;
}

/* Says what merge_frames() must do with the frames of `from`, from `start` on,
   for a target with rows like `to`. */
static inline void
run_model(struct model *m, const struct rows *from, const struct rows *to,
          size_t start, const struct rules *rules)
{
    struct made *made;
    struct seen *s;
    size_t i;

    m->written = 0;
    m->refused = false;
    for (i = start; i < from->table.count; i++) {
        s = &m->seen[i];
        if (s->beyond) {
            m->refused = true;
            break;
        }
        made = find_open(m, s, rules);
        if (made != NULL
            && merge(m, made, i, to->parts[2 * (made - m->made) + 1].iov_len,
                     rules)) {
            continue;
        }
        if (m->written == to->table.count) {
            break;
        }
        if (s->length > to->parts[2 * m->written + 1].iov_len) {
            m->refused = true;
            break;
        }
        made = &m->made[m->written];
        memset(made, 0, sizeof(*made));
        made->first = made->members[0] = i;
        made->count = 1;
        close_rows(m, s, rules);
        if (s->candidate && !ends(s) && rules->segments > 1) {
            open_row(m, rules);
        }
        m->written++;
    }
    m->next = i;
}

/* Writes the super-frame and the header that this row must have. Returns the
   length. */
static inline size_t
write_row(const struct model *m, const struct made *made, uint8_t *out,
          struct offload_header *h)
{
    const struct seen *first = &m->seen[made->first], *s;
    const struct shape *shape = &first->shape;
    size_t n = first->payload, i;

    memcpy(out, first->bytes, n);
    for (i = 0; i < made->count; i++) {
        s = &m->seen[made->members[i]];
        memcpy(out + n, s->bytes + s->payload, gso_size_of(s));
        n += gso_size_of(s);
        if (shape->protocol == TCP) {
            out[shape->transport + 13] |=
                s->bytes[shape->transport + 13] & (FIN | PSH);
        }
    }
    write_lengths(out, n, shape);
    put16(out + checksum_at(shape),
          fold(pseudo_sum(out, shape, n - shape->transport)));
    *h = (struct offload_header){
        .flags = VNET_NEEDS_CSUM,
        .gso_type = shape->protocol == UDP ? GSO_UDP_L4
                    : shape->version == 4  ? GSO_TCPV4
                                           : GSO_TCPV6,
        .header_length = (uint16_t)first->payload,
        .gso_size = (uint16_t)gso_size_of(first),
        .checksum_start = (uint16_t)shape->transport,
        .checksum_offset = (uint16_t)(checksum_at(shape) - shape->transport),
    };
    if (shape->protocol == TCP && out[shape->transport + 13] & CWR) {
        h->gso_type |= GSO_ECN;
    }
    return n;
}

#endif

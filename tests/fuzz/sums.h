/* Which checksums a frame must have, in plain code that shares nothing with
   _rawmmsg_offload.c, and what must hold for compute_frames() and
   verify_frames(). */

#ifndef SUMS_H
#define SUMS_H

#include "plain.h"

/* What a frame is. */
enum nature {
    NOT_IP,
    BAD_IP,        /* the IP header cannot be read */
    BAD_TRANSPORT, /* the IP header can, but not what follows */
    WITHOUT,       /* it has no transport checksum that is known */
    WITH           /* it has one */
};

/* Where the transport checksum is, and what it covers. */
struct sum_shape {
    struct shape s;
    size_t end;
    size_t field;
    size_t destination;
};

static inline bool
names_ip(const uint8_t *p, size_t n)
{
    size_t at;

    for (at = 12; at + 2 <= n && at <= 12 + 8 * 4; at += 4) {
        if (be16(p + at) != 0x8100 && be16(p + at) != 0x88a8) {
            return be16(p + at) == 0x0800 || be16(p + at) == 0x86dd;
        }
    }
    return false;
}

/* The destination of a route in the IPv4 options, or that of the header. */
static inline size_t
ipv4_destination(const uint8_t *p, const struct shape *s)
{
    size_t at = s->network + 20, n;

    while (at + 2 < s->transport && p[at] != 0) {
        n = p[at] == 1 ? 1 : p[at + 1];
        if ((n < 2 && p[at] != 1) || at + n > s->transport) {
            break;
        }
        if ((p[at] == 131 || p[at] == 137) && n > 6 && p[at + 2] <= n) {
            return at + n - 4;
        }
        at += n;
    }
    return s->network + 16;
}

/* The same for IPv6; 0 if it cannot be known. */
static inline size_t
ipv6_destination(const uint8_t *p, const struct shape *s)
{
    size_t at = s->network + 40, found = s->network + 24, n;
    uint8_t type = p[s->network + 6];

    while (at < s->transport) {
        n = (p[at + 1] + 1u) * 8;
        if (type == 43 && p[at + 3] > 0) {
            if (n < 24) {
                return 0;
            }
            switch (p[at + 2]) {
            case 0:
            case 2:
                if (n % 16 != 8) {
                    return 0;
                }
                found = at + n - 16;
                break;
            case 4:
                found = at + 8;
                break;
            default:
                return 0;
            }
        }
        type = p[at];
        at += n;
    }
    return found;
}

static inline enum nature
nature_of(const uint8_t *p, size_t n, struct sum_shape *x)
{
    const uint8_t *ip;
    size_t header, payload;

    memset(x, 0, sizeof(*x));
    if (!names_ip(p, n)) {
        return NOT_IP;
    }
    if (!parse(p, n, &x->s)) {
        return BAD_IP;
    }
    ip = p + x->s.network;
    x->end = x->s.end;
    payload = x->end - x->s.transport;
    if (x->s.version == 4) {
        if (be16(ip + 2) == 0 && n - x->s.network < 65536) {
            return BAD_IP;
        }
        if ((be16(ip + 6) & 0x3fff) != 0) {
            return WITHOUT;
        }
    }
    switch (x->s.protocol) {
    case TCP:
        header = 20;
        x->field = 16;
        break;
    case UDP:
        header = 8;
        x->field = 6;
        break;
    case SCTP:
        header = 12;
        x->field = 8;
        break;
    case 1:
    case 58:
        if (x->s.protocol != (x->s.version == 4 ? 1 : 58)) {
            return WITHOUT;
        }
        header = 4;
        x->field = 2;
        break;
    default:
        return WITHOUT;
    }
    x->field += x->s.transport;
    if (payload < header
        || (x->s.version == 6 && be16(ip + 4) == 0
            && n - x->s.network - 40 < 65536)) {
        return BAD_TRANSPORT;
    }
    if (x->s.protocol == UDP) {
        header = be16(p + x->s.transport + 4);
        if (header < 8 || header > payload) {
            return BAD_TRANSPORT;
        }
        x->end = x->s.transport + header;
    }
    if (x->s.protocol != 1 && x->s.protocol != SCTP) {
        x->destination = x->s.version == 4 ? ipv4_destination(p, &x->s)
                                           : ipv6_destination(p, &x->s);
        return x->destination > 0 ? WITH : BAD_TRANSPORT;
    }
    return WITH;
}

static inline uint64_t
sum_of_pseudo_header(const uint8_t *p, const struct sum_shape *x)
{
    size_t n = x->s.version == 4 ? 4 : 16;
    size_t source = x->s.network + (x->s.version == 4 ? 12 : 8);

    if (x->s.protocol == 1) {
        return 0;
    }
    return sum_of(p + source, n) + sum_of(p + x->destination, n)
           + x->s.protocol + (x->end - x->s.transport);
}

/* Stores the checksum of n bytes at the start. */
static inline void
put_sum(uint8_t *field, const uint8_t *start, size_t n, uint64_t more,
        bool udp)
{
    unsigned checksum;

    put16(field, 0);
    checksum = 0xffff ^ fold(more + sum_of(start, n));
    put16(field, udp && checksum == 0 ? 0xffff : checksum);
}

static inline uint32_t
sctp_sum(const uint8_t *p, size_t n)
{
    uint8_t *copy = malloc(n);
    uint32_t crc;

    promise(copy != NULL, "there is memory");
    memcpy(copy, p, n);
    memset(copy + 8, 0, 4);
    crc = crc32c(copy, n);
    free(copy);
    return crc;
}

/* Whether an offload header that asks for something does not fit a frame. */
static inline bool
misfits(const struct offload_header *h, size_t n)
{
    unsigned type = h->gso_type & ~0x80u;
    size_t network = type == 4 ? 40 : 20;
    size_t transport = type == 0 ? 0 : type == 5 ? 8 : 20;
    size_t field = h->checksum_offset + 2u;

    if (h->header_length > n
        || (type != 0 && type != 1 && type != 4 && type != 5)
        || (h->gso_type & 0x80 && type != 1 && type != 4)
        || (type != 0 && (h->gso_size == 0 || h->gso_size == 0xffff))) {
        return true;
    }
    if (!(h->flags & VNET_NEEDS_CSUM)) {
        return type == 5 || (type != 0 && n < network + transport);
    }
    return h->checksum_start + (field > transport ? field : transport) > n
           || h->checksum_start < network
           || (type != 0 && h->checksum_offset != (type == 5 ? 6 : 16));
}

/* Computes the checksums of a frame. Returns false, and changes nothing, if
   that must be refused. */
static inline bool
compute(uint8_t *p, size_t n, struct offload_header *h, uint16_t *flags,
        bool *counts)
{
    bool open = h->flags & VNET_NEEDS_CSUM, gso = h->gso_type != GSO_NONE;
    struct sum_shape x;
    enum nature nature = nature_of(p, n, &x);
    size_t transport = x.s.transport;
    unsigned type = h->gso_type & ~0x80u;
    uint32_t crc;

    *counts = nature == WITHOUT || nature == WITH;
    if (!*counts) {
        return nature == NOT_IP;
    }
    if ((gso || open)
        && (gso || nature != WITH || h->checksum_start != transport
            || transport + h->checksum_offset != x.field)) {
        if (misfits(h, n)
            || (gso
                && (x.s.protocol != (type == 5 ? UDP : TCP)
                    || (type != 5 && x.s.version != (type == 1 ? 4 : 6))
                    || (open && h->checksum_start != transport)))
            || (!gso && h->checksum_offset == 8 && x.s.protocol == SCTP
                && h->checksum_start == transport
                && x.s.end - transport < 12)) {
            return false;
        }
        if (!gso) {
            complete(p, n, h);
        }
    }
    if (x.s.version == 4) {
        put_sum(p + x.s.network + 10, p + x.s.network, transport - x.s.network,
                0, false);
    }
    if (nature == WITH && gso && open) {
        put16(p + x.field, fold(sum_of_pseudo_header(p, &x)));
    }
    else if (nature == WITH && !gso && x.s.protocol == SCTP) {
        crc = sctp_sum(p + transport, x.end - transport);
        p[x.field] = (uint8_t)crc;
        p[x.field + 1] = (uint8_t)(crc >> 8);
        p[x.field + 2] = (uint8_t)(crc >> 16);
        p[x.field + 3] = (uint8_t)(crc >> 24);
    }
    else if (nature == WITH && !gso) {
        put_sum(p + x.field, p + transport, x.end - transport,
                sum_of_pseudo_header(p, &x), x.s.protocol == UDP);
    }
    if (!gso && (open || nature == WITH)) {
        h->flags &= (uint8_t)~VNET_NEEDS_CSUM;
        *flags = 0;
    }
    return true;
}

static inline enum checksum_status
status_of(const uint8_t *p, size_t n, bool missing, bool gso)
{
    struct sum_shape x;
    enum nature nature = nature_of(p, n, &x);
    const uint8_t *header = p + x.s.transport;
    size_t size = x.end - x.s.transport;
    uint32_t crc;

    if (nature >= BAD_TRANSPORT && x.s.version == 4
        && fold(sum_of(p + x.s.network, x.s.transport - x.s.network))
               != 0xffff) {
        return CHECKSUM_BAD;
    }
    if (missing) {
        return CHECKSUM_PENDING;
    }
    if (nature != WITH || gso
        || (x.s.protocol == UDP && be16(p + x.field) == 0)) {
        return CHECKSUM_NONE;
    }
    if (x.s.protocol == SCTP) {
        crc = sctp_sum(header, size);
        return p[x.field] == (crc & 255) && p[x.field + 1] == (crc >> 8 & 255)
                       && p[x.field + 2] == (crc >> 16 & 255)
                       && p[x.field + 3] == crc >> 24
                   ? CHECKSUM_GOOD
                   : CHECKSUM_BAD;
    }
    return fold(sum_of_pseudo_header(p, &x) + sum_of(header, size)) == 0xffff
               ? CHECKSUM_GOOD
               : CHECKSUM_BAD;
}

/* Compares every status of a table with what it must be. */
static inline void
try_verify(const struct rows *given, bool headers, bool flags)
{
    const char *reason = NULL;
    uint8_t statuses[MAX_ROWS];
    struct offload_header none = {0};
    size_t at = 0, i;
    struct rows got;

    copy_rows(given, &got);
    got.table.headers = headers ? got.headers : NULL;
    got.table.flags = flags ? got.flags : NULL;
    verify_frames(&got.table, statuses, &at, &reason);
    for (i = 0; i < given->table.count; i++) {
        const struct offload_header *h = headers ? &given->headers[i] : &none;
        bool missing = (h->flags & VNET_NEEDS_CSUM)
                       || (flags && (given->flags[i] & CHECKSUM_NOT_READY));

        if (given->lengths[i] > given->parts[2 * i + 1].iov_len) {
            promise(reason != NULL && at == i, "a length beyond is refused");
            break;
        }
        promise(reason == NULL || at > i, "any other frame is not");
        promise(statuses[i]
                    == status_of(frame_of(given, i), given->lengths[i],
                                 missing, h->gso_type != GSO_NONE),
                "a status is as it must be");
    }
    for (i = 0; i < given->table.count; i++) {
        is_same_frame(given, &got, i);
        promise(
            memcmp(&given->headers[i], &got.headers[i], sizeof(got.headers[i]))
                    == 0
                && given->flags[i] == got.flags[i],
            "verifying changes nothing");
    }
    free_rows(&got);
}

/* Compares what compute_frames() makes of a table with what it must be. */
static inline void
try_compute(const struct rows *given, bool headers)
{
    const char *reason = NULL;
    size_t at = 0, done, expected = 0, i;
    struct rows got, wanted;
    bool refused = false, counts;

    copy_rows(given, &got);
    copy_rows(given, &wanted);
    got.table.headers = headers ? got.headers : NULL;
    done = compute_frames(&got.table, &at, &reason);
    for (i = 0; i < given->table.count && !refused; i++) {
        struct offload_header none = {0};

        if (given->lengths[i] > given->parts[2 * i + 1].iov_len
            || !compute(frame_of(&wanted, i), given->lengths[i],
                        headers ? &wanted.headers[i] : &none, &wanted.flags[i],
                        &counts)) {
            promise(reason != NULL && at == i, "a bad frame is refused");
            refused = true;
        }
        else {
            expected += counts;
        }
    }
    promise(refused || reason == NULL, "a good frame is not refused");
    promise(done == expected, "each frame of IP is counted");
    for (i = 0; i < given->table.count; i++) {
        is_same_frame(&wanted, &got, i);
        promise(
            memcmp(&wanted.headers[i], &got.headers[i], sizeof(got.headers[i]))
                == 0,
            "a header is as it must be");
        promise(wanted.flags[i] == got.flags[i], "flags are as they must be");
    }
    try_verify(&got, headers, true);
    try_verify(&got, headers, false);
    free_rows(&got);
    free_rows(&wanted);
}

#endif

/* What is right about datagrams and checksums, in plain code: byte by byte. It
   shares nothing with _rawmmsg_offload.c. */

#ifndef PLAIN_H
#define PLAIN_H

#include "rows.h"

enum {
    TCP = 6,
    UDP = 17,
    SCTP = 132
};

/* Where the parts of a datagram are. */
struct shape {
    size_t network;
    size_t transport;
    size_t end;     /* without padding */
    size_t removed; /* bytes of a lone jumbo header */
    int version;
    uint8_t protocol;
};

static inline unsigned
be16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static inline void
put16(uint8_t *p, unsigned value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static inline unsigned
fold(uint64_t sum)
{
    while (sum > 0xffff) {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    return (unsigned)sum;
}

/* The sum of RFC 1071, before it is folded. */
static inline uint64_t
sum_of(const uint8_t *p, size_t n)
{
    uint64_t sum = 0;
    size_t i;

    for (i = 0; i + 1 < n; i += 2) {
        sum += be16(p + i);
    }
    return n % 2 > 0 ? sum + ((unsigned)p[n - 1] << 8) : sum;
}

static inline uint32_t
crc32c(const uint8_t *p, size_t n)
{
    uint32_t crc = UINT32_MAX;
    int bit;

    for (; n > 0; p++, n--) {
        crc ^= *p;
        for (bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
        }
    }
    return ~crc;
}

static inline bool
parse_ipv4(const uint8_t *p, size_t n, struct shape *s)
{
    const uint8_t *ip = p + s->network;
    size_t header, total;

    if (n - s->network < 20) {
        return false;
    }
    header = (ip[0] & 15u) * 4;
    total = be16(ip + 2);
    if (ip[0] >> 4 != 4 || header < 20 || total > n - s->network) {
        return false;
    }
    s->end = total > 0 ? s->network + total : n;
    s->transport = s->network + header;
    s->protocol = ip[9];
    s->version = 4;
    return s->transport <= s->end;
}

static inline bool
parse_ipv6(const uint8_t *p, size_t n, struct shape *s)
{
    const uint8_t *ip = p + s->network;
    size_t payload;

    if (n - s->network < 40 || ip[0] >> 4 != 6) {
        return false;
    }
    payload = be16(ip + 4);
    s->transport = s->network + 40;
    if (payload > n - s->transport) {
        return false;
    }
    s->end = payload > 0 ? s->transport + payload : n;
    s->protocol = ip[6];
    s->version = 6;
    if (payload == 0 && s->protocol == 0 && s->end - s->transport >= 8
        && memcmp(p + s->transport + 1, "\0\xc2\4", 3) == 0) {
        s->removed = 8;
        s->protocol = p[s->transport];
        s->transport += 8;
    }
    while (s->protocol == 0 || s->protocol == 43 || s->protocol == 60) {
        const uint8_t *extension = p + s->transport;

        if (s->end - s->transport < 8
            || s->end - s->transport < (extension[1] + 1u) * 8) {
            return false;
        }
        s->protocol = extension[0];
        s->transport += (extension[1] + 1u) * 8;
    }
    return true;
}

/* Whether the frame is a datagram of IPv4 or IPv6, behind at most 8 tags. */
static inline bool
parse(const uint8_t *p, size_t n, struct shape *s)
{
    size_t at = 12;

    memset(s, 0, sizeof(*s));
    while (at + 2 <= n && (be16(p + at) == 0x8100 || be16(p + at) == 0x88a8)) {
        at += 4;
    }
    if (at + 2 > n || at > 12 + 8 * 4) {
        return false;
    }
    s->network = at + 2;
    switch (be16(p + at)) {
    case 0x0800:
        return parse_ipv4(p, n, s);
    case 0x86dd:
        return parse_ipv6(p, n, s);
    default:
        return false;
    }
}

/* Completes the checksum that the header leaves open. */
static inline void
complete(uint8_t *p, size_t n, const struct offload_header *h)
{
    size_t start = h->checksum_start, at = start + h->checksum_offset;
    unsigned checksum;
    struct shape s;
    uint32_t crc;

    promise(at + 2 <= n, "the checksum is within the frame");
    if (h->checksum_offset == 8 && parse(p, n, &s) && s.protocol == SCTP
        && s.transport == start) {
        promise(s.end - start >= 12, "the SCTP header is within the packet");
        memset(p + at, 0, 4);
        crc = crc32c(p + start, s.end - start);
        p[at] = (uint8_t)crc;
        p[at + 1] = (uint8_t)(crc >> 8);
        p[at + 2] = (uint8_t)(crc >> 16);
        p[at + 3] = (uint8_t)(crc >> 24);
        return;
    }
    checksum = 0xffff ^ fold(sum_of(p + start, n - start));
    put16(p + at, checksum == 0 ? 0xffff : checksum);
}

#endif

/* Merges frames of a few flows, cuts them again, and compares both results
   with plain code; tests/fuzz/merging.py builds and runs it.

   Each batch follows from a row of choices: the flows, what is unusual about
   each frame, and the arguments. The choices are the input of libFuzzer, or
   numbers from a seed if RANDOM is defined:

       merging SEED FRAMES

   makes batches until they had so many frames together. */

#define _DEFAULT_SOURCE /* sigaction() */

#define MAX_ROWS 256
#define MAX_FLOWS 6
#define MAX_FRAME 70000

#include <signal.h>
#include <unistd.h>

#include "merge_check.h"

/* Where the choices come from. */
struct choices {
    const uint8_t *at; /* libFuzzer's input that is left */
    size_t left;
    uint64_t state; /* of the random numbers, if they are used: not 0 */
};

/* A flow, and its next frame. */
struct flow {
    int version;
    uint8_t protocol;
    uint8_t mac;
    uint16_t tags[9]; /* the TPIDs */
    size_t tag_count;
    uint8_t host; /* the last byte of its source address */
    uint8_t port; /* of the source */
    size_t options;
    uint8_t extensions[4]; /* types */
    size_t extension_count;
    uint8_t route;      /* the type of an IPv4 option, or 0; the type of the
                           routing headers of IPv6 */
    uint8_t route_left; /* what is left of the route */
    bool route_known;   /* the routing headers have an address */
    size_t tcp_options;
    uint8_t tos;
    uint8_t ttl;
    uint32_t label;
    uint16_t fragment; /* flags and offset */
    uint16_t id;
    uint16_t id_step;
    uint32_t sequence;
    uint32_t ack;
    uint16_t window;
    uint8_t low; /* the low nibble of byte 12 of TCP */
    uint8_t flags;
    uint8_t filler;  /* in all options */
    uint16_t tuning; /* bytes of the source address that make the IPv4 checksum
                        0 at some time */
    size_t size;     /* bytes of payload */
};

/* ---- Choices ------------------------------------------------------------ */

static unsigned
next_byte(struct choices *c)
{
    if (c->state != 0) {
        c->state ^= c->state << 13;
        c->state ^= c->state >> 7;
        c->state ^= c->state << 17;
        return (unsigned)(c->state >> 32) & 0xff;
    }
    if (c->left == 0) {
        return 0;
    }
    c->left--;
    return *c->at++;
}

/* A number below n. */
static unsigned
choose(struct choices *c, unsigned n)
{
    unsigned value = next_byte(c);

    if (n > 256) {
        value = value << 8 | next_byte(c);
    }
    return value % n;
}

static bool
one_in(struct choices *c, unsigned n)
{
    return choose(c, n) == n - 1;
}

/* ---- Flows -------------------------------------------------------------- */

static size_t
choose_size(struct choices *c)
{
    static const uint16_t sizes[] = {22, 1, 2, 3, 64, 100, 536, 1448, 1460};

    switch (choose(c, 8)) {
    case 6:
        return 1 + choose(c, 1472);
    case 7:
        return one_in(c, 8) ? 4000 + choose(c, 4900) : 1 + choose(c, 100);
    default:
        return sizes[choose(c, sizeof(sizes) / sizeof(sizes[0]))];
    }
}

static void
choose_extensions(struct choices *c, struct flow *f)
{
    static const uint8_t types[] = {0, 43, 60, 60};

    static const uint8_t routes[] = {131, 137, 7, 0};

    if (f->version == 4) {
        f->options = one_in(c, 4) ? 4 * (1 + choose(c, 10)) : 0;
        f->route = f->options >= 8 && one_in(c, 3) ? routes[choose(c, 4)] : 0;
        f->route_left = (uint8_t)choose(c, 2);
    }
    else if (one_in(c, 4)) {
        f->extension_count = 1 + choose(c, 3);
        for (size_t i = 0; i < f->extension_count; i++) {
            f->extensions[i] = types[choose(c, 4)];
        }
        f->route = (uint8_t)choose(c, 5);
        f->route_left = (uint8_t)choose(c, 2);
        f->route_known = choose(c, 2);
    }
}

static struct flow
choose_flow(struct choices *c, uint8_t number)
{
    static const uint8_t flags[] = {0x50, 0x12, 0x14, 0x30, 0x18, 0x90};
    static const uint16_t fragments[] = {0, 0, 0, 0x8000, 0xc000, 0x2000};
    struct flow f = {0};
    size_t i;

    f.protocol = choose(c, 2) ? UDP : TCP;
    f.version = choose(c, 2) ? 6 : 4;
    f.tag_count = one_in(c, 3)    ? choose(c, 4)
                  : one_in(c, 20) ? 7 + choose(c, 3)
                                  : 0;
    for (i = 0; i < f.tag_count; i++) {
        f.tags[i] = choose(c, 2) ? 0x88a8 : 0x8100;
    }
    /* Now and then two flows differ in one of the two only. */
    f.host = number / 2;
    f.port = number;
    choose_extensions(c, &f);
    f.tcp_options = one_in(c, 2) ? 4 * choose(c, 11) : 0;
    f.tos = one_in(c, 4) ? (uint8_t)next_byte(c) : 0;
    f.ttl = 64;
    f.label = one_in(c, 2) ? 0x12345 : 0;
    f.fragment = one_in(c, 3) ? fragments[choose(c, 6)] : 0x4000;
    f.id = one_in(c, 3) ? (uint16_t)(0xfff0 + choose(c, 16))
                        : (uint16_t)choose(c, 65536);
    f.id_step = !one_in(c, 5);
    f.sequence =
        one_in(c, 3) ? UINT32_MAX - choose(c, 65536) : choose(c, 65536);
    f.ack = 0x01020304;
    f.window = 512;
    f.low = one_in(c, 16) ? (uint8_t)choose(c, 16) : 0;
    f.flags = one_in(c, 4) ? flags[choose(c, 6)] : 0x10;
    f.filler = 1;
    f.tuning = (uint16_t)choose(c, 65536);
    f.size = choose_size(c);
    return f;
}

/* Continues the flow behind this frame. */
static void
advance(struct flow *f, const struct flow *sent)
{
    f->id = (uint16_t)(sent->id + f->id_step);
    f->sequence = sent->sequence + (uint32_t)sent->size;
}

/* ---- Frames ------------------------------------------------------------- */

/* A frame that is being written. */
struct frame {
    uint8_t bytes[MAX_FRAME];
    size_t length;
    size_t network;
    size_t transport;
    size_t payload;
    struct offload_header header;
};

static void
put(struct frame *w, const void *bytes, size_t n)
{
    memcpy(w->bytes + w->length, bytes, n);
    w->length += n;
}

static void
put_many(struct frame *w, uint8_t value, size_t n)
{
    memset(w->bytes + w->length, value, n);
    w->length += n;
}

static void
put_link(struct frame *w, const struct flow *f)
{
    uint8_t field[4];
    size_t i;

    put(w, "\2\0\0\0\0\1\2\0\0\0\0", 11);
    put_many(w, f->mac, 1);
    for (i = 0; i < f->tag_count; i++) {
        put16(field, f->tags[i]);
        put16(field + 2, (unsigned)(0x2001 + i));
        put(w, field, 4);
    }
    put16(field, f->version == 4 ? 0x0800 : 0x86dd);
    put(w, field, 2);
    w->network = w->length;
}

static void
put_ipv4(struct frame *w, const struct flow *f)
{
    uint8_t ip[20] = {0}, *options;

    ip[0] = (uint8_t)(0x40 | (20 + f->options) / 4);
    ip[1] = f->tos;
    put16(ip + 4, f->id);
    put16(ip + 6, f->fragment);
    ip[8] = f->ttl;
    ip[9] = f->protocol;
    ip[12] = 10;
    ip[13] = f->host;
    put16(ip + 14, f->tuning);
    memcpy(ip + 16, "\12\1\1\2", 4);
    put(w, ip, 20);
    put_many(w, f->filler, f->options);
    if (f->route > 0) {
        options = w->bytes + w->length - f->options;
        options[0] = f->route;
        options[1] = 7;
        options[2] = f->route_left > 0 ? 4 : 8;
    }
}

static void
put_ipv6(struct frame *w, const struct flow *f)
{
    uint8_t ip[40] = {0}, extension[8] = {0, 0, 1, 4, 0, 0, 0, 0};
    size_t i, n = f->extension_count;

    put16(ip, 0x6000u | (unsigned)f->tos << 4 | f->label >> 16);
    put16(ip + 2, f->label);
    ip[6] = n > 0 ? f->extensions[0] : f->protocol;
    ip[7] = f->ttl;
    ip[23] = f->host;
    ip[39] = 2;
    put(w, ip, 40);
    for (i = 0; i < n; i++) {
        bool is_route = f->extensions[i] == 43;

        extension[0] = i + 1 < n ? f->extensions[i + 1] : f->protocol;
        extension[1] = is_route && f->route_known ? 2 : 0;
        extension[2] = is_route ? f->route : 1;
        extension[3] = is_route ? f->route_left : 4;
        extension[7] = f->filler;
        put(w, extension, 8);
        put_many(w, f->filler, extension[1] * 8u);
    }
}

static void
put_transport(struct frame *w, const struct flow *f)
{
    uint8_t header[20] = {0};

    put16(header, 1000u + f->port);
    put16(header + 2, 9);
    if (f->protocol == UDP) {
        put(w, header, 8);
        return;
    }
    put16(header + 4, f->sequence >> 16);
    put16(header + 6, f->sequence);
    put16(header + 8, f->ack >> 16);
    put16(header + 10, f->ack);
    header[12] = (uint8_t)((20 + f->tcp_options) / 4 << 4 | f->low);
    header[13] = f->flags;
    put16(header + 14, f->window);
    put(w, header, 20);
    put_many(w, f->filler, f->tcp_options);
}

static struct shape
shape_of(const struct frame *w, const struct flow *f)
{
    return (struct shape){
        .network = w->network,
        .transport = w->transport,
        .end = w->length,
        .version = f->version,
        .protocol = f->protocol,
    };
}

/* Writes the checksum of TCP or UDP. */
static void
finish(struct frame *w, const struct flow *f)
{
    struct shape shape = shape_of(w, f);
    size_t at = checksum_at(&shape), n = w->length - w->transport;
    unsigned sum;

    write_lengths(w->bytes, w->length, &shape);
    put16(w->bytes + at, 0);
    sum = 0xffff
          ^ fold(pseudo_sum(w->bytes, &shape, n)
                 + sum_of(w->bytes + w->transport, n));
    put16(w->bytes + at, sum == 0 && f->protocol == UDP ? 0xffff : sum);
}

static void
write_frame(struct frame *w, const struct flow *f, uint8_t seed)
{
    size_t i;

    w->length = 0;
    memset(&w->header, 0, sizeof(w->header));
    put_link(w, f);
    if (f->version == 4) {
        put_ipv4(w, f);
    }
    else {
        put_ipv6(w, f);
    }
    w->transport = w->length;
    put_transport(w, f);
    w->payload = w->length;
    for (i = 0; i < f->size; i++) {
        w->bytes[w->length++] = (uint8_t)(seed + i * 7);
    }
    finish(w, f);
}

/* Makes the IPv4 checksum of a frame of the flow 0: the next one, or a later
   one if ids count up. */
static void
tune_flow(struct choices *c, struct flow *f)
{
    static struct frame w;
    struct flow later = *f;

    later.id += (uint16_t)(choose(c, 4) * f->id_step);
    write_frame(&w, &later, 0);
    if (f->version == 4) {
        f->tuning = (uint16_t)fold((uint64_t)f->tuning
                                   + be16(w.bytes + w.network + 10));
    }
}

/* Chooses the payload so that some frames fill the longest super-frame that is
   allowed, or are one byte longer; or so that each frame is longer. */
static void
fill_up(struct choices *c, struct flow *f)
{
    static struct frame w;
    size_t total = MAX_SUPER_FRAME + choose(c, 2), n = 1 + choose(c, 64);

    if (one_in(c, 4)) {
        n = 1;
        total = MAX_SUPER_FRAME + choose(c, 15);
    }
    write_frame(&w, f, 0);
    total -= w.payload;
    while (total % n > 0) {
        n--;
    }
    f->size = total / n;
}

/* ---- What is unusual about a frame -------------------------------------- */

static void
change_tcp(struct choices *c, struct flow *f)
{
    static const uint8_t bits[] = {0x01, 0x02, 0x04, 0x08,
                                   0x20, 0x40, 0x80, 0x09};

    switch (choose(c, 9)) {
    case 0:
        f->flags |= 0x08;
        break;
    case 1:
        f->flags ^= bits[choose(c, 8)];
        break;
    case 2:
        f->sequence += 1 + choose(c, 300);
        break;
    case 3:
        f->sequence -= (uint32_t)f->size;
        break;
    case 4:
        f->ack++;
        break;
    case 5:
        f->window++;
        break;
    case 6:
        f->low ^= (uint8_t)(1 << choose(c, 4));
        break;
    case 7:
        f->tcp_options = (f->tcp_options + 4) % 44;
        break;
    default:
        f->flags ^= (uint8_t)next_byte(c);
    }
}

static void
change_ip(struct choices *c, struct flow *f)
{
    switch (choose(c, 11)) {
    case 0:
        f->id += (uint16_t)(1 + choose(c, 3));
        break;
    case 1:
        f->id -= (uint16_t)(1 + choose(c, 2));
        break;
    case 2:
        f->tos ^= (uint8_t)(1 + choose(c, 3));
        break;
    case 3:
        f->tos ^= (uint8_t)(4 << choose(c, 6));
        break;
    case 4:
        f->ttl--;
        break;
    case 5:
        f->label ^= 1u << choose(c, 20);
        break;
    case 6:
        f->fragment ^= (uint16_t)(0x2000 << choose(c, 3));
        break;
    case 7:
        f->fragment += (uint16_t)(1 + choose(c, 100));
        break;
    case 8:
        f->options = (f->options + 4) % 44;
        break;
    case 9:
        f->route_left ^= 1;
        break;
    default:
        f->extension_count = (f->extension_count + 1) % 4;
    }
}

static void
change_rest(struct choices *c, struct flow *f)
{
    switch (choose(c, 9)) {
    case 0:
        f->size = 1 + choose(c, (unsigned)f->size + 1);
        break;
    case 1:
        f->size += 1 + choose(c, 2);
        break;
    case 2:
        f->size = 0;
        break;
    case 3:
        f->filler ^= 1;
        break;
    case 4:
        f->mac++;
        break;
    case 5:
        f->tag_count = (f->tag_count + 1 + choose(c, 3)) % 9;
        break;
    case 6:
        f->tags[0] ^= 0x8100 ^ 0x88a8;
        break;
    case 7:
        f->port ^= 1;
        break;
    default:
        f->protocol = TCP + UDP - f->protocol;
    }
}

/* Changes a field, before the frame is written: the lengths and checksums of
   the frame will be right. */
static void
change_fields(struct choices *c, struct flow *f)
{
    switch (choose(c, 3)) {
    case 0:
        change_tcp(c, f);
        break;
    case 1:
        change_ip(c, f);
        break;
    default:
        change_rest(c, f);
    }
}

/* Makes the sum of TCP or UDP 0xffff, so that the checksum is 0. */
static void
tune(struct frame *w, const struct flow *f)
{
    struct shape shape = shape_of(w, f);
    uint8_t *checksum = w->bytes + checksum_at(&shape);
    uint8_t *word = w->bytes + w->payload + (w->payload - w->transport) % 2;

    if (f->size >= 3 && f->protocol == TCP) {
        put16(word, fold((uint64_t)be16(word) + be16(checksum)));
        finish(w, f);
    }
    else if (f->size >= 3 && be16(checksum) != 0xffff) {
        put16(word, fold((uint64_t)be16(word) + be16(checksum)));
        finish(w, f);
    }
}

/* Leaves the checksum open, as a sender does for its device. */
static void
leave_open(struct choices *c, struct frame *w, const struct flow *f)
{
    struct shape shape = shape_of(w, f);
    size_t at = checksum_at(&shape);
    unsigned sum =
        fold(pseudo_sum(w->bytes, &shape, w->length - w->transport));

    put16(w->bytes + at, sum);
    w->header.flags = VNET_NEEDS_CSUM;
    w->header.checksum_start = (uint16_t)w->transport;
    w->header.checksum_offset = (uint16_t)(at - w->transport);
    switch (choose(c, 16)) {
    case 11:
        /* The same field, but other bytes in the sum. */
        w->header.checksum_start -= 2;
        w->header.checksum_offset += 2;
        break;
    case 12:
        put16(w->bytes + at, sum + 1);
        break;
    case 13:
        w->header.checksum_offset ^= 22;
        break;
    case 14:
        w->header.checksum_start = (uint16_t)choose(c, 300);
        break;
    case 15:
        w->header.header_length = (uint16_t)choose(c, 300);
        break;
    default:
        break;
    }
}

/* Makes a super-frame of it, of which nothing is promised except that it is
   copied. */
static void
make_super_frame(struct choices *c, struct frame *w, const struct flow *f)
{
    leave_open(c, w, f);
    w->header.gso_type = f->protocol == UDP ? GSO_UDP_L4
                         : f->version == 4  ? GSO_TCPV4
                                            : GSO_TCPV6;
    w->header.gso_type |= one_in(c, 8) ? GSO_ECN : 0;
    w->header.gso_size = (uint16_t)(1 + choose(c, (unsigned)f->size + 1));
    w->header.header_length = (uint16_t)w->payload;
}

/* Adds bytes behind the datagram. */
static void
pad(struct choices *c, struct frame *w)
{
    put_many(w, 0, 1 + choose(c, 20));
}

/* The two forms of zero: exchanges a checksum of 0 and one of 0xffff. */
static void
exchange_zero(uint8_t *checksum)
{
    if (be16(checksum) == 0 || be16(checksum) == 0xffff) {
        put16(checksum, 0xffff ^ be16(checksum));
    }
}

/* Changes what is about the checksums of a frame that is written. */
static void
change_checksum(struct choices *c, struct frame *w, const struct flow *f)
{
    struct shape shape = shape_of(w, f);
    uint8_t *ip = w->bytes + w->network;
    uint8_t *checksum = w->bytes + checksum_at(&shape);

    switch (choose(c, 11)) {
    case 0:
        tune(w, f);
        break;
    case 1:
        tune(w, f);
        exchange_zero(checksum);
        break;
    case 2:
        tune(w, f);
        leave_open(c, w, f);
        break;
    case 3:
        checksum[choose(c, 2)] ^= (uint8_t)(1 << choose(c, 8));
        break;
    case 4:
        put16(checksum, 0);
        break;
    case 5:
        ip[f->version == 4 ? 10 + choose(c, 2) : 5] ^= 1;
        break;
    case 6:
        exchange_zero(ip + 10);
        break;
    case 7:
        w->header.flags = (uint8_t)(choose(c, 4) << 1);
        break;
    default:
        leave_open(c, w, f);
    }
}

/* Changes the length of a frame that is written, or one in its headers. */
static void
change_length(struct choices *c, struct frame *w, const struct flow *f)
{
    struct shape shape = shape_of(w, f);
    size_t length = w->length;

    switch (choose(c, 4)) {
    case 0:
        pad(c, w);
        break;
    case 1:
        w->length -= choose(c, (unsigned)w->length);
        break;
    case 2:
        /* It ends within its TCP or UDP header. */
        w->length = w->transport + choose(c, 12);
        shape.protocol = TCP;
        write_lengths(w->bytes, w->length, &shape);
        break;
    default:
        /* The headers give another length. */
        length += one_in(c, 2) ? 1 : (size_t)-1;
        shape.protocol = choose(c, 2) ? TCP : UDP;
        write_lengths(w->bytes, length, &shape);
    }
}

/* Changes bytes of a frame that is written. */
static void
change_bytes(struct choices *c, struct frame *w, const struct flow *f)
{
    static const uint8_t others[] = {1, 58, 132, 51, 44};
    struct shape shape = shape_of(w, f);
    uint8_t *ip = w->bytes + w->network;

    switch (choose(c, 5)) {
    case 0:
        make_super_frame(c, w, f);
        break;
    case 1:
        /* Of the headers. */
        w->bytes[choose(c, (unsigned)w->payload)] ^=
            (uint8_t)(1 << choose(c, 8));
        break;
    case 2:
        /* ICMP, ICMPv6, SCTP, AH or an IPv6 fragment. */
        ip[f->version == 4 ? 9 : 6] = others[choose(c, 5)];
        if (f->version == 4) {
            write_lengths(w->bytes, w->length, &shape);
        }
        break;
    case 3:
        w->bytes[12 + 4 * f->tag_count] ^= (uint8_t)(1 + choose(c, 255));
        break;
    default:
        w->bytes[choose(c, (unsigned)w->length)] = (uint8_t)next_byte(c);
    }
}

/* Changes a frame that is written. */
static void
change_frame(struct choices *c, struct frame *w, const struct flow *f)
{
    switch (choose(c, 4)) {
    case 0:
        change_length(c, w, f);
        break;
    case 1:
        change_bytes(c, w, f);
        break;
    default:
        change_checksum(c, w, f);
    }
}

/* ---- Batches ------------------------------------------------------------ */

static void
keep_frame(struct rows *r, const struct frame *w)
{
    size_t i = r->table.count;

    add_row(r, w->length);
    memcpy(frame_of(r, i), w->bytes, w->length);
    r->lengths[i] = (uint32_t)w->length;
    r->headers[i] = w->header;
}

/* Makes the source: frames of some flows, of which one in `oddity` is
   unusual. */
static void
choose_frames(struct choices *c, struct rows *r)
{
    static const unsigned oddities[] = {8, 2, 30, 100};
    struct flow flows[MAX_FLOWS], f;
    size_t flow_count = 1 + choose(c, MAX_FLOWS), i;
    size_t frame_count = 1 + choose(c, MAX_ROWS - 1), burst = 0, k = 0;
    unsigned oddity = oddities[choose(c, 4)];
    unsigned bursts = 1 + (choose(c, 2) ? choose(c, 60) : choose(c, 3));
    static struct frame w;

    for (i = 0; i < flow_count; i++) {
        flows[i] = choose_flow(c, (uint8_t)i);
        if (one_in(c, 3)) {
            tune_flow(c, &flows[i]);
        }
        if (one_in(c, 20)) {
            fill_up(c, &flows[i]);
        }
    }
    begin_rows(r);
    while (r->table.count < frame_count && (c->state != 0 || c->left > 0)) {
        if (burst == 0) {
            k = choose(c, (unsigned)flow_count);
            burst = 1 + choose(c, bursts);
        }
        burst--;
        f = flows[k];
        if (one_in(c, oddity)) {
            change_fields(c, &f);
        }
        write_frame(&w, &f, (uint8_t)next_byte(c));
        if (one_in(c, oddity)) {
            change_frame(c, &w, &f);
        }
        keep_frame(r, &w);
        advance(&flows[k], &f);
    }
}

static void
choose_rows(struct choices *c, struct rows *r)
{
    static const uint32_t rooms[] = {66000, 65535, 9000, 2048, 1514, 100};
    size_t room = rooms[choose(c, 6)], count = 1 + choose(c, MAX_ROWS - 1);
    bool same = !one_in(c, 4);

    begin_rows(r);
    while (r->table.count < count) {
        add_row(r, same ? room : 60 + choose(c, (unsigned)room));
    }
}

static struct rules
choose_rules(struct choices *c)
{
    struct rules rules = {
        .flows = one_in(c, 2) ? 1 : 1 + choose(c, MAX_FLOWS),
        .segments = one_in(c, 3) ? 1 + choose(c, MOST_SEGMENTS) : 64,
        .max_length = one_in(c, 4) ? choose(c, 2000) : SIZE_MAX,
        .keep_ids = !one_in(c, 3),
        .udp = !one_in(c, 8),
        .plain = one_in(c, 4),
    };

    return rules;
}

static unsigned long long merged_frames, merged_rows;

/* Returns how many frames the batch had. */
static size_t
run(struct choices *c)
{
    static struct model m;
    static struct rows from, before, to;
    struct rules rules = choose_rules(c);
    size_t i, at = 0, count;

    choose_rows(c, &to);
    choose_frames(c, &from);
    if (rules.plain) {
        memset(from.headers, 0, sizeof(from.headers));
    }
    copy_rows(&from, &before);
    count = from.table.count;
    for (i = 0; i < count; i++) {
        see(&m.seen[i], &from, i, &rules);
    }
    while (at < count) {
        at = try_merge(&m, &from, &to, at, &rules);
        for (i = 0; i < m.written; i++) {
            merged_rows += m.made[i].count > 1;
            merged_frames += m.made[i].count > 1 ? m.made[i].count : 0;
        }
    }
    for (i = 0; i < count; i++) {
        is_same_frame(&before, &from, i);
        free(m.seen[i].bytes);
    }
    free_rows(&from);
    free_rows(&before);
    free_rows(&to);
    return count;
}

#ifdef RANDOM

static unsigned long long seed;

/* Says how to repeat the batch that breaks a promise. */
static void
say_seed(int number)
{
    char text[64];
    int n = snprintf(text, sizeof(text), "seed: %llu\n", seed);

    (void)number;
    (void)!write(2, text, (size_t)n);
    signal(SIGABRT, SIG_DFL);
    abort();
}

int
main(int argc, char **argv)
{
    unsigned long long wanted, done = 0;
    struct choices c = {0};

    signal(SIGABRT, say_seed);
    signal(SIGSEGV, say_seed);
    promise(argc == 3, "there are two arguments: SEED FRAMES");
    seed = strtoull(argv[1], NULL, 10);
    wanted = strtoull(argv[2], NULL, 10);
    while (done < wanted) {
        /* Each batch has a seed of its own, with which it can be repeated. */
        c.state = (seed + 1) * 0x9e3779b97f4a7c15u;
        done += run(&c);
        seed++;
    }
    printf("%llu frames, %llu of them merged into %llu\n", done, merged_frames,
           merged_rows);
    return 0;
}

#else

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct choices c = {data, size, 0};

    run(&c);
    return 0;
}

#endif

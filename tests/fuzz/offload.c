/* A libFuzzer target for _rawmmsg_offload.c; tests/fuzz/offload.py builds and
   runs it.

   An input is a few frames with their offload headers. Every function of the
   header is called with them. All memory has exactly the size that is needed,
   so AddressSanitizer reports each access beyond it. The results must be equal
   to those of the plain code below, to the byte.

       1 byte    the rows of the target, less 1, modulo 16
       2 bytes   the bytes of each row
       2 bytes   the segment to begin with
       1 byte    flows and segments for merge_frames(), less 1, modulo 4 and 64
       1 byte    its flags: 1 max_length is given, 2 keep_ids, 4 no UDP
       2 bytes   max_length
       then for each frame, at most MAX_FRAMES:
       12 bytes  struct offload_header
       2 bytes   n
       2 bytes   half the number of bytes to append to the n bytes below
       1 byte    k: the length is the frame's size less k if k < 128, otherwise
                 the size plus k - 127, which is beyond the frame
       n bytes   the frame
*/

#include "merge_check.h"
#include "sums.h"

#define MAX_FRAMES 4
/* A super-frame can have 65,535 segments, but after the first ones they only
   repeat the same. */
#define MAX_SEGMENTS_SEEN 600

/* The part of the input that has not been read yet. */
struct input {
    const uint8_t *at;
    size_t left;
};

/* ---- Input -------------------------------------------------------------- */

static void
take(struct input *in, void *out, size_t size)
{
    size_t n = size < in->left ? size : in->left;

    memset(out, 0, size);
    memcpy(out, in->at, n);
    in->at += n;
    in->left -= n;
}

static unsigned
take_number(struct input *in, size_t size)
{
    uint8_t bytes[2] = {0};

    take(in, bytes, size);
    return bytes[0] | (unsigned)bytes[1] << 8;
}

static void
take_frame(struct input *in, struct rows *r)
{
    size_t i = r->table.count;
    size_t n, more, k;
    unsigned slack;

    take(in, &r->headers[i], sizeof(r->headers[i]));
    n = take_number(in, 2);
    more = 2 * take_number(in, 2);
    slack = take_number(in, 1);
    n = n < in->left ? n : in->left;
    add_row(r, n + more);
    take(in, frame_of(r, i), n);
    for (k = n; k < n + more; k++) {
        frame_of(r, i)[k] = (uint8_t)(k % 251);
    }
    r->lengths[i] = (uint32_t)(slack >= 128        ? n + more + slack - 127
                               : slack <= n + more ? n + more - slack
                                                   : 0);
    r->flags[i] = CHECKSUM_NOT_READY;
}

/* ---- What is right ------------------------------------------------------ */

/* The checksum of a segment whose header is complete except for it; `all` is
   the super-frame. */
static unsigned
segment_checksum(const uint8_t *segment, const uint8_t *all,
                 const struct offload_header *h, const struct shape *s,
                 size_t n)
{
    size_t transport = s->transport - s->removed, size = n - transport;
    bool udp = s->protocol == UDP;
    const uint8_t *field = all + s->transport + (udp ? 6 : 16);
    const uint8_t *addresses = all + s->network + (s->version == 4 ? 12 : 8);
    size_t length = udp ? be16(all + s->transport + 4) : s->end - s->transport;
    unsigned checksum;
    uint64_t sum;

    if (h->flags & VNET_NEEDS_CSUM) {
        sum = be16(field) + (0xffff ^ fold(length));
    }
    else {
        sum = s->protocol + sum_of(addresses, s->version == 4 ? 8 : 32);
    }
    sum += size + sum_of(segment + transport, size);
    checksum = 0xffff ^ fold(sum);
    return udp && checksum == 0 ? 0xffff : checksum;
}

/* Changes the headers of segment i, of n bytes, from those of the super-frame
   to what they must be. */
static void
fix_headers(uint8_t *out, size_t n, const uint8_t *all,
            const struct offload_header *h, const struct shape *s, size_t i,
            bool last)
{
    uint8_t *ip = out + s->network;
    uint8_t *header = out + s->transport - s->removed;
    bool udp = s->protocol == UDP;
    uint8_t *checksum = header + (udp ? 6 : 16);
    uint64_t sequence;

    if (s->version == 4) {
        put16(ip + 2, (unsigned)(n - s->network));
        put16(ip + 4, be16(ip + 4) + (unsigned)i);
        put16(ip + 10, 0);
        put16(ip + 10, 0xffff ^ fold(sum_of(ip, s->transport - s->network)));
    }
    else {
        put16(ip + 4, (unsigned)(n - s->network - 40));
        if (s->removed > 0) {
            ip[6] = all[s->network + 40];
        }
    }
    if (udp) {
        put16(header + 4, (unsigned)(out + n - header));
    }
    else {
        sequence = ((uint64_t)be16(header + 4) << 16 | be16(header + 6))
                   + i * h->gso_size;
        put16(header + 4, (unsigned)(sequence >> 16));
        put16(header + 6, (unsigned)sequence);
        /* FIN and PSH in the last one alone, CWR in the first. */
        header[13] &= (uint8_t)~((last ? 0 : 0x09) | (i > 0 ? 0x80 : 0));
    }
    put16(checksum, 0);
    put16(checksum, segment_checksum(out, all, h, s, n));
}

/* ---- What must hold ----------------------------------------------------- */

static bool
is_open(const struct offload_header *h)
{
    return h->gso_type == GSO_NONE && (h->flags & VNET_NEEDS_CSUM);
}

static void
try_complete(const struct rows *given)
{
    const char *reason = NULL, *again = NULL;
    size_t at = 0, done, ended, expected = 0, i;
    struct rows got, wanted;

    copy_rows(given, &got);
    copy_rows(given, &wanted);
    done = complete_frames(&got.table, &at, &reason);
    ended = reason == NULL ? given->table.count : at;
    promise(ended <= given->table.count, "a reason names a frame");
    for (i = 0; i < ended; i++) {
        promise(given->lengths[i] <= given->parts[2 * i + 1].iov_len,
                "no length is beyond its frame");
        if (is_open(&given->headers[i])) {
            complete(frame_of(&wanted, i), given->lengths[i],
                     &given->headers[i]);
            wanted.headers[i].flags &= (uint8_t)~VNET_NEEDS_CSUM;
            wanted.flags[i] = 0;
            expected++;
        }
    }
    promise(done == expected, "each frame completed is counted");
    for (i = 0; i < given->table.count; i++) {
        is_same_frame(&wanted, &got, i);
        promise(wanted.flags[i] == got.flags[i], "flags fit");
        promise(wanted.headers[i].flags == got.headers[i].flags,
                "header fits");
    }
    promise(complete_frames(&got.table, &at, &again) == 0, "once is enough");
    promise(again == reason, "a reason stays");
    free_rows(&got);
    free_rows(&wanted);
}

static void
try_check(const struct rows *given, size_t start)
{
    const char *reason = NULL;
    struct rows got, wanted;
    size_t done, i;

    copy_rows(given, &got);
    copy_rows(given, &wanted);
    done = check_frames(&got.table, start, &reason);
    promise((reason == NULL) == (start + done == given->table.count),
            "a reason goes with a frame");
    for (i = start; i < start + done; i++) {
        const struct offload_header *h = &given->headers[i];
        size_t n = given->parts[2 * i + 1].iov_len;
        struct shape s;

        promise(h->header_length <= n, "header_length is within the frame");
        promise(!(h->flags & VNET_NEEDS_CSUM)
                    || h->checksum_start + h->checksum_offset + 2u <= n,
                "the checksum is within the frame");
        if (is_open(h) && h->checksum_offset == 8
            && parse(frame_of(given, i), n, &s) && s.protocol == SCTP
            && s.transport == h->checksum_start) {
            complete(frame_of(&wanted, i), n, h);
        }
    }
    for (i = 0; i < given->table.count; i++) {
        is_same_frame(&wanted, &got, i);
    }
    free_rows(&got);
    free_rows(&wanted);
}

/* Compares one frame of the target with what it must be: this segment of this
   frame. Then advances both. */
static void
is_right_segment(const struct rows *from, size_t *frame, size_t *segment,
                 const uint8_t *out, size_t n)
{
    const struct offload_header *h = &from->headers[*frame];
    size_t length = from->lengths[*frame], payload, headers, count = 1, first;
    const uint8_t *all = frame_of(from, *frame);
    uint8_t *wanted = malloc(length + 1);
    struct shape s = {0};

    promise(wanted != NULL, "there is memory");
    memcpy(wanted, all, length);
    if (h->gso_type != GSO_NONE) {
        promise(parse(all, length, &s), "what is cut is a datagram");
        promise(s.protocol == (h->gso_type == GSO_UDP_L4 ? UDP : TCP),
                "what is cut is of its gso_type");
        payload =
            s.transport
            + (s.protocol == UDP ? 8 : (all[s.transport + 12] >> 4) * 4u);
        promise(payload <= s.end, "its headers are within the datagram");
        count = (s.end - payload + h->gso_size - 1) / h->gso_size;
    }
    if (count > 1) {
        first = payload + *segment * h->gso_size;
        headers = payload - s.removed;
        length = headers
                 + (s.end - first < h->gso_size ? s.end - first : h->gso_size);
        memmove(wanted + s.network + 40, all + s.network + 40 + s.removed,
                s.removed > 0 ? headers - s.network - 40 : 0);
        memcpy(wanted + headers, all + first, length - headers);
        fix_headers(wanted, length, all, h, &s, *segment,
                    *segment + 1 == count);
    }
    else if (h->flags & VNET_NEEDS_CSUM) {
        complete(wanted, length, h);
    }
    promise(n == length, "a segment has its length");
    promise(memcmp(wanted, out, n) == 0, "a segment is as it must be");
    free(wanted);
    *segment += 1;
    if (*segment >= count) {
        *segment = 0;
        *frame += 1;
    }
}

static void
try_segment(const struct rows *given, size_t rows, size_t room, size_t segment)
{
    size_t frame = 0, seen = 0, i;
    struct rows from, to;
    struct segmentation g = {.segment = (uint32_t)segment};

    copy_rows(given, &from);
    begin_rows(&to);
    while (to.table.count < rows) {
        add_row(&to, room);
    }
    g.from = from.table;
    g.to = to.table;
    do {
        g.written = 0;
        g.reason = NULL;
        segment_frames(&g);
        promise(g.written <= rows, "the target has not more than its rows");
        promise(g.reason != NULL || g.written == rows
                    || g.frame == from.table.count,
                "it goes on until all is done");
        for (i = 0; i < g.written; i++) {
            promise(to.lengths[i] <= room, "a segment fits its frame");
            is_right_segment(given, &frame, &segment, frame_of(&to, i),
                             to.lengths[i]);
        }
        promise(g.frame == frame && g.segment == segment,
                "it says where it is");
        seen += g.written;
    } while (g.written > 0 && g.frame < from.table.count
             && seen < MAX_SEGMENTS_SEEN);
    for (i = 0; i < given->table.count; i++) {
        is_same_frame(given, &from, i);
    }
    free_rows(&from);
    free_rows(&to);
}

/* Merges all frames, as often as the target is full. */
static void
try_merging(const struct rows *given, size_t rows, size_t room,
            const struct rules *rules)
{
    static struct model m;
    struct rows from, to;
    size_t i, at = 0;

    copy_rows(given, &from);
    begin_rows(&to);
    while (to.table.count < rows) {
        add_row(&to, room);
    }
    for (i = 0; i < from.table.count; i++) {
        see(&m.seen[i], &from, i, rules);
    }
    while (at < from.table.count) {
        at = try_merge(&m, &from, &to, at, rules);
    }
    for (i = 0; i < from.table.count; i++) {
        is_same_frame(given, &from, i);
        free(m.seen[i].bytes);
    }
    free_rows(&from);
    free_rows(&to);
}

static struct rules
take_rules(struct input *in)
{
    unsigned limits = take_number(in, 1), flags = take_number(in, 1);
    unsigned max_length = take_number(in, 2);

    return (struct rules){
        .flows = limits % 4 + 1,
        .segments = limits / 4 + 1,
        .max_length = flags & 1 ? max_length : SIZE_MAX,
        .keep_ids = flags & 2,
        .udp = !(flags & 4),
    };
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    size_t rows = take_number(&in, 1) % MAX_ROWS + 1;
    size_t room = take_number(&in, 2);
    size_t segment = take_number(&in, 2);
    struct rules rules = take_rules(&in);
    struct rows given;

    begin_rows(&given);
    while (in.left > 0 && given.table.count < MAX_FRAMES) {
        take_frame(&in, &given);
    }
    try_complete(&given);
    try_check(&given, 0);
    try_check(&given, given.table.count / 2);
    try_segment(&given, rows, room, segment);
    try_merging(&given, rows, room, &rules);
    try_compute(&given, true);
    try_compute(&given, false);
    try_verify(&given, true, true);
    try_verify(&given, true, false);
    try_verify(&given, false, false);
    free_rows(&given);
    return 0;
}

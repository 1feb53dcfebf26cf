/* Merging and sending in C, the baseline: UDP datagrams over IPv4 are merged
   into super-frames if the checksums of each are right, and these are sent
   with their offload headers. Datagrams have neither tags nor IP options here;
   any other frame is sent as it is. */

#include "batch.h"
#include "checksum.h"

#include <netinet/in.h>

/* <linux/virtio_net.h> */
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define IP_AT 14
#define UDP_AT 34
#define PAYLOAD_AT 42

#define MOST_SEGMENTS 64 /* as merge_into() by default */
#define MOST_BYTES 65535 /* of a super-frame */
#define STRIDE (65536 + 64)
#define AT_ONCE 16 /* super-frames; see bench/merging/sides.py */

struct side {
    int tx;               /* belongs to the caller */
    struct batch *out;    /* the datagrams */
    struct batch *merged; /* super-frames */
    char *memory;         /* of the super-frames */
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        batch_close(s->out);
        batch_close(s->merged);
        free(s->memory);
        free(s);
    }
}

struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side_setup target = {
        .room = MOST_BYTES,
        .stride = STRIDE,
        .batch = AT_ONCE,
        .options = SIDE_VNET_HDR,
    };
    struct side *s = calloc(1, sizeof(*s));

    if (s != NULL) {
        s->tx = setup->tx;
        s->memory = aligned_alloc(64, (size_t)AT_ONCE * STRIDE);
        s->out = batch_open_full(setup);
        s->merged = batch_open(&target, s->memory);
        if (s->memory != NULL && s->out != NULL && s->merged != NULL) {
            return s;
        }
    }
    fail(error, "memory", "", ENOMEM);
    side_close(s);
    return NULL;
}

/* ---- Merging ------------------------------------------------------------- */

static uint64_t
pseudo_header(const char *frame, size_t length)
{
    return sum(frame + IP_AT + 12, 8)
           + htobe32(IPPROTO_UDP + (uint32_t)(length - UDP_AT));
}

static inline uint16_t
get16(const char *frame, size_t at)
{
    uint16_t value;

    memcpy(&value, frame + at, sizeof(value));
    return be16toh(value);
}

static inline void
put16(char *frame, size_t at, uint16_t value)
{
    value = htobe16(value);
    memcpy(frame + at, &value, sizeof(value));
}

/* Whether the frame is a whole datagram with the checksums that the cutter
   would write. */
static int
can_be_cut(const char *frame, size_t length)
{
    return length > PAYLOAD_AT && get16(frame, 12) == ETH_P_IP
           && frame[IP_AT] == 0x45 && frame[IP_AT + 9] == IPPROTO_UDP
           && (get16(frame, IP_AT + 6) & 0x3fff) == 0 /* a fragment */
           && get16(frame, IP_AT + 2) == length - IP_AT
           && get16(frame, UDP_AT + 4) == length - UDP_AT
           && get16(frame, IP_AT + 10) != 0xffff
           && get16(frame, UDP_AT + 6) != 0
           && fold(sum(frame + IP_AT, 20)) == 0xffff
           && fold(pseudo_header(frame, length)
                   + sum(frame + UDP_AT, length - UDP_AT))
                  == 0xffff;
}

/* Whether all of the header is the same except lengths, id and checksums. */
static inline int
same_flow(const char *a, const char *b)
{
    return memcmp(a, b, IP_AT + 2) == 0
           && memcmp(a + IP_AT + 6, b + IP_AT + 6, 4) == 0
           && memcmp(a + IP_AT + 12, b + IP_AT + 12, 12) == 0;
}

/* Writes the headers of super-frame i, which has `length` bytes. A single
   datagram is complete. */
static void
finish(struct batch *b, unsigned i, size_t length, size_t segment)
{
    char *frame = part_of(b, i)->iov_base;
    uint16_t checksum;

    part_of(b, i)->iov_len = length;
    if (length - PAYLOAD_AT <= segment) {
        memset(&b->headers[i], 0, sizeof(b->headers[i]));
        return;
    }
    b->headers[i] = (struct virtio_net_hdr){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type = VIRTIO_NET_HDR_GSO_UDP_L4,
        .hdr_len = PAYLOAD_AT,
        .gso_size = (uint16_t)segment,
        .csum_start = UDP_AT,
        .csum_offset = 6,
    };
    put16(frame, IP_AT + 2, (uint16_t)(length - IP_AT));
    put16(frame, IP_AT + 10, 0);
    checksum = (uint16_t)~fold(sum(frame + IP_AT, 20));
    memcpy(frame + IP_AT + 10, &checksum, sizeof(checksum));
    put16(frame, UDP_AT + 4, (uint16_t)(length - UDP_AT));
    checksum = fold(pseudo_header(frame, length)); /* the rest is missing */
    memcpy(frame + UDP_AT + 6, &checksum, sizeof(checksum));
}

/* Fills the super-frames with datagrams from `start` on: where to go on. */
static unsigned
merge(struct side *s, unsigned start)
{
    struct batch *to = s->merged;
    size_t length = 0, segment = 0;
    unsigned i, count = 0;
    int open = 0;

    to->count = 0;
    for (i = start; i < s->out->count; i++) {
        const struct iovec *part = part_of(s->out, i);
        const char *frame = part->iov_base;
        size_t payload = part->iov_len - PAYLOAD_AT;
        int good = can_be_cut(frame, part->iov_len);

        if (open && good && count < MOST_SEGMENTS && payload <= segment
            && length + payload <= MOST_BYTES) {
            char *super = part_of(to, to->count)->iov_base;

            if (same_flow(super, frame)
                && get16(frame, IP_AT + 4)
                       == (uint16_t)(get16(super, IP_AT + 4) + count)) {
                memcpy(super + length, frame + PAYLOAD_AT, payload);
                length += payload;
                count++;
                open = payload == segment;
                continue;
            }
        }
        if (length > 0) {
            finish(to, to->count++, length, segment);
            length = 0;
            if (to->count == to->capacity) {
                return i;
            }
        }
        memcpy(part_of(to, to->count)->iov_base, frame, part->iov_len);
        length = part->iov_len;
        segment = payload;
        count = 1;
        open = good;
    }
    if (length > 0) {
        finish(to, to->count++, length, segment);
    }
    return i;
}

/* Merges the batch and sends it, `times` times: 0, or -errno. */
int
side_run(struct side *s, unsigned times)
{
    int error = 0;

    for (; times > 0 && error == 0; times--) {
        unsigned next = 0;

        while (next < s->out->count && error == 0) {
            next = merge(s, next);
            error = batch_send_all(s->merged, s->tx);
        }
    }
    return error;
}

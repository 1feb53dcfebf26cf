/* A batch of frames that is received by recvmmsg(2) from one socket and sent
   by sendmmsg(2) to another as it is. Functions that can fail return
   -errno. */

#ifndef RAWMMSG_BENCH_BATCH_H
#define RAWMMSG_BENCH_BATCH_H

#include "side.h"

#include <linux/if_ether.h>
#include <linux/virtio_net.h>

#define CONTROL_SIZE CMSG_SPACE(sizeof(struct tpacket_auxdata))
#define CACHE_LINE 64
#define TAG_SIZE 4

struct batch {
    unsigned capacity;
    unsigned count;       /* frames held now */
    unsigned header_size; /* of the offload header; 0: none */
    size_t stride, room;  /* bytes from frame to frame, and for each */

    /* Part 2i is frame i's offload header, part 2i + 1 its bytes. */
    struct mmsghdr *in, *out;
    struct iovec *parts;
    struct virtio_net_hdr *headers;
    char *control; /* CONTROL_SIZE for each; NULL: no auxdata */
    char *memory;  /* with a cache line before each frame, for a tag */
};

static inline char *
frame_of(const struct batch *b, unsigned i)
{
    return b->memory + i * b->stride + CACHE_LINE;
}

static inline void
batch_close(struct batch *b)
{
    if (b != NULL) {
        free(b->in);
        free(b->out);
        free(b->parts);
        free(b->headers);
        free(b->control);
        free(b->memory);
        free(b);
    }
}

/* Prepares slot i to receive. These fields are both value and result. */
static inline void
batch_arm(struct batch *b, unsigned i)
{
    struct msghdr *header = &b->in[i].msg_hdr;

    b->parts[2 * i + 1].iov_base = frame_of(b, i);
    b->parts[2 * i + 1].iov_len = b->room;
    header->msg_namelen = 0;
    header->msg_flags = 0;
    header->msg_controllen = b->control != NULL ? CONTROL_SIZE : 0;
}

static inline void
batch_lay_out(struct batch *b)
{
    unsigned skip = b->header_size > 0 ? 0 : 1, i;

    for (i = 0; i < b->capacity; i++) {
        struct msghdr *in = &b->in[i].msg_hdr, *out = &b->out[i].msg_hdr;

        b->parts[2 * i] = (struct iovec){&b->headers[i], b->header_size};
        in->msg_iov = out->msg_iov = &b->parts[2 * i + skip];
        in->msg_iovlen = out->msg_iovlen = 2 - skip;
        if (b->control != NULL) {
            in->msg_control = b->control + i * CONTROL_SIZE;
        }
        batch_arm(b, i);
    }
}

/* NULL if there is no memory. `room` is a multiple of the cache line;
   `options` may have SIDE_VNET_HDR and SIDE_AUXDATA. */
static inline struct batch *
batch_open(unsigned capacity, size_t room, unsigned options)
{
    struct batch *b = calloc(1, sizeof(*b));
    int auxdata = (options & SIDE_AUXDATA) != 0;
    size_t lines = room / CACHE_LINE + 1;

    if (b == NULL) {
        return NULL;
    }
    b->capacity = capacity;
    b->room = room;
    /* Frames a power of two apart would compete for the same cache sets. */
    b->stride = (lines | 1) * CACHE_LINE;
    b->header_size = options & SIDE_VNET_HDR ? sizeof(*b->headers) : 0;
    b->in = calloc(capacity, sizeof(*b->in));
    b->out = calloc(capacity, sizeof(*b->out));
    b->parts = calloc(capacity, 2 * sizeof(*b->parts));
    b->headers = calloc(capacity, sizeof(*b->headers));
    b->control = auxdata ? calloc(capacity, CONTROL_SIZE) : NULL;
    b->memory = aligned_alloc(CACHE_LINE, capacity * b->stride);
    if (b->in == NULL || b->out == NULL || b->parts == NULL
        || b->headers == NULL || b->memory == NULL
        || (auxdata && b->control == NULL)) {
        batch_close(b);
        return NULL;
    }
    memset(b->memory, 0, capacity * b->stride);
    batch_lay_out(b);
    return b;
}

/* Puts a tag that the kernel took out of the frame back into it, and moves the
   offsets of the offload header. */
static inline void
batch_restore_tag(struct batch *b, unsigned i,
                  const struct tpacket_auxdata *aux)
{
    struct iovec *part = &b->parts[2 * i + 1];
    unsigned tpid = aux->tp_status & TP_STATUS_VLAN_TPID_VALID
                        ? aux->tp_vlan_tpid
                        : ETH_P_8021Q;
    unsigned char *frame = (unsigned char *)part->iov_base - TAG_SIZE;

    memmove(frame, part->iov_base, 2 * ETH_ALEN);
    frame[12] = (unsigned char)(tpid >> 8);
    frame[13] = (unsigned char)tpid;
    frame[14] = (unsigned char)(aux->tp_vlan_tci >> 8);
    frame[15] = (unsigned char)aux->tp_vlan_tci;
    part->iov_base = frame;
    part->iov_len += TAG_SIZE;
    if (b->headers[i].hdr_len > 0) {
        b->headers[i].hdr_len += TAG_SIZE;
    }
    if (b->headers[i].flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        b->headers[i].csum_start += TAG_SIZE;
    }
}

static inline void
batch_read_auxdata(struct batch *b, unsigned i)
{
    struct msghdr *header = &b->in[i].msg_hdr;
    struct tpacket_auxdata aux;
    struct cmsghdr *c;

    for (c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA) {
            memcpy(&aux, CMSG_DATA(c), sizeof(aux));
            if (aux.tp_status & TP_STATUS_VLAN_VALID) {
                batch_restore_tag(b, i, &aux);
            }
        }
    }
}

/* One system call that does not wait: how many frames it received, or
   -errno. */
static inline int
batch_receive(struct batch *b, int fd)
{
    unsigned i;
    long n;

    for (i = 0; i < b->count; i++) {
        batch_arm(b, i);
    }
    b->count = 0;
    n = syscall(SYS_recvmmsg, fd, b->in, b->capacity, MSG_DONTWAIT, NULL);
    if (n < 0) {
        return -errno;
    }
    b->count = (unsigned)n;
    for (i = 0; i < b->count; i++) {
        b->parts[2 * i + 1].iov_len = b->in[i].msg_len - b->header_size;
        if (b->control != NULL) {
            batch_read_auxdata(b, i);
        }
    }
    return (int)n;
}

/* One system call that sends the frames from `start` on: how many it sent, or
   -errno. */
static inline int
batch_send(struct batch *b, int fd, unsigned start)
{
    long n = syscall(SYS_sendmmsg, fd, b->out + start, b->count - start,
                     MSG_DONTWAIT);

    return n < 0 ? -errno : (int)n;
}

#endif

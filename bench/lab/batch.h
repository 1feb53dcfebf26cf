/* A batch of frames for recvmmsg(2) and sendmmsg(2), whose messages are
   prepared once. It can be received from one socket and sent to another as it
   is. Functions that can fail return -errno. */

#pragma once

#include "side.h"

#include <linux/if_ether.h>
#include <linux/virtio_net.h>

#define TAG_SIZE 4

/* <asm-generic/socket.h> */
#ifndef SCM_TIMESTAMPNS
#define SCM_TIMESTAMPNS 35
#endif

struct batch {
    unsigned capacity;
    unsigned count;       /* frames in it now */
    unsigned header_size; /* of the offload header; 0: none */
    unsigned parts_each;  /* 2 with offload headers, 1 without */
    size_t stride, room;  /* bytes from frame to frame, and for each */
    char *first;          /* the first frame, in the caller's memory */
    int restores;         /* puts VLAN tags back into the frames */

    /* Owned by the batch. */
    struct mmsghdr *in, *out;
    struct iovec *parts; /* of each frame: its offload header, its bytes */
    struct virtio_net_hdr *headers;
    size_t control_size;
    char *control; /* control_size for each */
};

static inline struct iovec *
part_of(const struct batch *b, unsigned i)
{
    return &b->parts[i * b->parts_each + b->parts_each - 1];
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
        free(b);
    }
}

/* Prepares frame i to be received. These fields are both value and result. */
static inline void
batch_arm(struct batch *b, unsigned i)
{
    struct msghdr *header = &b->in[i].msg_hdr;

    *part_of(b, i) = (struct iovec){b->first + i * b->stride, b->room};
    header->msg_namelen = 0;
    header->msg_flags = 0;
    header->msg_controllen = b->control_size;
}

/* The batch of a setup, with SIDE_AUXDATA, SIDE_STAMPS and SIDE_VNET_HDR,
   whose frames are in the caller's `memory`. With SIDE_FORWARD it restores
   VLAN tags, for which the memory has room before each frame. NULL if there is
   no memory. */
static inline struct batch *
batch_open(const struct side_setup *setup, char *memory)
{
    struct batch *b = calloc(1, sizeof(*b));
    unsigned n = setup->batch, i;

    if (b == NULL) {
        return NULL;
    }
    b->capacity = n;
    b->room = setup->room;
    b->stride = setup->stride;
    b->first = memory;
    b->restores = (setup->options & SIDE_FORWARD) != 0;
    b->header_size = setup->options & SIDE_VNET_HDR ? sizeof(*b->headers) : 0;
    b->parts_each = b->header_size > 0 ? 2 : 1;
    if (setup->options & SIDE_AUXDATA) {
        b->control_size += CMSG_SPACE(sizeof(struct tpacket_auxdata));
    }
    if (setup->options & SIDE_STAMPS) {
        b->control_size += CMSG_SPACE(sizeof(struct timespec));
    }
    b->in = calloc(n, sizeof(*b->in));
    b->out = calloc(n, sizeof(*b->out));
    b->parts = calloc(n, b->parts_each * sizeof(*b->parts));
    b->headers = calloc(n, sizeof(*b->headers));
    b->control = calloc(n, b->control_size + 1);
    if (b->in == NULL || b->out == NULL || b->parts == NULL
        || b->headers == NULL || b->control == NULL) {
        batch_close(b);
        return NULL;
    }
    for (i = 0; i < n; i++) {
        struct msghdr *in = &b->in[i].msg_hdr, *out = &b->out[i].msg_hdr;

        if (b->header_size > 0) {
            b->parts[2 * i] = (struct iovec){&b->headers[i], b->header_size};
        }
        in->msg_iov = out->msg_iov = &b->parts[i * b->parts_each];
        in->msg_iovlen = out->msg_iovlen = b->parts_each;
        in->msg_control = b->control + i * b->control_size;
        batch_arm(b, i);
    }
    return b;
}

/* A batch that is full of the frames to send. */
static inline struct batch *
batch_open_full(const struct side_setup *setup)
{
    struct batch *b = batch_open(setup, setup->out);
    unsigned i;

    for (i = 0; b != NULL && i < b->capacity; i++) {
        part_of(b, i)->iov_len = setup->size;
        b->count = i + 1;
    }
    return b;
}

/* Puts a tag that the kernel took out of the frame back into it, and moves the
   offsets of the offload header. */
static inline void
batch_restore_tag(struct batch *b, unsigned i,
                  const struct tpacket_auxdata *aux)
{
    struct iovec *part = part_of(b, i);
    int known = (aux->tp_status & TP_STATUS_VLAN_TPID_VALID) != 0;
    uint16_t tag[] = {htobe16(known ? aux->tp_vlan_tpid : ETH_P_8021Q),
                      htobe16(aux->tp_vlan_tci)};
    char *frame = (char *)part->iov_base - TAG_SIZE;

    memmove(frame, part->iov_base, 2 * ETH_ALEN);
    memcpy(frame + 2 * ETH_ALEN, tag, sizeof(tag));
    part->iov_base = frame;
    part->iov_len += TAG_SIZE;
    if (b->headers[i].hdr_len > 0) {
        b->headers[i].hdr_len += TAG_SIZE;
    }
    if (b->headers[i].flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        b->headers[i].csum_start += TAG_SIZE;
    }
}

/* Reads the VLAN tag and the timestamp of frame i. */
static inline void
batch_read_control(struct batch *b, unsigned i, struct arrival *frame)
{
    struct msghdr *header = &b->in[i].msg_hdr;
    struct cmsghdr *c;

    for (c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA) {
            struct tpacket_auxdata aux;

            memcpy(&aux, CMSG_DATA(c), sizeof(aux));
            frame->tagged = (aux.tp_status & TP_STATUS_VLAN_VALID) != 0;
            if (frame->tagged && b->restores) {
                batch_restore_tag(b, i, &aux);
            }
        }
        else if (c->cmsg_level == SOL_SOCKET
                 && c->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec stamp;

            memcpy(&stamp, CMSG_DATA(c), sizeof(stamp));
            frame->stamped = stamp.tv_sec != 0;
        }
    }
}

/* One system call that does not wait: how many frames it received, or -errno.
   Calls `put` with each unless that is NULL. */
static inline int
batch_receive(struct batch *b, int fd, arrival_put *put, void *sink)
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
        struct iovec *part = part_of(b, i);
        struct arrival frame = {0};

        part->iov_len = b->in[i].msg_len - b->header_size;
        if (b->control_size > 0) {
            batch_read_control(b, i, &frame);
        }
        if (put != NULL) {
            frame.data = part->iov_base;
            frame.length = (uint32_t)part->iov_len;
            put(sink, &frame);
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

/* Sends all frames: 0, or -errno. */
static inline int
batch_send_all(struct batch *b, int fd)
{
    unsigned sent = 0;

    while (sent < b->count) {
        int n = batch_send(b, fd, sent);

        if (n == -EAGAIN) {
            n = wait_for(fd, POLLOUT);
        }
        if (n < 0) {
            return n;
        }
        sent += (unsigned)n;
    }
    return 0;
}

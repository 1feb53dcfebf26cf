/* Receiving by recvmmsg(2) into messages that are prepared once. */

#ifndef RECEIVER_H
#define RECEIVER_H

#include "side.h"

/* <asm-generic/socket.h> */
#ifndef SCM_TIMESTAMPNS
#define SCM_TIMESTAMPNS 35
#endif

struct receiver {
    int fd; /* belongs to the caller */
    unsigned batch;
    struct mmsghdr *messages;
    struct iovec *parts;
    char *control; /* control_size for each; NULL: no option */
    size_t control_size;
    uint64_t packets, bytes, tags, stamps;
};

static inline void
receiver_close(struct receiver *r)
{
    free(r->messages);
    free(r->parts);
    free(r->control);
}

static inline size_t
control_size(unsigned options)
{
    size_t size = 0;

    if (options & SIDE_AUXDATA) {
        size += CMSG_SPACE(sizeof(struct tpacket_auxdata));
    }
    if (options & SIDE_STAMPS) {
        size += CMSG_SPACE(sizeof(struct timespec));
    }
    return size;
}

/* 0, or -ENOMEM. */
static inline int
receiver_open(struct receiver *r, const struct side_setup *setup)
{
    unsigned i;

    r->fd = setup->rx;
    r->batch = setup->batch;
    r->control_size = control_size(setup->options);
    r->messages = calloc(setup->batch, sizeof(*r->messages));
    r->parts = calloc(setup->batch, sizeof(*r->parts));
    if (r->control_size != 0) {
        r->control = calloc(setup->batch, r->control_size);
    }
    if (r->messages == NULL || r->parts == NULL
        || (r->control_size != 0 && r->control == NULL)) {
        return -ENOMEM;
    }
    for (i = 0; i < setup->batch; i++) {
        struct msghdr *header = &r->messages[i].msg_hdr;

        r->parts[i].iov_base = setup->in + i * setup->stride;
        r->parts[i].iov_len = setup->room;
        header->msg_iov = &r->parts[i];
        header->msg_iovlen = 1;
        if (r->control != NULL) {
            header->msg_control = r->control + i * r->control_size;
            header->msg_controllen = r->control_size;
        }
    }
    return 0;
}

/* Reads the VLAN tag that the kernel took out of the frame, and the
   timestamp, if they were asked for. */
static inline void
receiver_read_control(struct receiver *r, struct msghdr *header)
{
    struct cmsghdr *c;

    for (c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA) {
            struct tpacket_auxdata aux;

            memcpy(&aux, CMSG_DATA(c), sizeof(aux));
            if (aux.tp_status & TP_STATUS_VLAN_VALID) {
                r->tags++;
            }
        }
        else if (c->cmsg_level == SOL_SOCKET
                 && c->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec stamp;

            memcpy(&stamp, CMSG_DATA(c), sizeof(stamp));
            if (stamp.tv_sec != 0) {
                r->stamps++;
            }
        }
    }
}

/* One system call that does not wait: how many frames it received, or -errno.
   Reads the control messages and prepares the headers for the next call, whose
   fields are both value and result. */
static inline int
receiver_take(struct receiver *r)
{
    long n = syscall(SYS_recvmmsg, r->fd, r->messages, r->batch, MSG_DONTWAIT,
                     NULL);
    long i;

    if (n < 0) {
        return -errno;
    }
    r->packets += (uint64_t)n;
    for (i = 0; i < n; i++) {
        struct msghdr *header = &r->messages[i].msg_hdr;

        r->bytes += r->messages[i].msg_len;
        if (r->control != NULL) {
            receiver_read_control(r, header);
            header->msg_controllen = r->control_size;
        }
        header->msg_namelen = 0;
        header->msg_flags = 0;
    }
    return (int)n;
}

#endif

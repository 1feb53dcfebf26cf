/* The interface of a contender in C, and what several of them need: a batch to
   send, numbered frames, clocks.

   A contender is a shared library with the functions side_open(), side_run(),
   side_close() and, where its measurement needs them, others. bench/lab/
   native.py calls them. Functions that can fail return -errno. */

#ifndef SIDE_H
#define SIDE_H

#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <linux/if_packet.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATIENCE_MS 5000
#define ERROR_SIZE 256

enum side_option {
    SIDE_AUXDATA = 1,     /* ask the kernel for each packet's VLAN tag */
    SIDE_STAMPS = 2,      /* ask the kernel for each packet's arrival time */
    SIDE_V3 = 4,          /* a ring of TPACKET_V3 instead of TPACKET_V2 */
    SIDE_COPY = 8,        /* copy the packets to the caller's memory */
    SIDE_ONE_BY_ONE = 16, /* a packet a call */
    SIDE_INJECT = 32,     /* send with pcap_inject() */
    SIDE_LARGE = 64,      /* a ring as large as the queue of a socket */
    SIDE_SEND_ONLY = 128, /* libpcap: a handle that receives nothing */
    SIDE_BUFFERED = 256,  /* libpcap: not in immediate mode */
    SIDE_VNET_HDR = 512,  /* frames have offload headers */
};

/* `batch` frames of `size` bytes, `stride` apart, are sent from `out` and
   received in `in`, which has `room` for each. The memory is the caller's and
   stays valid until side_close(). */
struct side_setup {
    int tx, rx;          /* packet sockets; rx -1: the side opens its own */
    const char *tx_name; /* the interfaces */
    const char *rx_name;
    char *out, *in;
    size_t size, room, stride;
    unsigned batch;
    unsigned options; /* of enum side_option */
};

struct side;

/* NULL if it fails, with the reason in `error`. */
struct side *side_open(const struct side_setup *setup, char error[ERROR_SIZE]);

/* Accepts NULL. */
void side_close(struct side *s);

/* Numbered frames, as in bench/lab/link.py. */
#define NUMBER_AT 14 /* eight bytes */
#define BODY_AT 26   /* all frames are the same from here on */

static inline void
write_number(void *frame, uint64_t number)
{
    number = htobe64(number);
    memcpy((char *)frame + NUMBER_AT, &number, sizeof(number));
}

static inline uint64_t
now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Waits until `fd` is ready: 0, or -errno. */
static inline int
wait_for(int fd, short events)
{
    struct pollfd ready = {.fd = fd, .events = events};
    int n = poll(&ready, 1, PATIENCE_MS);

    return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

/* A batch to send by sendmmsg(2), prepared once. */
struct sender {
    int fd;
    unsigned batch;
    struct mmsghdr *messages;
    struct iovec *parts;
};

static inline void
sender_close(struct sender *s)
{
    free(s->messages);
    free(s->parts);
}

/* 0, or -ENOMEM. */
static inline int
sender_open(struct sender *s, const struct side_setup *setup)
{
    unsigned i;

    s->fd = setup->tx;
    s->batch = setup->batch;
    s->messages = calloc(setup->batch, sizeof(*s->messages));
    s->parts = calloc(setup->batch, sizeof(*s->parts));
    if (s->messages == NULL || s->parts == NULL) {
        return -ENOMEM;
    }
    for (i = 0; i < setup->batch; i++) {
        s->parts[i].iov_base = setup->out + i * setup->stride;
        s->parts[i].iov_len = setup->size;
        s->messages[i].msg_hdr.msg_iov = &s->parts[i];
        s->messages[i].msg_hdr.msg_iovlen = 1;
    }
    return 0;
}

/* Sends the batch: 0, or -errno. */
static inline int
sender_send(struct sender *s)
{
    unsigned sent = 0;

    while (sent < s->batch) {
        long n = syscall(SYS_sendmmsg, s->fd, s->messages + sent,
                         s->batch - sent, MSG_DONTWAIT);

        if (n >= 0) {
            sent += (unsigned)n;
        }
        else if (errno != EAGAIN) {
            return -errno;
        }
        else {
            int error = wait_for(s->fd, POLLOUT);

            if (error < 0) {
                return error;
            }
        }
    }
    return 0;
}

#endif

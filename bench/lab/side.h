/* What the loops that send a batch and receive it back have in common: how
   bench/sides/ways.py calls them, and the sending half.

   Each loop is a shared library of these functions, called through ctypes,
   which releases the GIL: a whole slice runs in C. Functions that can fail
   return -errno. */

#ifndef LOOP_H
#define LOOP_H

#define _GNU_SOURCE
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

enum loop_option {
    LOOP_AUXDATA = 1,     /* ask each packet's VLAN tag of the kernel */
    LOOP_STAMPS = 2,      /* ask when each packet was received */
    LOOP_V3 = 4,          /* a ring of TPACKET_V3 rather than TPACKET_V2 */
    LOOP_COPY = 8,        /* move the packets to the caller's memory */
    LOOP_ONE_BY_ONE = 16, /* a packet a call: pcap_next_ex() */
    LOOP_INJECT = 32,     /* send with pcap_inject() */
    LOOP_LARGE = 64,      /* a ring with the room of a socket's queue */
    LOOP_DEAF = 128,      /* libpcap: do not listen where it sends */
    LOOP_BUFFERED = 256,  /* libpcap: not in immediate mode */
};

/* `batch` frames of `size` bytes, `stride` apart, go from `out` to `in`, where
   each has `room`. All of it is the caller's, and stays. */
struct loop_setup {
    int tx, rx;          /* packet sockets; rx -1: the loop opens its own */
    const char *tx_name; /* the interfaces, for those that do */
    const char *rx_name;
    char *out, *in;
    size_t size, room, stride;
    unsigned batch;
    unsigned options; /* of enum loop_option */
};

/* Since the loop was opened. */
struct loop_totals {
    uint64_t packets, bytes;
    uint64_t tags;   /* packets with a VLAN tag */
    uint64_t stamps; /* packets with a time stamp */
};

struct loop;

/* NULL where it fails, which `error` tells why. */
struct loop *loop_open(const struct loop_setup *setup, char error[ERROR_SIZE]);

/* Sends the batch and receives it, `rounds` times. With `parts`, adds to them
   the nanoseconds that sending and receiving took, at the price of reading
   the clock. 0 or -errno. */
int loop_run(struct loop *l, unsigned rounds, uint64_t parts[2]);

/* Has the frames of the last round in `in`, in order, for who checks them; a
   loop that leaves them elsewhere runs one more round for it. Their number
   and lengths, or -errno. */
int loop_prove(struct loop *l, uint32_t *lengths);

/* The packet socket that receives. */
int loop_fileno(const struct loop *l);

void loop_get_totals(const struct loop *l, struct loop_totals *totals);

void loop_close(struct loop *l);

static inline uint64_t
now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Waits after EAGAIN: 0, or -errno. */
static inline int
wait_for(int fd, short events)
{
    struct pollfd ready = {.fd = fd, .events = events};
    int n = poll(&ready, 1, PATIENCE_MS);

    return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

/* A batch to send, armed once. */
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
sender_open(struct sender *s, const struct loop_setup *setup)
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

/* loop_run(), of the two halves. */
static inline int
run_halves(struct loop *l, unsigned rounds, uint64_t parts[2],
           int (*send_half)(struct loop *), int (*receive_half)(struct loop *))
{
    int result = 0;

    for (; rounds > 0 && result >= 0; rounds--) {
        uint64_t begin = parts != NULL ? now_ns() : 0, middle = 0;

        result = send_half(l);
        if (parts != NULL) {
            middle = now_ns();
            parts[0] += middle - begin;
        }
        if (result >= 0) {
            result = receive_half(l);
        }
        if (parts != NULL) {
            parts[1] += now_ns() - middle;
        }
    }
    return result < 0 ? result : 0;
}

#endif

/* The interface of a contender in C, and what all of them need. A contender is
   a shared library with side_open(), side_run(), side_close() and, where its
   measurement needs them, other functions. bench/lab/native.py calls them.
   Functions that can fail return -errno. */

#pragma once

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
    SIDE_ONE_BY_ONE = 16, /* send(2) and recv(2), a packet a call */
    SIDE_INJECT = 32,     /* send with pcap_inject() */
    SIDE_LARGE = 64,      /* a ring of 8 MiB, the size of a socket's queue */
    SIDE_SEND_ONLY = 128, /* libpcap: receive nothing */
    SIDE_BUFFERED = 256,  /* libpcap: not in immediate mode */
    SIDE_VNET_HDR = 512,  /* frames have offload headers */
    SIDE_FLOOD = 1024,    /* a ring of 16 MiB, with large blocks */
    SIDE_FORWARD = 2048,  /* receive frames as they are, for any address */
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

/* NULL if it fails, with the reason in `error`. side_close() accepts NULL. */
struct side *side_open(const struct side_setup *setup, char error[ERROR_SIZE]);
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
read_number(const void *frame)
{
    uint64_t number;

    memcpy(&number, (const char *)frame + NUMBER_AT, sizeof(number));
    return be64toh(number);
}

static inline uint64_t
clock_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

#define now_ns() clock_ns(CLOCK_MONOTONIC)
/* The CPU time of this thread, including the kernel's work for it. */
#define thread_ns() clock_ns(CLOCK_THREAD_CPUTIME_ID)

/* Puts the reason into `error`; -1. */
static inline int
fail(char *error, const char *what, const char *name, int number)
{
    snprintf(error, ERROR_SIZE, "%.64s %.64s: %.100s", what, name,
             strerror(number));
    return -1;
}

/* Waits until `fd` is ready: 0, or -errno. */
static inline int
wait_for(int fd, short events)
{
    struct pollfd ready = {.fd = fd, .events = events};
    int n = poll(&ready, 1, PATIENCE_MS);

    return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

/* A frame that has arrived, wherever it is in memory. */
struct arrival {
    const char *data;
    uint32_t length;
    int tagged;  /* the kernel took a VLAN tag out of it */
    int stamped; /* it has an arrival time */
};

/* Called with each frame that is received. */
typedef void arrival_put(void *sink, const struct arrival *frame);

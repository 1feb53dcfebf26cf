/* The limit for forwarding: moves frames between two interfaces with the
   system calls and options of `rawmmsg bridge`, recvmmsg(2) and sendmmsg(2)
   on one batch for both directions.

       forward A B BATCH FRAME-SIZE VNET_HDR AUXDATA

   The last two are 0 or 1. Ends when standard input does, and prints what it
   has counted as JSON.

   As a shared library it forwards as many frames as it is told to, between
   sockets that the caller has opened. Functions that can fail return
   -errno. */

#define _GNU_SOURCE
#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <arpa/inet.h>

#include "batch.h"

/* How often a frame is tried again when the queue that it goes to is full. */
#define TRIES 10
#define PAUSE_NS 100000

/* For a frame that is on its way. */
#define PATIENCE_MS 5000

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

struct port {
    int fd;
    uint64_t received; /* from here */
    uint64_t sent;     /* to the other port */
    uint64_t dropped;
    uint64_t calls; /* that received something */
};

/* After a send that took nothing: waits until the queue may have room. */
static void
wait_for_room(int fd, int error)
{
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    struct timespec pause = {.tv_nsec = PAUSE_NS};

    if (error == -EAGAIN) {
        poll(&ready, 1, 1);
    }
    else {
        nanosleep(&pause, NULL); /* ENOBUFS has no event */
    }
}

/* Sends all that the batch holds, or drops what is refused. */
static void
send_all(struct port *from, const struct port *to, struct batch *b)
{
    unsigned at = 0, tries = 0;

    while (at < b->count) {
        int n = batch_send(b, to->fd, at);

        if (n > 0) {
            at += (unsigned)n;
            from->sent += (unsigned)n;
            tries = 0;
        }
        else if ((n == -EAGAIN || n == -ENOBUFS) && tries < TRIES) {
            tries++;
            wait_for_room(to->fd, n);
        }
        else {
            at++;
            from->dropped++;
            tries = 0;
        }
    }
}

/* Moves what waits at `from`, a batch of it: how many frames, 0 where none
   waits, or -errno. */
static int
forward_batch(struct port *from, const struct port *to, struct batch *b)
{
    int n = batch_receive(b, from->fd);

    if (n > 0) {
        from->received += (unsigned)n;
        from->calls++;
        send_all(from, to, b);
    }
    return n == -EAGAIN || n == -EINTR ? 0 : n;
}

/* The other port has its turn after every batch. How many frames, or
   -errno. */
static int
forward_ready(struct port *a, struct port *b, const struct pollfd ready[2],
              struct batch *batch)
{
    int there = 0, back = 0;

    if (ready[0].revents != 0) {
        there = forward_batch(a, b, batch);
    }
    if (there >= 0 && ready[1].revents != 0) {
        back = forward_batch(b, a, batch);
    }
    return there < 0 ? there : back < 0 ? back : there + back;
}

/* ---- As a library --------------------------------------------------------- */

struct bridge {
    struct port a, b;
    struct batch *batch;
};

void
bridge_close(struct bridge *g)
{
    if (g != NULL) {
        batch_close(g->batch);
        free(g);
    }
}

/* Between two descriptors, which are the caller's; NULL without memory. */
struct bridge *
bridge_open(int a, int b, unsigned capacity, size_t room, int vnet_hdr)
{
    struct bridge *g = calloc(1, sizeof(*g));

    if (g == NULL) {
        return NULL;
    }
    g->a.fd = a;
    g->b.fd = b;
    g->batch = batch_open(capacity, room, vnet_hdr, 1);
    if (g->batch == NULL) {
        bridge_close(g);
        return NULL;
    }
    return g;
}

/* Returns when it has moved so many frames: their number, or -errno. */
int
bridge_forward(struct bridge *g, unsigned frames)
{
    struct pollfd ready[] = {{.fd = g->a.fd, .events = POLLIN},
                             {.fd = g->b.fd, .events = POLLIN}};
    unsigned moved = 0;

    while (moved < frames) {
        int n = poll(ready, 2, PATIENCE_MS);

        if (n <= 0) {
            return n == 0 ? -ETIMEDOUT : -errno;
        }
        n = forward_ready(&g->a, &g->b, ready, g->batch);
        if (n < 0) {
            return n;
        }
        moved += (unsigned)n;
    }
    return (int)moved;
}

/* ---- As a program --------------------------------------------------------- */

static int
set_option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value));
}

static int
add_promiscuous(int fd, int ifindex)
{
    struct packet_mreq membership = {.mr_ifindex = ifindex,
                                     .mr_type = PACKET_MR_PROMISC};

    return setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership,
                      sizeof(membership));
}

/* Ends the program where it fails. It gets no frame of another interface. */
static int
open_port(const char *name, int vnet_hdr, int auxdata)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL),
                                  .sll_ifindex = (int)if_nametoindex(name)};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    int room = 8 << 20;

    if (fd < 0 || address.sll_ifindex == 0
        || set_option(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1) < 0
        || set_option(fd, SOL_PACKET, PACKET_VNET_HDR, vnet_hdr) < 0
        || set_option(fd, SOL_PACKET, PACKET_AUXDATA, auxdata) < 0
        || (set_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, room) < 0
            && set_option(fd, SOL_SOCKET, SO_RCVBUF, room) < 0)
        || add_promiscuous(fd, address.sll_ifindex) < 0
        || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        perror(name);
        exit(1);
    }
    return fd;
}

/* Until standard input ends: 0, or -errno. */
static int
forward_all(struct port *a, struct port *b, struct batch *batch)
{
    struct pollfd ready[] = {{.fd = a->fd, .events = POLLIN},
                             {.fd = b->fd, .events = POLLIN},
                             {.fd = 0, .events = POLLIN}};
    int n = 0;

    while (n >= 0) {
        if (poll(ready, 3, -1) < 0) {
            return -errno;
        }
        if (ready[2].revents != 0) {
            return 0;
        }
        n = forward_ready(a, b, ready, batch);
    }
    return n;
}

static void
print_port(const char *name, const struct port *p, const char *end)
{
    printf("\"%s received\": %llu, \"%s sent\": %llu, \"%s dropped\": %llu, "
           "\"%s calls\": %llu%s",
           name, (unsigned long long)p->received, name,
           (unsigned long long)p->sent, name, (unsigned long long)p->dropped,
           name, (unsigned long long)p->calls, end);
}

int
main(int argc, char **argv)
{
    struct port a = {0}, b = {0};
    struct batch *batch;
    int error;

    if (argc != 7) {
        fprintf(stderr, "usage: %s A B BATCH FRAME-SIZE VNET_HDR AUXDATA\n",
                argv[0]);
        return 2;
    }
    batch = batch_open((unsigned)atoi(argv[3]), (size_t)atol(argv[4]),
                       atoi(argv[5]), atoi(argv[6]));
    if (batch == NULL) {
        fprintf(stderr, "%s: no memory\n", argv[0]);
        return 1;
    }
    a.fd = open_port(argv[1], atoi(argv[5]), atoi(argv[6]));
    b.fd = open_port(argv[2], atoi(argv[5]), atoi(argv[6]));
    error = forward_all(&a, &b, batch);
    if (error < 0) {
        fprintf(stderr, "%s: %s\n", argv[0], strerror(-error));
        return 1;
    }
    printf("{");
    print_port("a", &a, ", ");
    print_port("b", &b, "}\n");
    batch_close(batch);
    return 0;
}

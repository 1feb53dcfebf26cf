/* The baseline for forwarding: moves frames between two interfaces with the
   system calls and options of `rawmmsg bridge`: recvmmsg(2) and sendmmsg(2) on
   one batch for both directions. */

#include "batch.h"

/* How often a frame is tried again if the queue that it goes to is full. */
#define TRIES 10
#define PAUSE_NS 100000

struct port {
    int fd;                           /* belongs to the caller */
    uint64_t received, sent, dropped; /* frames that came from here */
};

struct side {
    struct port ports[2];
    struct batch *batch;
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        batch_close(s->batch);
        free(s);
    }
}

/* Between the sockets `tx` and `rx`. */
struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));

    if (s != NULL) {
        s->ports[0].fd = setup->tx;
        s->ports[1].fd = setup->rx;
        s->batch = batch_open(setup, NULL);
    }
    if (s == NULL || s->batch == NULL) {
        snprintf(error, ERROR_SIZE, "out of memory");
        side_close(s);
        return NULL;
    }
    return s;
}

/* Called after a send that took nothing: waits until the queue may have
   room. */
static void
wait_for_room(int fd, int error)
{
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    struct timespec pause = {.tv_nsec = PAUSE_NS};

    if (error == -EAGAIN) {
        poll(&ready, 1, 1);
    }
    else {
        nanosleep(&pause, NULL); /* no event tells the end of ENOBUFS */
    }
}

/* Sends all frames of the batch; drops those that are refused. */
static void
send_all(struct port *from, int to, struct batch *b)
{
    unsigned at = 0, tries = 0;

    while (at < b->count) {
        int n = batch_send(b, to, at);

        if (n > 0) {
            at += (unsigned)n;
            from->sent += (unsigned)n;
            tries = 0;
        }
        else if ((n == -EAGAIN || n == -ENOBUFS) && tries < TRIES) {
            tries++;
            wait_for_room(to, n);
        }
        else {
            at++;
            from->dropped++;
            tries = 0;
        }
    }
}

/* Moves a batch of the frames that wait at a port: how many, or -errno. */
static int
forward_batch(struct side *s, int i)
{
    struct port *from = &s->ports[i];
    int n = batch_receive(s->batch, from->fd, NULL, NULL);

    if (n > 0) {
        from->received += (unsigned)n;
        send_all(from, s->ports[1 - i].fd, s->batch);
    }
    return n == -EAGAIN || n == -EINTR ? 0 : n;
}

/* Returns after it has moved so many frames; 0: when standard input ends. The
   other port has its turn after every batch. 0, or -errno. */
int
side_run(struct side *s, unsigned frames)
{
    struct pollfd ready[] = {{.fd = s->ports[0].fd, .events = POLLIN},
                             {.fd = s->ports[1].fd, .events = POLLIN},
                             {.fd = frames == 0 ? 0 : -1, .events = POLLIN}};
    unsigned moved = 0;

    while (frames == 0 || moved < frames) {
        int n = poll(ready, 3, frames == 0 ? -1 : PATIENCE_MS), i;

        if (n <= 0) {
            return n == 0 ? -ETIMEDOUT : -errno;
        }
        if (ready[2].revents != 0) {
            return 0;
        }
        for (i = 0; i < 2; i++) {
            n = ready[i].revents != 0 ? forward_batch(s, i) : 0;
            if (n < 0) {
                return n;
            }
            moved += (unsigned)n;
        }
    }
    return moved == frames ? 0 : -EPROTO;
}

/* Three counts of each port: received, sent on, dropped. */
void
side_get_counts(const struct side *s, uint64_t counts[6])
{
    int i;

    for (i = 0; i < 2; i++) {
        *counts++ = s->ports[i].received;
        *counts++ = s->ports[i].sent;
        *counts++ = s->ports[i].dropped;
    }
}

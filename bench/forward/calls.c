/* The baseline for forwarding: moves frames between two interfaces with the
   system calls and options of `rawmmsg bridge`: recvmmsg(2) and sendmmsg(2) on
   one batch for both directions. */

#include "batch.h"
#include "forward.h"

/* How often a frame is tried again if the queue that it goes to is full. */
#define TRIES 10
#define PAUSE_NS 100000

struct side {
    int fds[2]; /* belong to the caller */
    struct counts counts[2];
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
        s->fds[0] = setup->tx;
        s->fds[1] = setup->rx;
        s->batch = batch_open(setup, setup->in);
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
send_all(struct batch *b, int to, struct counts *counts)
{
    unsigned at = 0, tries = 0;

    while (at < b->count) {
        int n = batch_send(b, to, at);

        if (n > 0) {
            at += (unsigned)n;
            counts->sent += (unsigned)n;
            tries = 0;
        }
        else if ((n == -EAGAIN || n == -ENOBUFS) && tries < TRIES) {
            tries++;
            wait_for_room(to, n);
        }
        else {
            at++;
            counts->dropped++;
            tries = 0;
        }
    }
}

static int
forward_fd(const struct side *s, int i)
{
    return s->fds[i];
}

static struct counts *
forward_counts(struct side *s, int i)
{
    return &s->counts[i];
}

/* Moves a batch: how many frames, or -errno. */
static int
forward_some(struct side *s, int i)
{
    int n = batch_receive(s->batch, s->fds[i], NULL, NULL);

    if (n > 0) {
        s->counts[i].received += (unsigned)n;
        send_all(s->batch, s->fds[1 - i], &s->counts[i]);
    }
    return n == -EAGAIN || n == -EINTR ? 0 : n;
}

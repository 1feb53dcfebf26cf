/* The baseline for forwarding: moves frames between two interfaces with the
   system calls and options of `rawmmsg bridge`: recvmmsg(2) and sendmmsg(2) on
   one batch for both directions. */

#include "batch.h"

struct forwarder {
    struct batch *batch;
};

#include "forward.h"

/* How often a frame is tried again if the queue that it goes to is full. */
#define TRIES 10
#define PAUSE_US 100

static void
forwarder_close(struct forwarder *f)
{
    batch_close(f->batch);
}

static int
forwarder_open(struct side *s, const struct side_setup *setup, char *error)
{
    (void)error; /* says that there is no memory */
    s->fds[0] = setup->tx;
    s->fds[1] = setup->rx;
    s->forwarder.batch = batch_open(setup, setup->in);
    return s->forwarder.batch != NULL ? 0 : -1;
}

/* Waits until the queue may have room. */
static void
wait_for_room(int fd, int error)
{
    struct pollfd ready = {.fd = fd, .events = POLLOUT};

    if (error == -EAGAIN) {
        poll(&ready, 1, 1);
    }
    else {
        usleep(PAUSE_US); /* no event tells the end of ENOBUFS */
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

/* Moves a batch: how many frames, or -errno. */
static int
forward_some(struct side *s, int i)
{
    struct batch *b = s->forwarder.batch;
    int n = batch_receive(b, s->fds[i], NULL, NULL);

    if (n > 0) {
        s->counts[i].received += (unsigned)n;
        send_all(b, s->fds[1 - i], &s->counts[i]);
    }
    return n == -EAGAIN || n == -EINTR ? 0 : n;
}

/* The limit for super-frames: sends a batch and receives it back, with or
   without offload headers, in one thread.

   superframes.py calls it through ctypes, which releases the GIL: a whole
   slice runs in C. Functions that can fail return -errno. */

#define _GNU_SOURCE
#include <poll.h>

#include "batch.h"

#define PATIENCE_MS 5000

struct super_loop {
    int tx, rx; /* the caller's */
    struct batch *out, *in;
};

void
super_close(struct super_loop *l)
{
    if (l != NULL) {
        batch_close(l->out);
        batch_close(l->in);
        free(l);
    }
}

/* NULL without memory. */
struct super_loop *
super_open(int tx, int rx, unsigned batch, size_t room, int vnet_hdr)
{
    struct super_loop *l = calloc(1, sizeof(*l));

    if (l == NULL) {
        return NULL;
    }
    l->tx = tx;
    l->rx = rx;
    l->out = batch_open(batch, room, vnet_hdr, 0);
    l->in = batch_open(batch, room, vnet_hdr, 1);
    if (l->out == NULL || l->in == NULL) {
        super_close(l);
        return NULL;
    }
    l->out->count = batch;
    return l;
}

/* Frame i of those to send, or of those received, for the caller to write and
   to read. */
char *
super_frame(const struct super_loop *l, int received, unsigned i)
{
    return frame_of(received ? l->in : l->out, i);
}

struct virtio_net_hdr *
super_header(const struct super_loop *l, int received, unsigned i)
{
    return &(received ? l->in : l->out)->headers[i];
}

void
super_set_length(struct super_loop *l, unsigned i, size_t length)
{
    l->out->parts[2 * i + 1].iov_len = length;
}

/* Of frame i as received. */
size_t
super_get_length(const struct super_loop *l, unsigned i)
{
    return l->in->parts[2 * i + 1].iov_len;
}

/* Waits after EAGAIN: 0, or -errno. Another error is returned. */
static int
wait_for(int error, int fd, short events)
{
    struct pollfd ready = {.fd = fd, .events = events};
    int n;

    if (error != -EAGAIN) {
        return error;
    }
    n = poll(&ready, 1, PATIENCE_MS);
    return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

static int
send_batch(struct super_loop *l)
{
    unsigned sent = 0;

    while (sent < l->out->count) {
        int n = batch_send(l->out, l->tx, sent);

        if (n < 0) {
            n = wait_for(n, l->tx, POLLOUT);
            if (n < 0) {
                return n;
            }
        }
        sent += (unsigned)n;
    }
    return 0;
}

static int
receive_batch(struct super_loop *l)
{
    unsigned received = 0;

    while (received < l->out->count) {
        int n = batch_receive(l->in, l->rx);

        if (n < 0) {
            n = wait_for(n, l->rx, POLLIN);
            if (n < 0) {
                return n;
            }
        }
        received += (unsigned)n;
    }
    return 0;
}

/* A slice: how many frames came with the last receiving call, or -errno. */
int
super_run(struct super_loop *l, unsigned rounds)
{
    int error = 0;

    for (; error == 0 && rounds > 0; rounds--) {
        error = send_batch(l);
        if (error == 0) {
            error = receive_batch(l);
        }
    }
    return error < 0 ? error : (int)l->in->count;
}

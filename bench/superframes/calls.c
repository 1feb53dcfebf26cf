/* The baseline for super-frames: sends a batch and receives it back, with or
   without offload headers, in one thread. */

#include "side.h"
#include "batch.h"

struct side {
    int tx, rx; /* belong to the caller */
    struct batch *out, *in;
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        batch_close(s->out);
        batch_close(s->in);
        free(s);
    }
}

struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));
    unsigned options = setup->options;

    if (s != NULL) {
        s->tx = setup->tx;
        s->rx = setup->rx;
        s->out = batch_open(setup->batch, setup->room, options);
        s->in = batch_open(setup->batch, setup->room, options | SIDE_AUXDATA);
    }
    if (s == NULL || s->out == NULL || s->in == NULL) {
        snprintf(error, ERROR_SIZE, "out of memory");
        side_close(s);
        return NULL;
    }
    s->out->count = setup->batch;
    return s;
}

/* Frame i of those to send, or of those received. */
char *
side_frame(const struct side *s, int received, unsigned i)
{
    return frame_of(received ? s->in : s->out, i);
}

/* Its offload header. */
struct virtio_net_hdr *
side_header(const struct side *s, int received, unsigned i)
{
    return &(received ? s->in : s->out)->headers[i];
}

/* Its length. */
size_t *
side_length(const struct side *s, int received, unsigned i)
{
    return &(received ? s->in : s->out)->parts[2 * i + 1].iov_len;
}

/* Sends the batch and receives it, `times` times. Returns how many frames the
   last call received, or -errno. */
int
side_run(struct side *s, unsigned times)
{
    for (; times > 0; times--) {
        unsigned sent = 0, received = 0;

        while (received < s->out->count) {
            int sending = sent < s->out->count;
            int n = sending ? batch_send(s->out, s->tx, sent)
                            : batch_receive(s->in, s->rx);

            if (n == -EAGAIN) {
                n = sending ? wait_for(s->tx, POLLOUT)
                            : wait_for(s->rx, POLLIN);
            }
            if (n < 0) {
                return n;
            }
            *(sending ? &sent : &received) += (unsigned)n;
        }
    }
    return (int)s->in->count;
}

/* The baseline for super-frames: sends a batch and receives it back, with or
   without offload headers, in one thread. */

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

    if (s != NULL) {
        s->tx = setup->tx;
        s->rx = setup->rx;
        s->out = batch_open_full(setup);
        s->in = batch_open(setup, NULL);
    }
    if (s == NULL || s->out == NULL || s->in == NULL) {
        snprintf(error, ERROR_SIZE, "out of memory");
        side_close(s);
        return NULL;
    }
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
    return &part_of(received ? s->in : s->out, i)->iov_len;
}

/* Sends the batch and receives it, `times` times. Returns how many frames the
   last call received, or -errno. */
int
side_run(struct side *s, unsigned times)
{
    for (; times > 0; times--) {
        int n = batch_send_all(s->out, s->tx);
        unsigned received = 0;

        while (n >= 0 && received < s->out->count) {
            n = batch_receive(s->in, s->rx, NULL, NULL);
            if (n == -EAGAIN) {
                n = wait_for(s->rx, POLLIN);
            }
            received += (unsigned)n;
        }
        if (n < 0) {
            return n;
        }
    }
    return (int)s->in->count;
}

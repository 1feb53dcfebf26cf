/* The baseline for sending: sendmmsg(2) with messages prepared once.

   Each sender is a shared library of these functions: side_prepare() is called
   after the frames have changed, side_run() sends the batch `times` times. */

#include "batch.h"

struct side {
    int tx; /* belongs to the caller */
    struct batch *out;
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        batch_close(s->out);
        free(s);
    }
}

struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));

    if (s != NULL) {
        s->tx = setup->tx;
        s->out = batch_open_full(setup);
    }
    if (s == NULL || s->out == NULL) {
        snprintf(error, ERROR_SIZE, "out of memory");
        side_close(s);
        return NULL;
    }
    return s;
}

void
side_prepare(struct side *s)
{
    (void)s;
}

int
side_run(struct side *s, unsigned times)
{
    int error = 0;

    for (; times > 0 && error == 0; times--) {
        error = batch_send_all(s->out, s->tx);
    }
    return error;
}

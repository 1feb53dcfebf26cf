/* A batch to send and a receiver, for contenders that do both. Included after
   one of receive_calls.h, receive_ring.h and receive_pcap.h. */

#ifndef EXCHANGE_H
#define EXCHANGE_H

#include "batch.h"

struct exchange {
    int tx; /* belongs to the caller */
    struct batch *out;
    struct receiver receiver;
};

static void
exchange_close(struct exchange *x)
{
    batch_close(x->out);
    receiver_close(&x->receiver);
}

/* 0, or -1 with the reason in `error`; exchange_close() may follow. */
static int
exchange_open(struct exchange *x, const struct side_setup *setup, char *error)
{
    x->tx = setup->tx;
    if (receiver_open(&x->receiver, setup, error) < 0) {
        return -1;
    }
    x->out = batch_open_full(setup);
    if (x->out == NULL) {
        snprintf(error, ERROR_SIZE, "out of memory");
        return -1;
    }
    return 0;
}

/* Sends the batch: 0, or -errno. */
static inline int
exchange_send(struct exchange *x)
{
#ifdef CAPTURE_H
    if (x->receiver.injector != NULL) {
        return inject_all(x->receiver.injector, x->out->parts, x->out->count);
    }
#endif
    return batch_send_all(x->out, x->tx);
}

#endif

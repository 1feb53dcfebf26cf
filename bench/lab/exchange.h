/* A side that sends a batch and receives. Included after a receiver
   (receive_calls.h, receive_ring.h, receive_pcap.h); the file that includes it
   adds side_run(). */

#ifndef EXCHANGE_H
#define EXCHANGE_H

#include "batch.h"
#include "inbox.h"

struct side {
    int tx;            /* belongs to the caller */
    struct batch *out; /* the frames to send */
    struct receiver receiver;
    struct inbox inbox;
    uint64_t sent;
    int one_by_one;
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        batch_close(s->out);
        receiver_close(&s->receiver);
        inbox_close(&s->inbox);
        free(s);
    }
}

struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));

    snprintf(error, ERROR_SIZE, "out of memory");
    if (s == NULL || receiver_open(&s->receiver, setup, error) < 0
        || inbox_open(&s->inbox, setup) < 0
        || (s->out = batch_open_full(setup)) == NULL) {
        side_close(s);
        return NULL;
    }
    s->tx = setup->tx;
    s->one_by_one = (setup->options & SIDE_ONE_BY_ONE) != 0;
    return s;
}

/* The packet socket that receives and counts; -1: there is none. */
int
side_fileno(const struct side *s)
{
    return s->receiver.in_place < 0 ? -1 : receiver_fileno(&s->receiver);
}

void
side_get_totals(const struct side *s, struct totals *totals)
{
    *totals = s->inbox.totals;
}

/* Sends the batch: 0, or -errno. */
static inline int
exchange_send(struct side *s)
{
#ifdef SNAPLEN
    if (s->receiver.injector != NULL) {
        return inject_all(s->receiver.injector, s->out->parts, s->out->count);
    }
#endif
    return batch_send_all(s->out, s->tx);
}

#endif

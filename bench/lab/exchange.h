/* A side that sends a batch and receives. Included after RECEIVER, which is
   one of receive_*.h; the file that includes it adds side_run(). */

#pragma once

#include "batch.h"

struct totals {
    uint64_t packets, bytes;
    uint64_t tags;   /* packets with a VLAN tag */
    uint64_t stamps; /* packets with a timestamp */
};

/* Counts each frame that arrives, and copies it to the caller's memory or only
   notes where it is. The kernel may have it back, but overwrites it only after
   the next batch, because a ring has room for two. */
struct inbox {
    unsigned batch;
    unsigned next; /* the index of the next frame in its batch */
    int copy;
    char *in; /* the caller's memory */
    size_t stride, room;
    struct arrival *last; /* the last frame of each index */
    struct totals totals;
};

/* Returns the address of the copy. */
static inline const char *
inbox_copy(struct inbox *b, unsigned i)
{
    struct arrival seen = b->last[i];
    char *to = b->in + i * b->stride;

    return memcpy(to, seen.data,
                  seen.length < b->room ? seen.length : b->room);
}

/* Returns the address of the frame, which may be a copy. */
static inline const char *
inbox_keep(struct inbox *b, const struct arrival *frame)
{
    unsigned i = b->next < b->batch ? b->next : 0;

    b->last[i] = *frame;
    b->totals.packets++;
    b->totals.bytes += frame->length;
    b->totals.tags += frame->tagged ? 1 : 0;
    b->totals.stamps += frame->stamped ? 1 : 0;
    b->next = i + 1;
    return b->copy ? inbox_copy(b, i) : frame->data;
}

/* Of type arrival_put. */
static inline void
inbox_put(void *inbox, const struct arrival *frame)
{
    inbox_keep(inbox, frame);
}

/* Copies the frames seen last, if that is `needed` and has not been done.
   Returns their number, and their lengths. */
static inline int
inbox_prove(struct inbox *b, uint32_t *lengths, int needed)
{
    unsigned i;

    for (i = 0; i < b->next; i++) {
        lengths[i] = b->last[i].length;
        if (needed && !b->copy) {
            inbox_copy(b, i);
        }
    }
    return (int)b->next;
}

struct side {
    int tx;            /* belongs to the caller */
    struct batch *out; /* the frames to send */
    struct receiver receiver;
    struct inbox inbox;
    uint64_t sent;
    int one_by_one;
    struct receipt *receipt; /* in a measurement of receiving only */
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        batch_close(s->out);
        receiver_close(&s->receiver);
        free(s->inbox.last);
        free(s);
    }
}

struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));

    fail(error, "side", setup->rx_name, ENOMEM);
    if (s == NULL || receiver_open(&s->receiver, setup, error) < 0
        || (s->inbox.last = calloc(setup->batch, sizeof(struct arrival)))
               == NULL
        || (s->out = batch_open_full(setup)) == NULL) {
        side_close(s);
        return NULL;
    }
    s->inbox.batch = setup->batch;
    s->inbox.copy = (setup->options & SIDE_COPY) != 0;
    s->inbox.in = setup->in;
    s->inbox.stride = setup->stride;
    s->inbox.room = setup->room;
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

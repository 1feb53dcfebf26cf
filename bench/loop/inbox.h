/* What loops do with frames that come in memory which is not the caller's:
   move each to the caller's, or look at it where it lies. */

#ifndef INBOX_H
#define INBOX_H

#include "loop.h"

/* A frame where it came. It may have been given back since, but is not
   written to before more frames are sent than the ring is longer than a
   batch. */
struct sighting {
    const char *data;
    uint32_t length;
};

struct inbox {
    unsigned batch;
    unsigned next; /* the slot of the frame that comes next */
    int copy;
    char *in; /* the caller's */
    size_t stride, room;
    struct sighting *last; /* of each slot */
    struct loop_totals totals;
};

static inline void
inbox_close(struct inbox *b)
{
    free(b->last);
}

/* 0, or -ENOMEM. */
static inline int
inbox_open(struct inbox *b, const struct loop_setup *setup)
{
    b->batch = setup->batch;
    b->copy = (setup->options & LOOP_COPY) != 0;
    b->in = setup->in;
    b->stride = setup->stride;
    b->room = setup->room;
    b->last = calloc(setup->batch, sizeof(*b->last));
    return b->last != NULL ? 0 : -ENOMEM;
}

static inline void
inbox_move(struct inbox *b, unsigned i)
{
    struct sighting seen = b->last[i];

    memcpy(b->in + i * b->stride, seen.data,
           seen.length < b->room ? seen.length : b->room);
}

/* `stamped`: it came with the time of its arrival. Returns where the frame is
   now. */
static inline const char *
inbox_put(struct inbox *b, const void *data, uint32_t length, int tagged,
          int stamped)
{
    unsigned i = b->next;

    b->last[i] = (struct sighting){data, length};
    b->totals.packets++;
    b->totals.stamps += stamped ? 1 : 0;
    b->totals.bytes += length;
    b->totals.tags += tagged ? 1 : 0;
    b->next = i + 1 < b->batch ? i + 1 : 0;
    if (!b->copy) {
        return data;
    }
    inbox_move(b, i);
    return b->in + i * b->stride;
}

/* loop_prove(), when all frames have come. */
static inline int
inbox_prove(struct inbox *b, uint32_t *lengths)
{
    unsigned i;

    for (i = 0; i < b->batch; i++) {
        lengths[i] = b->last[i].length;
        if (!b->copy) {
            inbox_move(b, i);
        }
    }
    return (int)b->batch;
}

#endif

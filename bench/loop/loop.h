/* The interface of the loops, which send a batch and receive it back, and what
   those of them need that receive in memory which is not the caller's. */

#ifndef LOOP_H
#define LOOP_H

#include "side.h"

/* Counted since the loop was opened. */
struct loop_totals {
    uint64_t packets, bytes;
    uint64_t tags;   /* packets with a VLAN tag */
    uint64_t stamps; /* packets with a timestamp */
};

/* Sends the batch and receives it, `times` times. Adds the nanoseconds that
   sending and receiving took to `parts` unless that is NULL; reading the clock
   has its cost. 0, or -errno. */
int side_run(struct side *s, unsigned times, uint64_t parts[2]);

/* Puts the frames of the last batch into the caller's memory, in order, to be
   checked. Returns their number, and their lengths; or -errno. */
int side_prove(struct side *s, uint32_t *lengths);

/* The packet socket that receives. */
int side_fileno(const struct side *s);

void side_get_totals(const struct side *s, struct loop_totals *totals);

/* side_run(), made of two halves. */
static inline int
run_halves(struct side *s, unsigned times, uint64_t parts[2],
           int (*send_half)(struct side *), int (*receive_half)(struct side *))
{
    int result = 0;

    for (; times > 0 && result >= 0; times--) {
        uint64_t begin = parts != NULL ? now_ns() : 0, middle = 0;

        result = send_half(s);
        if (parts != NULL) {
            middle = now_ns();
            parts[0] += middle - begin;
        }
        if (result >= 0) {
            result = receive_half(s);
        }
        if (parts != NULL) {
            parts[1] += now_ns() - middle;
        }
    }
    return result < 0 ? result : 0;
}

/* A frame in the memory where it arrived. The slot may have been given back to
   the kernel, but the kernel does not reuse it before the next batch, because
   the ring has room for two. */
struct sighting {
    const char *data;
    uint32_t length;
};

/* Copies each frame to the caller's memory, or looks at it in place. */
struct inbox {
    unsigned batch;
    unsigned next; /* the index of the next frame in its batch */
    int copy;
    char *in; /* the caller's memory */
    size_t stride, room;
    struct sighting *last; /* the last frame of each index */
    struct loop_totals totals;
};

static inline void
inbox_close(struct inbox *b)
{
    free(b->last);
}

/* 0, or -ENOMEM. */
static inline int
inbox_open(struct inbox *b, const struct side_setup *setup)
{
    b->batch = setup->batch;
    b->copy = (setup->options & SIDE_COPY) != 0;
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

/* `stamped`: it has an arrival time. Returns the address of the frame. */
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

/* side_prove(), after all frames have arrived. */
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

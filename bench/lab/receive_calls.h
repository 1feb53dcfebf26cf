/* Receiving by recvmmsg(2), into the caller's memory. */

#pragma once

#include "batch.h"

struct receiver {
    int fd; /* belongs to the caller */
    struct batch *batch;
    int in_place; /* frames arrive where the caller wants them */
    int lazy;     /* some frames are passed on later */
};

static void
receiver_close(struct receiver *r)
{
    batch_close(r->batch);
}

/* 0, or -1 with the reason in `error`. receiver_close() may follow in either
   case, here and in the other receivers. */
static int
receiver_open(struct receiver *r, const struct side_setup *setup, char *error)
{
    *r = (struct receiver){.fd = setup->rx, .in_place = 1};
    r->batch = batch_open(setup, setup->in);
    return r->batch == NULL ? fail(error, "batch", "", ENOMEM) : 0;
}

/* Takes frames that have arrived, at most a batch, and calls `put` with each:
   how many, 0 if there are none, or -errno. */
static inline int
receiver_take(struct receiver *r, arrival_put *put, void *sink)
{
    int n = batch_receive(r->batch, r->fd, put, sink);

    return n == -EAGAIN ? 0 : n;
}

static inline int
receiver_fileno(const struct receiver *r)
{
    return r->fd;
}

/* The loop of a forwarder between two ports, which are numbered 0 and 1. */

#ifndef FORWARD_H
#define FORWARD_H

#include "side.h"

/* Of the frames from one port. */
struct counts {
    uint64_t received, sent, dropped;
};

/* The descriptor of a port, to be polled. */
static int forward_fd(const struct side *s, int i);

static struct counts *forward_counts(struct side *s, int i);

/* Moves frames that have arrived at a port: how many, or -errno. */
static int forward_some(struct side *s, int i);

/* Returns after it has moved `frames` frames; if that is 0, when `stop`, a
   pipe, is closed at its other end. The other port has its turn after every
   call of forward_some(). 0, or -errno. */
int
side_run(struct side *s, unsigned frames, int stop)
{
    struct pollfd ready[] = {{.fd = forward_fd(s, 0), .events = POLLIN},
                             {.fd = forward_fd(s, 1), .events = POLLIN},
                             {.fd = stop, .events = POLLIN}};
    unsigned moved = 0;

    while (frames == 0 || moved < frames) {
        int n = poll(ready, 3, frames == 0 ? -1 : PATIENCE_MS), i;

        if (n <= 0) {
            return n == 0 ? -ETIMEDOUT : -errno;
        }
        if (ready[2].revents != 0) {
            return 0;
        }
        for (i = 0; i < 2; i++) {
            n = ready[i].revents != 0 ? forward_some(s, i) : 0;
            if (n < 0) {
                return n;
            }
            moved += (unsigned)n;
        }
    }
    return moved == frames ? 0 : -EPROTO;
}

void
side_get_counts(struct side *s, struct counts counts[2])
{
    counts[0] = *forward_counts(s, 0);
    counts[1] = *forward_counts(s, 1);
}

#endif

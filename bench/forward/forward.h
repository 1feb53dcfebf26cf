/* A forwarder between two ports, which are numbered 0 and 1. Included after
   struct forwarder. */

#include "side.h"

struct side {
    int fds[2]; /* of the ports, to be polled */
    struct counts {
        uint64_t received, sent, dropped;
    } counts[2]; /* of the frames from each port */
    struct forwarder forwarder;
};

static void forwarder_close(struct forwarder *f);

/* Sets fds, too. 0, or -1 with the reason in `error`. */
static int forwarder_open(struct side *s, const struct side_setup *setup,
                          char *error);

/* Moves frames that have arrived at a port: how many, or -errno. */
static int forward_some(struct side *s, int i);

void
side_close(struct side *s)
{
    if (s != NULL) {
        forwarder_close(&s->forwarder);
        free(s);
    }
}

/* Between the sockets `tx` and `rx`, or the interfaces of these names. */
struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));

    fail(error, "a forwarder", "", ENOMEM);
    if (s == NULL || forwarder_open(s, setup, error) < 0) {
        side_close(s);
        return NULL;
    }
    return s;
}

/* Returns after it has moved so many frames; 0: when `stop`, a pipe, is closed
   at its other end. The other port has its turn after every call of
   forward_some(). 0, or -errno. */
int
side_run(struct side *s, unsigned frames, int stop)
{
    struct pollfd ready[] = {{.fd = s->fds[0], .events = POLLIN},
                             {.fd = s->fds[1], .events = POLLIN},
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
    memcpy(counts, s->counts, sizeof(s->counts));
}

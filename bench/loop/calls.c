/* The baseline: a C program that does the same work with the same system calls
   in the same pattern, on the same sockets and frames. */

#include "loop.h"
#include "receiver.h"

struct side {
    struct sender sender;
    struct receiver receiver;
    int last; /* packets received by the last call */
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        sender_close(&s->sender);
        receiver_close(&s->receiver);
        free(s);
    }
}

struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));

    if (s == NULL || sender_open(&s->sender, setup) < 0
        || receiver_open(&s->receiver, setup) < 0) {
        snprintf(error, ERROR_SIZE, "out of memory");
        side_close(s);
        return NULL;
    }
    return s;
}

static int
send_half(struct side *s)
{
    return sender_send(&s->sender);
}

static int
receive_half(struct side *s)
{
    unsigned received = 0;

    while (received < s->receiver.batch) {
        int n = receiver_take(&s->receiver);

        if (n >= 0) {
            s->last = n;
            received += (unsigned)n;
        }
        else if (n == -EAGAIN) {
            n = wait_for(s->receiver.fd, POLLIN);
        }
        if (n < 0) {
            return n;
        }
    }
    return 0;
}

int
side_run(struct side *s, unsigned times, uint64_t parts[2])
{
    return run_halves(s, times, parts, send_half, receive_half);
}

/* They are where the last call received them: the whole batch, if one call
   received all of it. */
int
side_prove(struct side *s, uint32_t *lengths)
{
    int i;

    for (i = 0; i < s->last; i++) {
        lengths[i] = s->receiver.messages[i].msg_len;
    }
    return s->last;
}

int
side_fileno(const struct side *s)
{
    return s->receiver.fd;
}

void
side_get_totals(const struct side *s, struct loop_totals *totals)
{
    const struct receiver *r = &s->receiver;

    *totals = (struct loop_totals){r->packets, r->bytes, r->tags, r->stamps};
}

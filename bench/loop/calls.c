/* The limit: what a C program takes for the same work, with the same system
   calls in the same pattern on the same sockets and frames. */

#include "receive_calls.h"

struct loop {
    struct sender sender;
    struct receiver receiver;
    int last; /* packets that came with the last call */
};

void
loop_close(struct loop *l)
{
    if (l != NULL) {
        sender_close(&l->sender);
        receiver_close(&l->receiver);
        free(l);
    }
}

struct loop *
loop_open(const struct loop_setup *setup, char error[ERROR_SIZE])
{
    struct loop *l = calloc(1, sizeof(*l));

    if (l == NULL || sender_open(&l->sender, setup) < 0
        || receiver_open(&l->receiver, setup) < 0) {
        snprintf(error, ERROR_SIZE, "out of memory");
        loop_close(l);
        return NULL;
    }
    return l;
}

static int
send_half(struct loop *l)
{
    return sender_send(&l->sender);
}

static int
receive_half(struct loop *l)
{
    unsigned received = 0;

    while (received < l->receiver.batch) {
        int n = receiver_take(&l->receiver);

        if (n >= 0) {
            l->last = n;
            received += (unsigned)n;
        }
        else if (n == -EAGAIN) {
            n = wait_for(l->receiver.fd, POLLIN);
        }
        if (n < 0) {
            return n;
        }
    }
    return 0;
}

int
loop_run(struct loop *l, unsigned rounds, uint64_t parts[2])
{
    return run_halves(l, rounds, parts, send_half, receive_half);
}

/* They are where the last call left them: all of the round, if it came with
   one call. */
int
loop_prove(struct loop *l, uint32_t *lengths)
{
    int i;

    for (i = 0; i < l->last; i++) {
        lengths[i] = l->receiver.messages[i].msg_len;
    }
    return l->last;
}

int
loop_fileno(const struct loop *l)
{
    return l->receiver.fd;
}

void
loop_get_totals(const struct loop *l, struct loop_totals *totals)
{
    *totals = l->receiver.totals;
}

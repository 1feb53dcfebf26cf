/* The loop: sends a batch and receives it back. With receive_calls.h it is the
   baseline: the same work with the same system calls in the same pattern as
   rawmmsg's, on the same sockets and frames. */

#include RECEIVER
#include "exchange.h"

/* Receives until all frames sent have arrived: 0, or -errno. */
static int
receive_all(struct side *s)
{
    struct receiver *r = &s->receiver;

    while (s->inbox.totals.packets < s->sent) {
        int n;

        if (r->in_place) {
            s->inbox.next = 0;
        }
        n = receiver_take(r, inbox_put, &s->inbox);
        if (n == 0) {
            n = wait_for(receiver_fileno(r), POLLIN);
        }
        if (n < 0) {
            return n;
        }
    }
    return 0;
}

/* The receiving half. A lazy receiver passes frames on later (TPACKET_V3 those
   of a block that is not full, after RETIRE_MS); they are left to the next
   time. */
static int
receive_half(struct side *s)
{
    if (!s->receiver.lazy) {
        return receive_all(s);
    }
    while (receiver_take(&s->receiver, inbox_put, &s->inbox) > 0) {
    }
    return 0;
}

/* Sends the batch and receives it, `times` times. Adds the nanoseconds of
   sending and of receiving to `parts` unless that is NULL, because reading the
   clock has its cost. 0, or -errno. */
int
side_run(struct side *s, unsigned times, uint64_t parts[2])
{
    int result = 0;

    for (; times > 0 && result >= 0; times--) {
        uint64_t begin = parts != NULL ? now_ns() : 0, middle = 0;

        s->sent += s->inbox.batch;
        result = exchange_send(s);
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

/* Puts the frames of the last batch into the caller's memory, in order, to be
   checked. Returns their number, which is less than a batch if the last call
   received only a part of it, and their lengths; or -errno. */
int
side_prove(struct side *s, uint32_t *lengths)
{
    int error = receive_all(s);

    return error < 0 ? error
                     : inbox_prove(&s->inbox, lengths, !s->receiver.in_place);
}

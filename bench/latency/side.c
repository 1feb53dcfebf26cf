/* Sends a frame and waits for its return: with receive_calls.h by sendmmsg(2)
   and recvmmsg(2), or (SIDE_ONE_BY_ONE) send(2) and recv(2). */

#include RECEIVER
#include "exchange.h"

/* Of type arrival_put. */
static inline void
keep(void *arrival, const struct arrival *frame)
{
    *(struct arrival *)arrival = *frame;
}

/* 0, or -errno. */
static inline int
exchange_one(struct side *s, struct arrival *arrived)
{
    struct receiver *r = &s->receiver;
    int n = exchange_send(s);

    /* libpcap would ask the kernel in vain before it waits. */
    if (n == 0 && r->in_place) {
        n = receiver_take(r, keep, arrived);
    }
    while (n == 0 && (n = wait_for(receiver_fileno(r), POLLIN)) == 0) {
        n = receiver_take(r, keep, arrived);
    }
    return n < 0 ? n : 0;
}

/* By send(2) and recv(2), which waits; the socket has a timeout (SO_RCVTIMEO).
   0, or -errno. */
static inline int
exchange_one_by_one(struct side *s, struct arrival *arrived)
{
    const struct iovec *frame = s->out->parts;
    ssize_t n = send(s->tx, frame->iov_base, frame->iov_len, 0);

    if (n >= 0) {
        n = recv(s->tx, s->inbox.in, s->inbox.room, 0);
    }
    *arrived = (struct arrival){s->inbox.in, (uint32_t)n, 0, 0};
    return n < 0 ? -errno : 0;
}

/* Sends a frame and waits for its return, `times` times. The nanoseconds of
   each are put into `taken`. 0, -EBADMSG if another frame than the one sent
   arrived, or -errno. */
int
side_run(struct side *s, unsigned times, uint64_t *taken)
{
    const struct iovec *frame = s->out->parts;
    unsigned i;

    for (i = 0; i < times; i++) {
        struct arrival arrived = {0};
        uint64_t begin;
        int result;

        write_number(frame->iov_base, i + 1);
        begin = now_ns();
        result = s->one_by_one ? exchange_one_by_one(s, &arrived)
                               : exchange_one(s, &arrived);
        if (result < 0) {
            return result;
        }
        taken[i] = now_ns() - begin;
        if (arrived.length != frame->iov_len
            || memcmp(arrived.data, frame->iov_base, arrived.length) != 0) {
            return -EBADMSG;
        }
    }
    return 0;
}

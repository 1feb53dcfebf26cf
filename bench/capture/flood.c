/* Sends numbered frames by sendmmsg(2) as fast as it can, for a time. */

#include "receive_calls.h"
#include "exchange.h"

struct flood {
    uint64_t sent;
    uint64_t begin_ns; /* CLOCK_MONOTONIC */
    uint64_t wall_ns;
    uint64_t cpu_ns; /* of this thread, including the kernel's work */
};

/* Sends for `ns` nanoseconds, then sets `over`. Numbers begin with 1. 0, or
   -errno. */
int
side_run(struct side *s, uint64_t ns, int *over, struct flood *flood)
{
    uint64_t cpu = thread_ns(), now = now_ns();
    int result = 0;

    *flood = (struct flood){.begin_ns = now};
    while (result >= 0 && now - flood->begin_ns < ns) {
        unsigned i;

        for (i = 0; i < s->out->count; i++) {
            write_number(part_of(s->out, i)->iov_base, flood->sent + 1 + i);
        }
        result = batch_send(s->out, s->tx, 0);
        if (result == -EAGAIN) {
            result = wait_for(s->tx, POLLOUT);
        }
        /* The queue between the ends of a veth pair is full
           (net.core.netdev_max_backlog). */
        result = result == -ENOBUFS ? 0 : result;
        flood->sent += result > 0 ? (uint64_t)result : 0;
        now = now_ns();
    }
    flood->wall_ns = now - flood->begin_ns;
    flood->cpu_ns = thread_ns() - cpu;
    __atomic_store_n(over, 1, __ATOMIC_RELEASE);
    return result < 0 ? result : 0;
}

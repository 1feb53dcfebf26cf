/* Sends numbered frames as fast as it can, for a time, by sendmmsg(2). */

#include "receiving.h"

struct flood {
    uint64_t sent;
    uint64_t begin_ns; /* CLOCK_MONOTONIC */
    uint64_t wall_ns;
    uint64_t cpu_ns; /* of this thread, the kernel's part included */
};

/* The numbers begin with 1. */
static void
number(struct sender *s, uint64_t next)
{
    unsigned i;

    for (i = 0; i < s->batch; i++) {
        write_number(s->parts[i].iov_base, next + i);
    }
}

/* One system call: how many frames were taken, or -errno. */
static int
send_some(struct sender *s)
{
    long n = syscall(SYS_sendmmsg, s->fd, s->messages, s->batch, MSG_DONTWAIT);

    if (n >= 0) {
        return (int)n;
    }
    /* ENOBUFS: the queue between the ends of a veth pair is full
       (net.core.netdev_max_backlog). */
    if (errno == ENOBUFS) {
        return 0;
    }
    return errno == EAGAIN ? wait_for(s->fd, POLLOUT) : -errno;
}

/* Sends for `ns` nanoseconds, then sets `over`. 0, or -errno. */
int
flood_run(const struct loop_setup *setup, uint64_t ns, int *over,
          struct flood *flood)
{
    struct sender s = {.fd = -1};
    int result = sender_open(&s, setup);
    uint64_t cpu = thread_ns(), now = now_ns();

    *flood = (struct flood){.begin_ns = now};
    while (result >= 0 && now - flood->begin_ns < ns) {
        number(&s, flood->sent + 1);
        result = send_some(&s);
        flood->sent += result > 0 ? (uint64_t)result : 0;
        now = now_ns();
    }
    flood->wall_ns = now - flood->begin_ns;
    flood->cpu_ns = thread_ns() - cpu;
    __atomic_store_n(over, 1, __ATOMIC_RELEASE);
    sender_close(&s);
    return result < 0 ? result : 0;
}

/* Sends numbered frames by sendmmsg(2) at a steady pace. */

#include "receive_calls.h"
#include "exchange.h"

struct pace {
    uint64_t sent;
    uint64_t wall_ns;
    uint64_t cpu_ns; /* of this thread, including the kernel's work */
};

static void
sleep_until(uint64_t ns)
{
    struct timespec when = {.tv_sec = (time_t)(ns / 1000000000),
                            .tv_nsec = (long)(ns % 1000000000)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL)
           == EINTR) {
    }
}

/* Sends `batches` of frames, one each `interval` nanoseconds. Their numbers
   begin with `number`, one for each frame. 0, or -errno. */
int
side_run(struct side *s, uint64_t batches, uint64_t interval, uint64_t number,
         struct pace *pace)
{
    uint64_t cpu = thread_ns(), begin = now_ns(), i;
    int result = 0;

    for (i = 0; i < batches && result == 0; i++) {
        unsigned at;

        for (at = 0; at < s->out->count; at++) {
            write_number(part_of(s->out, at)->iov_base, number++);
        }
        sleep_until(begin + i * interval);
        result = batch_send_all(s->out, s->tx);
    }
    pace->sent = i * s->out->count;
    pace->wall_ns = now_ns() - begin;
    pace->cpu_ns = thread_ns() - cpu;
    return result;
}

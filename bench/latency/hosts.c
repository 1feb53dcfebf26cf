/* Two hosts at the ends of a forwarder, in one thread: what one of them sends
   arrives at the other, which answers. */

#include "side.h"

/* A frame from one end to the other. 0, -EBADMSG if another frame arrived, or
   -errno; the socket has a timeout (SO_RCVTIMEO). */
static int
pass(int from, int to, const char *frame, size_t size)
{
    char arrived[2048];
    ssize_t n = send(from, frame, size, 0);

    if (n >= 0) {
        n = recv(to, arrived, sizeof(arrived), 0);
    }
    if (n < 0) {
        return -errno;
    }
    return (size_t)n == size && memcmp(arrived, frame, size) == 0 ? 0
                                                                  : -EBADMSG;
}

/* `times` round trips: a frame from a to b, and its answer. The nanoseconds of
   each are put into `taken`. Returns as pass() does. */
int
hosts_run(int a, int b, char *question, char *answer, size_t size,
          unsigned times, uint64_t *taken)
{
    unsigned i;

    for (i = 0; i < times; i++) {
        uint64_t begin;
        int result;

        write_number(question, 2 * i + 1);
        write_number(answer, 2 * i + 2);
        begin = now_ns();
        result = pass(a, b, question, size);
        if (result == 0) {
            result = pass(b, a, answer, size);
        }
        if (result < 0) {
            return result;
        }
        taken[i] = now_ns() - begin;
    }
    return 0;
}

/* How bench/measurements/latency.py calls the sides in C that send a frame and
   wait for its return. Each is a shared library of these functions, called
   through ctypes, which releases the GIL. Functions that can fail return
   -errno. */

#ifndef PING_H
#define PING_H

#include "loop.h"
#include "frames.h"

struct pinging;

/* NULL where it fails, which `error` tells why. Of the frames of the setup,
   the first is used. */
struct pinging *pinging_open(const struct loop_setup *setup,
                             char error[ERROR_SIZE]);

/* Has a frame sent and returned, so many times: the nanoseconds that each took
   are in `taken`. -EBADMSG where another frame came than was sent. */
int pinging_run(struct pinging *p, unsigned rounds, uint64_t *taken);

void pinging_close(struct pinging *p);

/* What came with a frame, or would. */
struct arrival {
    const char *data;
    size_t length;
};

/* pinging_run(), by two functions that return 0 or -errno. */
static inline int
run_pings(struct pinging *p, const struct iovec *frame, unsigned rounds,
          uint64_t *taken, int (*send_one)(struct pinging *),
          int (*receive_one)(struct pinging *, struct arrival *))
{
    unsigned i;

    for (i = 0; i < rounds; i++) {
        struct arrival came;
        uint64_t begin;
        int result;

        write_number(frame->iov_base, i + 1);
        begin = now_ns();
        result = send_one(p);
        if (result == 0) {
            result = receive_one(p, &came);
        }
        if (result < 0) {
            return result;
        }
        taken[i] = now_ns() - begin;
        if (came.length != frame->iov_len
            || memcmp(came.data, frame->iov_base, came.length) != 0) {
            return -EBADMSG;
        }
    }
    return 0;
}

#endif

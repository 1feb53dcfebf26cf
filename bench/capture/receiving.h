/* How bench/sides/receivers.py calls the sides in C that receive what another
   CPU sends (flood.c). Each is a shared library of these functions, called
   through ctypes, which releases the GIL. Functions that can fail return
   -errno. */

#ifndef RECEIVING_H
#define RECEIVING_H

#include "loop.h"
#include "frames.h"

/* Numbers grow from frame to frame. Those that this divides are of frames that
   are compared to the byte. */
#define COMPARED_EVERY 64

#define WAIT_MS 20

struct receipt {
    uint64_t frames;
    uint64_t disordered; /* not behind the frame before them */
    uint64_t changed;    /* not of the length, or not the bytes, as sent */
    uint64_t last_ns;    /* CLOCK_MONOTONIC, after the last frame */
    uint64_t cpu_ns;     /* of this thread, the kernel's part included */
};

/* What each frame is looked at with. */
struct examiner {
    struct receipt *receipt;
    uint64_t number; /* of the last frame */
    char *model;     /* a frame as it was sent, but for its number */
    size_t size;
};

struct receiving;

/* NULL where it fails, which `error` tells why. `out` of the setup is a frame
   as it is sent. */
struct receiving *receiving_open(const struct loop_setup *setup,
                                 char error[ERROR_SIZE]);

/* Receives until the sender is `over` and nothing has come for WAIT_MS since;
   adds to the receipt. Numbers begin anew with each call unless `more`. */
int receiving_run(struct receiving *r, const int *over, int more,
                  struct receipt *receipt);

/* The socket whose drops PACKET_STATISTICS tells; -1: it has none. */
int receiving_fileno(const struct receiving *r);

void receiving_close(struct receiving *r);

static inline int
examiner_open(struct examiner *e, const struct loop_setup *setup)
{
    e->size = setup->size;
    e->model = malloc(setup->size);
    if (e->model == NULL) {
        return -ENOMEM;
    }
    memcpy(e->model, setup->out, setup->size);
    return 0;
}

static inline void
examiner_close(struct examiner *e)
{
    free(e->model);
}

static inline void
examine(struct examiner *e, const char *frame, size_t length)
{
    uint64_t number;

    e->receipt->frames++;
    if (length != e->size) {
        e->receipt->changed++;
        return;
    }
    number = read_number(frame);
    e->receipt->disordered += number <= e->number;
    e->number = number;
    if (number % COMPARED_EVERY == 0
        && memcmp(frame + BODY_AT, e->model + BODY_AT, length - BODY_AT)) {
        e->receipt->changed++;
    }
}

static inline uint64_t
thread_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* receiving_run(), by a function that takes some of what waits on `fd` and
   returns how many frames that was, or -errno. */
static inline int
receive_until(struct receiving *r, struct examiner *e, const int *over,
              int more, int fd, int (*take)(struct receiving *))
{
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    uint64_t begin = thread_ns();
    int result = 0;

    if (!more) {
        e->number = 0;
    }
    while (result == 0) {
        int was_over = __atomic_load_n(over, __ATOMIC_ACQUIRE);
        int n = take(r);

        if (n > 0) {
            e->receipt->last_ns = now_ns();
            continue;
        }
        if (n < 0 && n != -EAGAIN) {
            result = n;
            break;
        }
        n = poll(&wanted, 1, WAIT_MS);
        if (n < 0) {
            result = -errno;
        }
        if (n == 0 && was_over) {
            break;
        }
    }
    e->receipt->cpu_ns += thread_ns() - begin;
    return result;
}

#endif

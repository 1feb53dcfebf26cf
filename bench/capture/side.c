/* Receives the frames that another CPU sends (flood.c), and checks each.
   With receive_calls.h it is the baseline. */

#include RECEIVER
#include "exchange.h"

/* Frames whose number this divides are compared to the byte. */
#define COMPARED_EVERY 64

#define WAIT_MS 20

struct receipt {
    uint64_t frames;
    uint64_t disordered; /* number not larger than that of the frame before */
    uint64_t changed;    /* length or bytes are not those sent */
    uint64_t last_ns;    /* CLOCK_MONOTONIC, after the last frame */
    uint64_t cpu_ns;     /* of this thread, including the kernel's work */
    uint64_t number;     /* of the last frame */
};

/* Of type arrival_put, to a side with a receipt. The frame is examined where inbox_put() leaves it. All
   frames have the bytes of the first one to send, except for their number. */
static inline void
examine(void *side, const struct arrival *frame)
{
    struct side *s = side;
    struct receipt *r = s->receipt;
    const struct iovec *sent = s->out->parts;
    const char *data = inbox_keep(&s->inbox, frame);
    uint64_t number;

    r->frames++;
    if (frame->length != sent->iov_len) {
        r->changed++;
        return;
    }
    number = read_number(data);
    r->disordered += number <= r->number;
    r->number = number;
    if (number % COMPARED_EVERY == 0
        && memcmp(data + BODY_AT, (char *)sent->iov_base + BODY_AT,
                  sent->iov_len - BODY_AT)) {
        r->changed++;
    }
}

/* Receives until the sender is `over` and nothing has arrived for WAIT_MS
   since; adds to the receipt. 0, or -errno. */
int
side_run(struct side *s, const int *over, struct receipt *receipt)
{
    struct pollfd wanted = {.fd = receiver_fileno(&s->receiver),
                            .events = POLLIN};
    uint64_t begin = thread_ns();
    int result = 0;

    s->receipt = receipt;
    while (result == 0) {
        int was_over = __atomic_load_n(over, __ATOMIC_ACQUIRE);
        int n = receiver_take(&s->receiver, examine, s);

        if (n > 0) {
            receipt->last_ns = now_ns();
            continue;
        }
        result = n;
        if (n == 0 && (n = poll(&wanted, 1, WAIT_MS)) < 0) {
            result = -errno;
        }
        if (n == 0 && was_over) {
            break;
        }
    }
    receipt->cpu_ns += thread_ns() - begin;
    return result;
}

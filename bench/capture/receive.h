/* Receives what another CPU sends (flood.c), and looks at every frame.
   Included after a receiver.

   Numbers grow from frame to frame; those that COMPARED_EVERY divides are of
   frames that are compared to the byte. */

#include "inbox.h"

#define COMPARED_EVERY 64
#define WAIT_MS 20

struct receipt {
    uint64_t frames;
    uint64_t disordered; /* not after the frame before them */
    uint64_t changed;    /* length or bytes are not those sent */
    uint64_t last_ns;    /* CLOCK_MONOTONIC, after the last frame */
    uint64_t cpu_ns;     /* of this thread, including the kernel's work */
};

struct side {
    struct receiver receiver;
    struct inbox inbox;
    struct receipt *receipt;
    uint64_t number; /* of the last frame */
    char *model;     /* a frame as it is sent, except for its number */
    size_t size;
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        receiver_close(&s->receiver);
        inbox_close(&s->inbox);
        free(s->model);
        free(s);
    }
}

/* `out` of the setup is a frame as it is sent. */
struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));

    snprintf(error, ERROR_SIZE, "out of memory");
    if (s == NULL || receiver_open(&s->receiver, setup, error) < 0
        || inbox_open(&s->inbox, setup) < 0
        || (s->model = malloc(setup->size)) == NULL) {
        side_close(s);
        return NULL;
    }
    s->size = setup->size;
    memcpy(s->model, setup->out, s->size);
    return s;
}

/* Of type arrival_put. The frame is examined where it is after inbox_put(). */
static inline void
examine(void *side, const struct arrival *frame)
{
    struct side *s = side;
    const char *data;
    uint64_t number;

    inbox_put(&s->inbox, frame);
    data = s->inbox.copy ? s->inbox.in + (s->inbox.next - 1) * s->inbox.stride
                         : frame->data;
    s->receipt->frames++;
    if (frame->length != s->size) {
        s->receipt->changed++;
        return;
    }
    number = read_number(data);
    s->receipt->disordered += number <= s->number;
    s->number = number;
    if (number % COMPARED_EVERY == 0
        && memcmp(data + BODY_AT, s->model + BODY_AT, s->size - BODY_AT)) {
        s->receipt->changed++;
    }
}

/* Receives until the sender is `over` and nothing has arrived for WAIT_MS
   since; adds to the receipt. Numbers start anew with each call unless
   `more`. */
int
side_run(struct side *s, const int *over, int more, struct receipt *receipt)
{
    struct pollfd wanted = {.fd = receiver_fileno(&s->receiver),
                            .events = POLLIN};
    uint64_t begin = thread_ns();
    int result = 0;

    s->receipt = receipt;
    s->number = more ? s->number : 0;
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

/* The packet socket that counts what it drops; -1: it does not. */
int
side_fileno(const struct side *s)
{
    return s->receiver.in_place < 0 ? -1 : receiver_fileno(&s->receiver);
}

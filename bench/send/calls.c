/* The limit of sending: sendmmsg(2), armed once. */

#include "send.h"

struct sending {
    struct sender sender;
};

void
sending_close(struct sending *s)
{
    if (s != NULL) {
        sender_close(&s->sender);
        free(s);
    }
}

struct sending *
sending_open(const struct loop_setup *setup, char error[ERROR_SIZE])
{
    struct sending *s = calloc(1, sizeof(*s));

    if (s == NULL || sender_open(&s->sender, setup) < 0) {
        snprintf(error, ERROR_SIZE, "out of memory");
        sending_close(s);
        return NULL;
    }
    return s;
}

void
sending_prepare(struct sending *s)
{
    (void)s;
}

int
sending_run(struct sending *s, unsigned rounds)
{
    int error = 0;

    for (; rounds > 0 && error == 0; rounds--) {
        error = sender_send(&s->sender);
    }
    return error;
}

/* Receiving by recvmmsg(2): the limit. */

#include "receiving.h"
#include "receive_calls.h"

struct receiving {
    struct receiver receiver;
    struct examiner examiner;
};

void
receiving_close(struct receiving *r)
{
    if (r != NULL) {
        receiver_close(&r->receiver);
        examiner_close(&r->examiner);
        free(r);
    }
}

struct receiving *
receiving_open(const struct loop_setup *setup, char error[ERROR_SIZE])
{
    struct receiving *r = calloc(1, sizeof(*r));

    if (r == NULL || receiver_open(&r->receiver, setup) < 0
        || examiner_open(&r->examiner, setup) < 0) {
        snprintf(error, ERROR_SIZE, "out of memory");
        receiving_close(r);
        return NULL;
    }
    return r;
}

static int
take(struct receiving *r)
{
    int n = receiver_take(&r->receiver), i;

    for (i = 0; i < n; i++) {
        examine(&r->examiner, r->receiver.parts[i].iov_base,
                r->receiver.messages[i].msg_len);
    }
    return n;
}

int
receiving_run(struct receiving *r, const int *over, int more,
              struct receipt *receipt)
{
    r->examiner.receipt = receipt;
    return receive_until(r, &r->examiner, over, more, r->receiver.fd, take);
}

int
receiving_fileno(const struct receiving *r)
{
    return r->receiver.fd;
}

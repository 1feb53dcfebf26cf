/* There and back by packet sockets: sendmmsg(2) and recvmmsg(2), or, where a
   frame a call is asked for, send(2) and recv(2), which blocks. */

#include "ping.h"
#include "receive_calls.h"

struct pinging {
    struct sender sender;
    struct receiver receiver;
    int one_by_one;
};

void
pinging_close(struct pinging *p)
{
    if (p != NULL) {
        sender_close(&p->sender);
        receiver_close(&p->receiver);
        free(p);
    }
}

struct pinging *
pinging_open(const struct loop_setup *setup, char error[ERROR_SIZE])
{
    struct pinging *p = calloc(1, sizeof(*p));

    if (p == NULL || sender_open(&p->sender, setup) < 0
        || receiver_open(&p->receiver, setup) < 0) {
        snprintf(error, ERROR_SIZE, "out of memory");
        pinging_close(p);
        return NULL;
    }
    p->one_by_one = (setup->options & LOOP_ONE_BY_ONE) != 0;
    return p;
}

static int
send_one(struct pinging *p)
{
    return sender_send(&p->sender);
}

static int
receive_one(struct pinging *p, struct arrival *came)
{
    int n;

    while ((n = receiver_take(&p->receiver)) < 1) {
        if (n < 0 && n != -EAGAIN) {
            return n;
        }
        n = wait_for(p->receiver.fd, POLLIN);
        if (n < 0) {
            return n;
        }
    }
    came->data = p->receiver.parts[0].iov_base;
    came->length = p->receiver.messages[0].msg_len;
    return 0;
}

static int
send_alone(struct pinging *p)
{
    const struct iovec *frame = &p->sender.parts[0];

    return send(p->sender.fd, frame->iov_base, frame->iov_len, 0) < 0 ? -errno
                                                                      : 0;
}

/* The socket has a timeout (SO_RCVTIMEO). */
static int
receive_alone(struct pinging *p, struct arrival *came)
{
    const struct iovec *room = &p->receiver.parts[0];
    ssize_t n = recv(p->receiver.fd, room->iov_base, room->iov_len, 0);

    if (n < 0) {
        return -errno;
    }
    came->data = room->iov_base;
    came->length = (size_t)n;
    return 0;
}

int
pinging_run(struct pinging *p, unsigned rounds, uint64_t *taken)
{
    return run_pings(p, &p->sender.parts[0], rounds, taken,
                     p->one_by_one ? send_alone : send_one,
                     p->one_by_one ? receive_alone : receive_one);
}

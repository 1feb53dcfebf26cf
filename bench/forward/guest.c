/* The network card of a virtual machine, as its emulator provides it on a
   datagram netdev: what the guest sends on a tap goes to a Unix datagram
   socket, one frame a message, and back. */

#define _GNU_SOURCE

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <sys/socket.h>

enum {
    BATCH = 64,
    ROOM = 2048
};

struct guest {
    unsigned char frames[BATCH][ROOM];
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH];
};

static void
arm(struct guest *g)
{
    for (int i = 0; i < BATCH; i++) {
        g->parts[i] = (struct iovec){g->frames[i], ROOM};
        g->messages[i] = (struct mmsghdr){
            .msg_hdr = {.msg_iov = &g->parts[i], .msg_iovlen = 1}};
    }
}

/* Sends what the guest has sent. Waits while the queue of the other end is
   full, so that the guest waits, too. 0, or -errno. */
static int
send_up(struct guest *g, int tap, int sock)
{
    int count = 0, sent = 0;

    while (count < BATCH) {
        ssize_t n = read(tap, g->frames[count], ROOM);

        if (n < 0) {
            break; /* EAGAIN: there are no more */
        }
        g->parts[count++].iov_len = (size_t)n;
    }
    while (sent < count) {
        int n =
            sendmmsg(sock, g->messages + sent, (unsigned)(count - sent), 0);

        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        sent += n > 0 ? n : 0;
    }
    return 0;
}

/* Gives the guest what has arrived for it. 0, or -errno. */
static int
send_down(struct guest *g, int tap, int sock)
{
    int count = recvmmsg(sock, g->messages, BATCH, MSG_DONTWAIT, NULL), i;

    for (i = 0; i < count; i++) {
        if (write(tap, g->frames[i], g->messages[i].msg_len) < 0) {
            return -errno;
        }
    }
    return count < 0 && errno != EAGAIN && errno != EINTR ? -errno : 0;
}

/* Returns after `stop`, a pipe, has been closed at its other end. `tap` does
   not block, `sock` does. 0, or -errno. */
int
guest_run(int tap, int sock, int stop)
{
    struct pollfd ready[] = {{.fd = tap, .events = POLLIN},
                             {.fd = sock, .events = POLLIN},
                             {.fd = stop, .events = POLLIN}};
    static _Thread_local struct guest g;
    int result = 0;

    while (result == 0) {
        if (poll(ready, 3, -1) < 0) {
            return -errno;
        }
        if (ready[2].revents != 0) {
            return 0;
        }
        arm(&g);
        if (ready[1].revents != 0) {
            result = send_down(&g, tap, sock);
        }
        arm(&g);
        if (result == 0 && ready[0].revents != 0) {
            result = send_up(&g, tap, sock);
        }
    }
    return result;
}

/* The limit: what a C program takes for the same work, with the same system
   calls in the same pattern on the same sockets and frames.

   limit.py compiles it when a measurement runs, and calls it through ctypes,
   which releases the GIL. A whole slice runs here, without Python. Functions
   that can fail return -errno. */

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <linux/if_packet.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define CONTROL_SIZE CMSG_SPACE(sizeof(struct tpacket_auxdata))
#define PATIENCE_MS 5000

/* A batch that is sent and received back, armed once. */
struct loop {
    int tx, rx; /* the caller's */
    unsigned batch;
    struct mmsghdr *out, *in;
    struct iovec *out_parts, *in_parts;
    char *control; /* CONTROL_SIZE each; NULL: no auxdata wanted */
    uint64_t bytes, tags;
};

void
loop_close(struct loop *l)
{
    if (l != NULL) {
        free(l->out);
        free(l->in);
        free(l->out_parts);
        free(l->in_parts);
        free(l->control);
        free(l);
    }
}

static void
arm(struct loop *l, unsigned i, char *out, size_t size, char *in, size_t room)
{
    l->out_parts[i] = (struct iovec){out, size};
    l->out[i].msg_hdr.msg_iov = &l->out_parts[i];
    l->out[i].msg_hdr.msg_iovlen = 1;
    l->in_parts[i] = (struct iovec){in, room};
    l->in[i].msg_hdr.msg_iov = &l->in_parts[i];
    l->in[i].msg_hdr.msg_iovlen = 1;
    if (l->control != NULL) {
        l->in[i].msg_hdr.msg_control = l->control + i * CONTROL_SIZE;
        l->in[i].msg_hdr.msg_controllen = CONTROL_SIZE;
    }
}

/* `batch` frames of `size` bytes, `stride` apart, go from `out` to `in`, where
   each has `room`. NULL without memory. */
struct loop *
loop_open(int tx, int rx, unsigned batch, char *out, size_t size, char *in,
          size_t room, size_t stride, int auxdata)
{
    struct loop *l = calloc(1, sizeof(*l));
    unsigned i;

    if (l == NULL) {
        return NULL;
    }
    l->tx = tx;
    l->rx = rx;
    l->batch = batch;
    l->out = calloc(batch, sizeof(*l->out));
    l->in = calloc(batch, sizeof(*l->in));
    l->out_parts = calloc(batch, sizeof(*l->out_parts));
    l->in_parts = calloc(batch, sizeof(*l->in_parts));
    l->control = auxdata ? calloc(batch, CONTROL_SIZE) : NULL;
    if (l->out == NULL || l->in == NULL || l->out_parts == NULL
        || l->in_parts == NULL || (auxdata && l->control == NULL)) {
        loop_close(l);
        return NULL;
    }
    for (i = 0; i < batch; i++) {
        arm(l, i, out + i * stride, size, in + i * stride, room);
    }
    return l;
}

/* Waits after EAGAIN: 0, or -errno. */
static int
wait_for(int fd, short events)
{
    struct pollfd ready = {.fd = fd, .events = events};
    int n = poll(&ready, 1, PATIENCE_MS);

    return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

static int
send_batch(struct loop *l)
{
    unsigned sent = 0;

    while (sent < l->batch) {
        long n = syscall(SYS_sendmmsg, l->tx, l->out + sent, l->batch - sent,
                         MSG_DONTWAIT);

        if (n >= 0) {
            sent += (unsigned)n;
        }
        else if (errno != EAGAIN) {
            return -errno;
        }
        else {
            int error = wait_for(l->tx, POLLOUT);

            if (error < 0) {
                return error;
            }
        }
    }
    return 0;
}

/* Whoever asks for auxdata asks for the VLAN tag that the kernel has taken out
   of the frame. */
static void
look_for_tag(struct loop *l, struct msghdr *header)
{
    struct tpacket_auxdata aux;
    struct cmsghdr *c;

    for (c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA) {
            memcpy(&aux, CMSG_DATA(c), sizeof(aux));
            if (aux.tp_status & TP_STATUS_VLAN_VALID) {
                l->tags++;
            }
        }
    }
}

/* Reads what came with each message, and makes the headers ready for the next
   call: these fields are value and result. */
static void
settle(struct loop *l, unsigned count)
{
    unsigned i;

    for (i = 0; i < count; i++) {
        struct msghdr *header = &l->in[i].msg_hdr;

        l->bytes += l->in[i].msg_len;
        if (l->control != NULL) {
            look_for_tag(l, header);
            header->msg_controllen = CONTROL_SIZE;
        }
        header->msg_namelen = 0;
        header->msg_flags = 0;
    }
}

/* How many came with the last call, or -errno. */
static int
receive_batch(struct loop *l)
{
    unsigned received = 0;

    for (;;) {
        long n =
            syscall(SYS_recvmmsg, l->rx, l->in, l->batch, MSG_DONTWAIT, NULL);

        if (n >= 0) {
            settle(l, (unsigned)n);
            received += (unsigned)n;
            if (received >= l->batch) {
                return (int)n;
            }
        }
        else if (errno != EAGAIN) {
            return -errno;
        }
        else {
            int error = wait_for(l->rx, POLLIN);

            if (error < 0) {
                return error;
            }
        }
    }
}

/* A slice: sends the batch and receives it, `rounds` times. How many frames
   came with the last receiving call, or -errno; in `lengths` their lengths. */
int
loop_run(struct loop *l, unsigned rounds, uint32_t *lengths)
{
    int result = 0, i;

    for (; rounds > 0; rounds--) {
        result = send_batch(l);
        if (result == 0) {
            result = receive_batch(l);
        }
        if (result < 0) {
            return result;
        }
    }
    for (i = 0; i < result; i++) {
        lengths[i] = l->in[i].msg_len;
    }
    return result;
}

/* Since it was opened. */
void
loop_totals(const struct loop *l, uint64_t *bytes, uint64_t *tags)
{
    *bytes = l->bytes;
    *tags = l->tags;
}

/* Sends numbered frames on several sockets in turn, as fast as it can, for a
   time. */

#include "side.h"

#define MOST_STREAMS 4
#define MOST_FRAMES 64
#define SOURCE_AT 8 /* the last four bytes of the source address */

/* As in blast.py. `frames` frames of `size` bytes, `stride` apart. */
struct stream {
    char *first;
    size_t stride, size;
    uint64_t sent;        /* until now; the number of the last frame */
    uint64_t interval_ns; /* from one call to the next; 0: no pause */
    int fd;
    unsigned frames;
    int has_new_sources; /* each frame has a source address of its own */
    uint32_t first_source;
};

/* Prepared once for each stream. */
struct messages {
    struct mmsghdr headers[MOST_FRAMES];
    struct iovec parts[MOST_FRAMES];
    uint64_t due; /* time of the next call */
};

static void
prepare(struct messages *m, const struct stream *s)
{
    unsigned i;

    *m = (struct messages){0};
    for (i = 0; i < s->frames; i++) {
        m->parts[i] = (struct iovec){s->first + i * s->stride, s->size};
        m->headers[i].msg_hdr.msg_iov = &m->parts[i];
        m->headers[i].msg_hdr.msg_iovlen = 1;
    }
}

/* One system call: 0, or -errno. */
static int
send_some(struct messages *m, struct stream *s)
{
    unsigned i;
    long n;

    for (i = 0; i < s->frames; i++) {
        char *frame = m->parts[i].iov_base;

        write_number(frame, s->sent + 1 + i);
        if (s->has_new_sources) {
            uint32_t source = htobe32(s->first_source + (uint32_t)s->sent + i);

            memcpy(frame + SOURCE_AT, &source, sizeof(source));
        }
    }
    n = syscall(SYS_sendmmsg, s->fd, m->headers, s->frames, MSG_DONTWAIT);
    /* The queue between the ends of a veth pair is full
       (net.core.netdev_max_backlog), or that of a tap. */
    if (n < 0 && errno != ENOBUFS && errno != EAGAIN) {
        return -errno;
    }
    s->sent += n > 0 ? (uint64_t)n : 0;
    return 0;
}

/* Sends for `ns` nanoseconds. Puts into `taken` how many these were: 0, or
   -errno. */
int
blast_run(struct stream *streams, unsigned count, uint64_t ns, uint64_t *taken)
{
    struct messages messages[MOST_STREAMS];
    uint64_t begin = now_ns(), now = begin;
    unsigned i;

    if (count > MOST_STREAMS) {
        return -EINVAL;
    }
    for (i = 0; i < count; i++) {
        if (streams[i].frames > MOST_FRAMES) {
            return -EINVAL;
        }
        prepare(&messages[i], &streams[i]);
        messages[i].due = begin;
    }
    while (now - begin < ns) {
        for (i = 0; i < count; i++) {
            int result = 0;

            if (now >= messages[i].due) {
                result = send_some(&messages[i], &streams[i]);
                messages[i].due += streams[i].interval_ns;
            }
            if (result < 0) {
                return result;
            }
        }
        now = now_ns();
    }
    *taken = now - begin;
    return 0;
}

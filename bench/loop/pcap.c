/* The loop with libpcap on the receiving end. */

#include "loop.h"
#include "capture.h"

/* What a frame takes of libpcap's ring, at most: SNAPLEN and headers, in a
   block of a power of two. */
#define SLOT_SIZE 4096

struct side {
    struct sender sender;
    struct inbox inbox;
    pcap_t *handle;
    int fd; /* the handle's */
    int one_by_one;
    pcap_t *injector; /* NULL: not asked for */
    uint64_t sent;
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        sender_close(&s->sender);
        inbox_close(&s->inbox);
        if (s->handle != NULL) {
            pcap_close(s->handle);
        }
        if (s->injector != NULL) {
            pcap_close(s->injector);
        }
        free(s);
    }
}

struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));
    struct capture_setup wanted = {
        .interface = setup->rx_name,
        .room = 2 * (int)setup->batch * SLOT_SIZE,
    };

    _Static_assert(ERROR_SIZE >= PCAP_ERRBUF_SIZE, "libpcap's words fit");
    if (s == NULL || sender_open(&s->sender, setup) < 0
        || inbox_open(&s->inbox, setup) < 0) {
        snprintf(error, ERROR_SIZE, "out of memory");
        goto fail;
    }
    wanted.room = wanted.room > CAPTURE_ROOM ? wanted.room : CAPTURE_ROOM;
    s->handle = capture_open(&wanted, error);
    if (s->handle == NULL) {
        goto fail;
    }
    if (setup->options & SIDE_INJECT) {
        s->injector = injector_open(setup->tx_name, error);
        if (s->injector == NULL) {
            goto fail;
        }
    }
    s->fd = pcap_get_selectable_fd(s->handle);
    s->one_by_one = (setup->options & SIDE_ONE_BY_ONE) != 0;
    return s;

fail:
    side_close(s);
    return NULL;
}

/* libpcap puts tags back into the frames. */
static void
put(u_char *inbox, const struct pcap_pkthdr *header, const u_char *data)
{
    inbox_put((struct inbox *)inbox, data, header->caplen, 0,
              header->ts.tv_sec != 0);
}

/* One call into libpcap: how many frames came, or -EIO. */
static int
take(struct side *s)
{
    u_char *inbox = (u_char *)&s->inbox;
    struct pcap_pkthdr *header;
    const u_char *data;
    int n;

    if (!s->one_by_one) {
        n = pcap_dispatch(s->handle, (int)s->inbox.batch, put, inbox);
        return n < 0 ? -EIO : n;
    }
    n = pcap_next_ex(s->handle, &header, &data);
    if (n > 0) {
        put(inbox, header, data);
    }
    return n < 0 ? -EIO : n;
}

/* A frame a call: libpcap has no other. */
static int
inject(struct side *s)
{
    unsigned i;

    for (i = 0; i < s->sender.batch; i++) {
        const struct iovec *frame = &s->sender.parts[i];

        if (pcap_inject(s->injector, frame->iov_base, frame->iov_len) < 0) {
            return -EIO;
        }
    }
    return 0;
}

static int
send_half(struct side *s)
{
    s->sent += s->inbox.batch;
    return s->injector != NULL ? inject(s) : sender_send(&s->sender);
}

static int
receive_half(struct side *s)
{
    while (s->inbox.totals.packets < s->sent) {
        int n = take(s);

        if (n == 0) {
            n = wait_for(s->fd, POLLIN);
        }
        if (n < 0) {
            return n;
        }
    }
    return 0;
}

int
side_run(struct side *s, unsigned times, uint64_t parts[2])
{
    return run_halves(s, times, parts, send_half, receive_half);
}

int
side_prove(struct side *s, uint32_t *lengths)
{
    return inbox_prove(&s->inbox, lengths);
}

int
side_fileno(const struct side *s)
{
    return s->fd;
}

void
side_get_totals(const struct side *s, struct loop_totals *totals)
{
    *totals = s->inbox.totals;
}

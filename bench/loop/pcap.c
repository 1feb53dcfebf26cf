/* The loop with libpcap on the receiving end. */

#include "inbox.h"
#include "capture.h"

/* What a frame takes of libpcap's ring, at most: SNAPLEN and headers, in a
   block of a power of two. */
#define SLOT_SIZE 4096

struct loop {
    struct sender sender;
    struct inbox inbox;
    pcap_t *handle;
    int fd; /* the handle's */
    int one_by_one;
    pcap_t *injector; /* NULL: not asked for */
    uint64_t sent;
};

void
loop_close(struct loop *l)
{
    if (l != NULL) {
        sender_close(&l->sender);
        inbox_close(&l->inbox);
        if (l->handle != NULL) {
            pcap_close(l->handle);
        }
        if (l->injector != NULL) {
            pcap_close(l->injector);
        }
        free(l);
    }
}

struct loop *
loop_open(const struct loop_setup *setup, char error[ERROR_SIZE])
{
    struct loop *l = calloc(1, sizeof(*l));
    struct capture_setup wanted = {
        .interface = setup->rx_name,
        .room = 2 * (int)setup->batch * SLOT_SIZE,
    };

    _Static_assert(ERROR_SIZE >= PCAP_ERRBUF_SIZE, "libpcap's words fit");
    if (l == NULL || sender_open(&l->sender, setup) < 0
        || inbox_open(&l->inbox, setup) < 0) {
        snprintf(error, ERROR_SIZE, "out of memory");
        goto fail;
    }
    wanted.room = wanted.room > CAPTURE_ROOM ? wanted.room : CAPTURE_ROOM;
    l->handle = capture_open(&wanted, error);
    if (l->handle == NULL) {
        goto fail;
    }
    if (setup->options & LOOP_INJECT) {
        l->injector = injector_open(setup->tx_name, error);
        if (l->injector == NULL) {
            goto fail;
        }
    }
    l->fd = pcap_get_selectable_fd(l->handle);
    l->one_by_one = (setup->options & LOOP_ONE_BY_ONE) != 0;
    return l;

fail:
    loop_close(l);
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
take(struct loop *l)
{
    u_char *inbox = (u_char *)&l->inbox;
    struct pcap_pkthdr *header;
    const u_char *data;
    int n;

    if (!l->one_by_one) {
        n = pcap_dispatch(l->handle, (int)l->inbox.batch, put, inbox);
        return n < 0 ? -EIO : n;
    }
    n = pcap_next_ex(l->handle, &header, &data);
    if (n > 0) {
        put(inbox, header, data);
    }
    return n < 0 ? -EIO : n;
}

/* A frame a call: libpcap has no other. */
static int
inject(struct loop *l)
{
    unsigned i;

    for (i = 0; i < l->sender.batch; i++) {
        const struct iovec *frame = &l->sender.parts[i];

        if (pcap_inject(l->injector, frame->iov_base, frame->iov_len) < 0) {
            return -EIO;
        }
    }
    return 0;
}

static int
send_half(struct loop *l)
{
    l->sent += l->inbox.batch;
    return l->injector != NULL ? inject(l) : sender_send(&l->sender);
}

static int
receive_half(struct loop *l)
{
    while (l->inbox.totals.packets < l->sent) {
        int n = take(l);

        if (n == 0) {
            n = wait_for(l->fd, POLLIN);
        }
        if (n < 0) {
            return n;
        }
    }
    return 0;
}

int
loop_run(struct loop *l, unsigned rounds, uint64_t parts[2])
{
    return run_halves(l, rounds, parts, send_half, receive_half);
}

int
loop_prove(struct loop *l, uint32_t *lengths)
{
    return inbox_prove(&l->inbox, lengths);
}

int
loop_fileno(const struct loop *l)
{
    return l->fd;
}

void
loop_get_totals(const struct loop *l, struct loop_totals *totals)
{
    *totals = l->inbox.totals;
}

/* Receiving with libpcap, and (SIDE_INJECT) sending with it: on the same
   handle if the interface is the same. */

#ifndef RECEIVER_H
#define RECEIVER_H

#include "batch.h"
#include "capture.h"

/* The most that a frame takes in libpcap's ring: SNAPLEN and headers, in a
   block of a power of two. */
#define PCAP_SLOT_SIZE 4096
#define FLOOD_SIZE (16 * 1024 * 1024) /* as the queues of the sockets */

struct receiver {
    pcap_t *handle;
    pcap_t *injector; /* NULL: none; may be `handle` */
    unsigned batch;
    int in_place;
    int lazy;
};

static void
receiver_close(struct receiver *r)
{
    if (r->injector != NULL && r->injector != r->handle) {
        pcap_close(r->injector);
    }
    if (r->handle != NULL) {
        pcap_close(r->handle);
    }
}

static int
receiver_open(struct receiver *r, const struct side_setup *setup, char *error)
{
    int room = 2 * (int)setup->batch * PCAP_SLOT_SIZE;
    struct capture_setup wanted = {
        .interface = setup->rx_name,
        .buffered = (setup->options & SIDE_BUFFERED) != 0,
        .room = room > CAPTURE_ROOM ? room : CAPTURE_ROOM,
    };

    _Static_assert(ERROR_SIZE >= PCAP_ERRBUF_SIZE, "libpcap's message fits");
    *r = (struct receiver){.batch = setup->batch};
    if (setup->options & SIDE_FLOOD) {
        wanted.room = FLOOD_SIZE;
    }
    r->handle = setup->options & SIDE_SEND_ONLY
                    ? injector_open(setup->rx_name, error)
                    : capture_open(&wanted, error);
    if (r->handle != NULL && setup->options & SIDE_INJECT) {
        r->injector = strcmp(setup->tx_name, setup->rx_name) == 0
                          ? r->handle
                          : injector_open(setup->tx_name, error);
    }
    if (r->handle == NULL
        || (setup->options & SIDE_INJECT && r->injector == NULL)) {
        return -1;
    }
    return 0;
}

struct pcap_sink {
    arrival_put *put;
    void *sink;
};

/* libpcap puts tags back into the frames itself. */
static inline void
pcap_put(u_char *to, const struct pcap_pkthdr *header, const u_char *data)
{
    const struct pcap_sink *s = (const struct pcap_sink *)to;
    struct arrival frame = {
        .data = (const char *)data,
        .length = header->caplen,
        .stamped = header->ts.tv_sec != 0,
    };

    s->put(s->sink, &frame);
}

static inline int
receiver_take(struct receiver *r, arrival_put *put, void *sink)
{
    struct pcap_sink to = {put, sink};
    int n = pcap_dispatch(r->handle, (int)r->batch, pcap_put, (u_char *)&to);

    return n < 0 ? -EIO : n;
}

static inline int
receiver_fileno(const struct receiver *r)
{
    return pcap_get_selectable_fd(r->handle);
}

#endif

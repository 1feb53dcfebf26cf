/* Receiving with libpcap and its best settings, and (SIDE_INJECT) sending with
   it: on the same handle if the interface is the same. */

#pragma once

#include "batch.h"

#include <pcap/pcap.h>

#define SNAPLEN 2048
#define IMMEDIATE_TIMEOUT_MS 1 /* not used, but must not be 0 */
#define BUFFER_TIMEOUT_MS 10   /* for a block that is not full */

/* The most that a frame takes in libpcap's ring: SNAPLEN and headers, in a
   block of a power of two. */
#define PCAP_SLOT_SIZE 4096
#define DEFAULT_ROOM (2 * 1024 * 1024) /* libpcap's default */
#define LARGE_ROOM (8 * 1024 * 1024)   /* as the queues of the sockets */
#define FLOOD_ROOM (16 * 1024 * 1024)

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

/* A handle whose reads return 0 at once if there is no frame; NULL with the
   reason in `error`. One that is `send_only` has to listen, too, but for
   frames that nobody sends: a handle that listens for all slows down each
   frame that leaves. */
static pcap_t *
handle_open(const struct side_setup *setup, const char *interface,
            int send_only, char *error)
{
    pcap_t *p = pcap_create(interface, error);
    int buffered = (setup->options & SIDE_BUFFERED) != 0;
    int forward = (setup->options & SIDE_FORWARD) != 0;
    int room = 2 * (int)setup->batch * PCAP_SLOT_SIZE;

    room = setup->options & SIDE_FLOOD   ? FLOOD_ROOM
           : setup->options & SIDE_LARGE ? LARGE_ROOM
           : room > DEFAULT_ROOM         ? room
                                         : DEFAULT_ROOM;
    _Static_assert(ERROR_SIZE >= PCAP_ERRBUF_SIZE, "libpcap's message fits");
    if (p == NULL) {
        return NULL;
    }
    if (pcap_set_snaplen(p, SNAPLEN) == 0 && pcap_set_promisc(p, forward) == 0
        && pcap_set_protocol_linux(p, send_only ? ETH_P_LOOPBACK : ETH_P_ALL)
               == 0
        && pcap_set_immediate_mode(p, !buffered) == 0
        && pcap_set_timeout(p, buffered ? BUFFER_TIMEOUT_MS
                                        : IMMEDIATE_TIMEOUT_MS)
               == 0
        && pcap_set_buffer_size(p, room) == 0
        && pcap_activate(p) >= 0 /* > 0: a warning */
        && (!forward || pcap_setdirection(p, PCAP_D_IN) == 0)
        && pcap_setnonblock(p, 1, error) == 0) {
        return p;
    }
    snprintf(error, ERROR_SIZE, "%.64s: %.180s", interface, pcap_geterr(p));
    pcap_close(p);
    return NULL;
}

static int
receiver_open(struct receiver *r, const struct side_setup *setup, char *error)
{
    int send_only = (setup->options & SIDE_SEND_ONLY) != 0;

    *r = (struct receiver){.batch = setup->batch};
    r->handle = handle_open(setup, setup->rx_name, send_only, error);
    if (r->handle == NULL || !(setup->options & SIDE_INJECT)) {
        return r->handle != NULL ? 0 : -1;
    }
    r->injector = strcmp(setup->tx_name, setup->rx_name) == 0
                      ? r->handle
                      : handle_open(setup, setup->tx_name, 1, error);
    return r->injector != NULL ? 0 : -1;
}

struct pcap_sink {
    arrival_put *put;
    void *sink;
};

/* libpcap puts tags back into the frames itself. A frame that it cut short has
   no length. */
static inline void
pcap_put(u_char *to, const struct pcap_pkthdr *header, const u_char *data)
{
    const struct pcap_sink *s = (const struct pcap_sink *)to;
    struct arrival frame = {
        .data = (const char *)data,
        .length = header->caplen == header->len ? header->caplen : 0,
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

/* Sends frames, one a call; libpcap has no batch call. 0, or -EIO. */
static inline int
inject_all(pcap_t *p, const struct iovec *frames, unsigned count)
{
    unsigned i;

    for (i = 0; i < count; i++) {
        if (pcap_inject(p, frames[i].iov_base, frames[i].iov_len) < 0) {
            return -EIO;
        }
    }
    return 0;
}

/* Forwarding with libpcap and its best settings for that: immediate mode, each
   packet injected from the callback, in both directions.

   Hosts must send frames that fit a wire: libpcap has no offload headers. */

#include "forward.h"

#include <pcap/pcap.h>

#define SNAPLEN 2048
#define BUFFER_SIZE (8 << 20)

struct port {
    pcap_t *pcap, *to;
    struct counts counts;
};

struct side {
    struct port ports[2];
};

void
side_close(struct side *s)
{
    int i;

    for (i = 0; s != NULL && i < 2; i++) {
        if (s->ports[i].pcap != NULL) {
            pcap_close(s->ports[i].pcap);
        }
    }
    free(s);
}

static pcap_t *
open_interface(const char *name, char *error)
{
    pcap_t *pcap = pcap_create(name, error);

    if (pcap == NULL) {
        return NULL;
    }
    if (pcap_set_snaplen(pcap, SNAPLEN) != 0 || pcap_set_promisc(pcap, 1) != 0
        || pcap_set_immediate_mode(pcap, 1) != 0
        || pcap_set_buffer_size(pcap, BUFFER_SIZE) != 0
        || pcap_activate(pcap) < 0 || pcap_setdirection(pcap, PCAP_D_IN) != 0
        || pcap_setnonblock(pcap, 1, error) != 0) {
        snprintf(error, PCAP_ERRBUF_SIZE, "%s: %s", name, pcap_geterr(pcap));
        pcap_close(pcap);
        return NULL;
    }
    return pcap;
}

/* Between the interfaces `tx_name` and `rx_name`. */
struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));
    struct port *a, *b;

    _Static_assert(ERROR_SIZE >= PCAP_ERRBUF_SIZE, "libpcap's message fits");
    if (s == NULL) {
        snprintf(error, ERROR_SIZE, "out of memory");
        return NULL;
    }
    a = &s->ports[0];
    b = &s->ports[1];
    b->to = a->pcap = open_interface(setup->tx_name, error);
    a->to = b->pcap =
        a->pcap != NULL ? open_interface(setup->rx_name, error) : NULL;
    if (b->pcap == NULL) {
        side_close(s);
        return NULL;
    }
    return s;
}

static void
forward_packet(u_char *user, const struct pcap_pkthdr *header,
               const u_char *frame)
{
    struct port *p = (struct port *)user;

    p->counts.received++;
    if (header->caplen == header->len
        && pcap_inject(p->to, frame, header->caplen) >= 0) {
        p->counts.sent++;
    }
    else {
        p->counts.dropped++;
    }
}

static int
forward_fd(const struct side *s, int i)
{
    return pcap_get_selectable_fd(s->ports[i].pcap);
}

static struct counts *
forward_counts(struct side *s, int i)
{
    return &s->ports[i].counts;
}

static int
forward_some(struct side *s, int i)
{
    struct port *p = &s->ports[i];
    int n = pcap_dispatch(p->pcap, -1, forward_packet, (u_char *)p);

    return n < 0 ? -EIO : n;
}

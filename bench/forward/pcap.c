/* Forwarding with libpcap and its best settings for that: immediate mode, each
   packet injected from the callback, in both directions.

   Hosts must send frames that fit a wire: libpcap has no offload headers. */

#include "receive_pcap.h"
#include "forward.h"

struct port {
    struct receiver receiver;
    pcap_t *to;
    struct counts counts;
};

struct side {
    struct port ports[2];
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        receiver_close(&s->ports[0].receiver);
        receiver_close(&s->ports[1].receiver);
        free(s);
    }
}

/* Between the interfaces `tx_name` and `rx_name`. */
struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));
    struct side_setup other = *setup;

    other.rx_name = setup->tx_name;
    snprintf(error, ERROR_SIZE, "out of memory");
    if (s == NULL || receiver_open(&s->ports[0].receiver, &other, error) < 0
        || receiver_open(&s->ports[1].receiver, setup, error) < 0) {
        side_close(s);
        return NULL;
    }
    s->ports[0].to = s->ports[1].receiver.handle;
    s->ports[1].to = s->ports[0].receiver.handle;
    return s;
}

/* Of type arrival_put. */
static void
forward_packet(void *port, const struct arrival *frame)
{
    struct port *p = port;

    p->counts.received++;
    if (frame->length > 0
        && pcap_inject(p->to, frame->data, frame->length) >= 0) {
        p->counts.sent++;
    }
    else {
        p->counts.dropped++;
    }
}

static int
forward_fd(const struct side *s, int i)
{
    return receiver_fileno(&s->ports[i].receiver);
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

    return receiver_take(&p->receiver, forward_packet, p);
}

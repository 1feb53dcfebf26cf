/* Forwarding with libpcap and its best settings for that: immediate mode, each
   packet injected from the callback, in both directions.

   Hosts must send frames that fit a wire: libpcap has no offload headers. */

#include "receive_pcap.h"

struct forwarder {
    struct receiver ports[2];
};

#include "forward.h"

static void
forwarder_close(struct forwarder *f)
{
    receiver_close(&f->ports[0]);
    receiver_close(&f->ports[1]);
}

static int
forwarder_open(struct side *s, const struct side_setup *setup, char *error)
{
    struct receiver *ports = s->forwarder.ports;
    struct side_setup other = *setup;

    other.rx_name = setup->tx_name;
    if (receiver_open(&ports[0], &other, error) < 0
        || receiver_open(&ports[1], setup, error) < 0) {
        return -1;
    }
    s->fds[0] = receiver_fileno(&ports[0]);
    s->fds[1] = receiver_fileno(&ports[1]);
    return 0;
}

struct passage {
    pcap_t *to;
    struct counts *counts;
};

/* Of type arrival_put. */
static void
forward_packet(void *passage, const struct arrival *frame)
{
    struct passage *p = passage;

    p->counts->received++;
    if (frame->length > 0
        && pcap_inject(p->to, frame->data, frame->length) >= 0) {
        p->counts->sent++;
    }
    else {
        p->counts->dropped++;
    }
}

static int
forward_some(struct side *s, int i)
{
    struct receiver *ports = s->forwarder.ports;
    struct passage passage = {ports[1 - i].handle, &s->counts[i]};

    return receiver_take(&ports[i], forward_packet, &passage);
}

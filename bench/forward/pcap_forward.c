/* Forwarding with libpcap, at its best for that: immediate mode, each packet
   injected from the callback, both directions.

       pcap_forward A B

   Ends when standard input does, and prints what it has counted as JSON. The
   hosts must send frames that fit a wire: libpcap has no offload headers.

   As a shared library it forwards as many as it is told to. */

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <pcap/pcap.h>

#define SNAPLEN 2048
#define BUFFER_SIZE (8 << 20)

/* For a packet that is on its way. */
#define PATIENCE_MS 5000

struct port {
    pcap_t *pcap, *to;
    uint64_t received, sent, dropped;
};

static void
forward_packet(u_char *user, const struct pcap_pkthdr *header,
               const u_char *frame)
{
    struct port *p = (struct port *)user;

    p->received++;
    if (header->caplen == header->len
        && pcap_inject(p->to, frame, header->caplen) >= 0) {
        p->sent++;
    }
    else {
        p->dropped++;
    }
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

struct bridge {
    struct port a, b;
};

void
bridge_close(struct bridge *g)
{
    if (g->a.pcap != NULL) {
        pcap_close(g->a.pcap);
    }
    if (g->b.pcap != NULL) {
        pcap_close(g->b.pcap);
    }
    free(g);
}

/* NULL with the reason in `error`, which has room for PCAP_ERRBUF_SIZE. */
struct bridge *
bridge_open(const char *a, const char *b, char *error)
{
    struct bridge *g = calloc(1, sizeof(*g));

    if (g == NULL) {
        snprintf(error, PCAP_ERRBUF_SIZE, "no memory");
        return NULL;
    }
    g->a.pcap = open_interface(a, error);
    g->b.pcap = g->a.pcap != NULL ? open_interface(b, error) : NULL;
    if (g->b.pcap == NULL) {
        bridge_close(g);
        return NULL;
    }
    g->a.to = g->b.pcap;
    g->b.to = g->a.pcap;
    return g;
}

/* Moves what waits at the ports that are ready: how many packets, or < 0. */
static int
dispatch(struct bridge *g, const struct pollfd ready[2])
{
    int there = 0, back = 0;

    if (ready[0].revents != 0) {
        there = pcap_dispatch(g->a.pcap, -1, forward_packet, (u_char *)&g->a);
    }
    if (there >= 0 && ready[1].revents != 0) {
        back = pcap_dispatch(g->b.pcap, -1, forward_packet, (u_char *)&g->b);
    }
    return there < 0 ? there : back < 0 ? back : there + back;
}

/* Returns when it has moved so many packets: their number, or -errno. */
int
bridge_forward(struct bridge *g, unsigned packets)
{
    struct pollfd ready[] = {
        {.fd = pcap_get_selectable_fd(g->a.pcap), .events = POLLIN},
        {.fd = pcap_get_selectable_fd(g->b.pcap), .events = POLLIN},
    };
    unsigned moved = 0;

    while (moved < packets) {
        int n = poll(ready, 2, PATIENCE_MS);

        if (n <= 0) {
            return n == 0 ? -ETIMEDOUT : -errno;
        }
        n = dispatch(g, ready);
        if (n < 0) {
            return -EIO;
        }
        moved += (unsigned)n;
    }
    return (int)moved;
}

/* Until standard input ends: 0, or -1. */
static int
forward_all(struct bridge *g)
{
    struct pollfd ready[] = {
        {.fd = pcap_get_selectable_fd(g->a.pcap), .events = POLLIN},
        {.fd = pcap_get_selectable_fd(g->b.pcap), .events = POLLIN},
        {.fd = 0, .events = POLLIN},
    };

    for (;;) {
        if (poll(ready, 3, -1) < 0) {
            return -1;
        }
        if (ready[2].revents != 0) {
            return 0;
        }
        if (dispatch(g, ready) < 0) {
            return -1;
        }
    }
}

static void
print_port(const char *name, const struct port *p, const char *end)
{
    printf("\"%s received\": %llu, \"%s sent\": %llu, \"%s dropped\": %llu%s",
           name, (unsigned long long)p->received, name,
           (unsigned long long)p->sent, name, (unsigned long long)p->dropped,
           end);
}

int
main(int argc, char **argv)
{
    char error[PCAP_ERRBUF_SIZE] = "";
    struct bridge *g;

    if (argc != 3) {
        fprintf(stderr, "usage: %s A B\n", argv[0]);
        return 2;
    }
    g = bridge_open(argv[1], argv[2], error);
    if (g == NULL) {
        fprintf(stderr, "%s: %s\n", argv[0], error);
        return 1;
    }
    if (forward_all(g) < 0) {
        fprintf(stderr, "%s: %s %s\n", argv[0], pcap_geterr(g->a.pcap),
                pcap_geterr(g->b.pcap));
        return 1;
    }
    printf("{");
    print_port("a", &g->a, ", ");
    print_port("b", &g->b, "}\n");
    bridge_close(g);
    return 0;
}

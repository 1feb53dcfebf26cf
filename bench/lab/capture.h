/* A libpcap handle with its best settings, which never waits by itself. */

#ifndef RAWMMSG_BENCH_CAPTURE_H
#define RAWMMSG_BENCH_CAPTURE_H

#include <linux/if_ether.h>
#include <pcap/pcap.h>
#include <stddef.h>
#include <stdio.h>

#define SNAPLEN 2048
#define CAPTURE_ROOM (2 * 1024 * 1024) /* of its ring: libpcap's default */
#define IMMEDIATE_TIMEOUT_MS 1         /* not used, but must not be 0 */
#define BUFFER_TIMEOUT_MS 10           /* for a block that is not full */

struct capture_setup {
    const char *interface;
    int protocol; /* an EtherType; 0: all */
    int buffered; /* frames come by the block, or else each at once */
    int room;     /* bytes of its ring; 0: CAPTURE_ROOM */
};

/* A handle whose reads return 0 at once when nothing waits, in no promiscuous
   mode. NULL with the reason in `reason`, of PCAP_ERRBUF_SIZE. */
static inline pcap_t *
capture_open(const struct capture_setup *setup, char *reason)
{
    pcap_t *p = pcap_create(setup->interface, reason);
    int protocol = setup->protocol != 0 ? setup->protocol : ETH_P_ALL;
    int timeout = setup->buffered ? BUFFER_TIMEOUT_MS : IMMEDIATE_TIMEOUT_MS;
    int room = setup->room != 0 ? setup->room : CAPTURE_ROOM;

    if (p == NULL) {
        return NULL;
    }
    if (pcap_set_snaplen(p, SNAPLEN) == 0 && pcap_set_promisc(p, 0) == 0
        && pcap_set_protocol_linux(p, protocol) == 0
        && pcap_set_immediate_mode(p, !setup->buffered) == 0
        && pcap_set_timeout(p, timeout) == 0
        && pcap_set_buffer_size(p, room) == 0
        && pcap_activate(p) >= 0 /* > 0: a warning */
        && pcap_setnonblock(p, 1, reason) == 0) {
        return p;
    }
    snprintf(reason, PCAP_ERRBUF_SIZE, "%s: %s", setup->interface,
             pcap_geterr(p));
    pcap_close(p);
    return NULL;
}

/* Only to send. It listens all the same, but for frames that nobody sends:
   one that listens for all slows down each that leaves. */
static inline pcap_t *
injector_open(const char *interface, char *reason)
{
    struct capture_setup setup = {
        .interface = interface,
        .protocol = ETH_P_LOOPBACK,
    };

    return capture_open(&setup, reason);
}

#endif

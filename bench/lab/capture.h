/* A libpcap handle with its best settings, which never waits by itself. */

#ifndef CAPTURE_H
#define CAPTURE_H

#include <errno.h>
#include <linux/if_ether.h>
#include <pcap/pcap.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/uio.h>

#define SNAPLEN 2048
#define CAPTURE_ROOM (2 * 1024 * 1024) /* of its ring: libpcap's default */
#define IMMEDIATE_TIMEOUT_MS 1         /* not used, but must not be 0 */
#define BUFFER_TIMEOUT_MS 10           /* for a block that is not full */

struct capture_setup {
    const char *interface;
    int protocol; /* an EtherType; 0: all */
    int buffered; /* frames arrive in blocks, or else each at once */
    int room;     /* bytes of its ring; 0: CAPTURE_ROOM */
};

/* A handle whose reads return 0 at once if there is no frame, without
   promiscuous mode. NULL with the reason in `reason`, of PCAP_ERRBUF_SIZE. */
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

/* Send-only. It has to listen, but for frames that nobody sends: a handle that
   listens for all slows down each frame that leaves. */
static inline pcap_t *
injector_open(const char *interface, char *reason)
{
    struct capture_setup setup = {
        .interface = interface,
        .protocol = ETH_P_LOOPBACK,
    };

    return capture_open(&setup, reason);
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

#endif

/* Receiving by libpcap. */

#include "receiving.h"
#include "inbox.h"
#include "capture.h"

#define ROOM \
    (16 * 1024 * 1024) /* as much as the sockets of other sides have */

struct receiving {
    pcap_t *handle;
    struct inbox inbox;
    struct examiner examiner;
};

void
receiving_close(struct receiving *r)
{
    if (r != NULL) {
        if (r->handle != NULL) {
            pcap_close(r->handle);
        }
        inbox_close(&r->inbox);
        examiner_close(&r->examiner);
        free(r);
    }
}

struct receiving *
receiving_open(const struct loop_setup *setup, char error[ERROR_SIZE])
{
    struct capture_setup wanted = {
        .interface = setup->rx_name,
        .buffered = (setup->options & LOOP_BUFFERED) != 0,
        .room = ROOM,
    };
    struct receiving *r = calloc(1, sizeof(*r));

    _Static_assert(ERROR_SIZE >= PCAP_ERRBUF_SIZE, "libpcap's words fit");
    if (r == NULL || inbox_open(&r->inbox, setup) < 0
        || examiner_open(&r->examiner, setup) < 0) {
        snprintf(error, ERROR_SIZE, "out of memory");
        receiving_close(r);
        return NULL;
    }
    r->handle = capture_open(&wanted, error);
    if (r->handle == NULL) {
        receiving_close(r);
        return NULL;
    }
    return r;
}

/* The frame is examined where it then is. */
static void
put(u_char *receiving, const struct pcap_pkthdr *header, const u_char *data)
{
    struct receiving *r = (struct receiving *)receiving;
    const char *at = inbox_put(&r->inbox, data, header->caplen, 0, 1);

    examine(&r->examiner, at, header->caplen);
}

static int
take(struct receiving *r)
{
    int n = pcap_dispatch(r->handle, (int)r->inbox.batch, put, (u_char *)r);

    return n < 0 ? -EIO : n;
}

int
receiving_run(struct receiving *r, const int *over, int more,
              struct receipt *receipt)
{
    r->examiner.receipt = receipt;
    return receive_until(r, &r->examiner, over, more,
                         pcap_get_selectable_fd(r->handle), take);
}

int
receiving_fileno(const struct receiving *r)
{
    return pcap_get_selectable_fd(r->handle);
}

/* There and back by libpcap, in immediate mode. */

#include "ping.h"
#include "capture.h"

struct pinging {
    struct sender sender; /* where the frame is */
    pcap_t *handle;
    int fd;
};

void
pinging_close(struct pinging *p)
{
    if (p != NULL) {
        if (p->handle != NULL) {
            pcap_close(p->handle);
        }
        sender_close(&p->sender);
        free(p);
    }
}

struct pinging *
pinging_open(const struct loop_setup *setup, char error[ERROR_SIZE])
{
    struct capture_setup wanted = {.interface = setup->tx_name};
    struct pinging *p = calloc(1, sizeof(*p));

    _Static_assert(ERROR_SIZE >= PCAP_ERRBUF_SIZE, "libpcap's words fit");
    if (p == NULL || sender_open(&p->sender, setup) < 0) {
        snprintf(error, ERROR_SIZE, "out of memory");
        pinging_close(p);
        return NULL;
    }
    p->handle = capture_open(&wanted, error);
    if (p->handle == NULL) {
        pinging_close(p);
        return NULL;
    }
    p->fd = pcap_get_selectable_fd(p->handle);
    return p;
}

static int
send_one(struct pinging *p)
{
    const struct iovec *frame = &p->sender.parts[0];

    return pcap_inject(p->handle, frame->iov_base, frame->iov_len) < 0 ? -EIO
                                                                       : 0;
}

/* It waits first, for libpcap would ask the kernel once more in vain. */
static int
receive_one(struct pinging *p, struct arrival *came)
{
    struct pcap_pkthdr *header;
    const u_char *data;
    int n = 0;

    while (n == 0) {
        n = wait_for(p->fd, POLLIN);
        if (n < 0) {
            return n;
        }
        n = pcap_next_ex(p->handle, &header, &data);
    }
    if (n < 0) {
        return -EIO;
    }
    came->data = (const char *)data;
    came->length = header->caplen;
    return 0;
}

int
pinging_run(struct pinging *p, unsigned rounds, uint64_t *taken)
{
    return run_pings(p, &p->sender.parts[0], rounds, taken, send_one,
                     receive_one);
}

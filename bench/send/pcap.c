/* Sending with libpcap: a packet a call; it has no batch call. */

#include "side.h"
#include "capture.h"

struct side {
    struct sender sender; /* where the frames are */
    pcap_t *handle;
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        sender_close(&s->sender);
        if (s->handle != NULL) {
            pcap_close(s->handle);
        }
        free(s);
    }
}

struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct capture_setup wanted = {.interface = setup->tx_name};
    struct side *s = calloc(1, sizeof(*s));

    _Static_assert(ERROR_SIZE >= PCAP_ERRBUF_SIZE, "libpcap's words fit");
    if (s == NULL || sender_open(&s->sender, setup) < 0) {
        snprintf(error, ERROR_SIZE, "out of memory");
        side_close(s);
        return NULL;
    }
    s->handle = setup->options & SIDE_SEND_ONLY
                    ? injector_open(setup->tx_name, error)
                    : capture_open(&wanted, error);
    if (s->handle == NULL) {
        side_close(s);
        return NULL;
    }
    return s;
}

void
side_prepare(struct side *s)
{
    (void)s;
}

int
side_run(struct side *s, unsigned times)
{
    unsigned i;

    for (; times > 0; times--) {
        for (i = 0; i < s->sender.batch; i++) {
            const struct iovec *part = &s->sender.parts[i];

            if (pcap_inject(s->handle, part->iov_base, part->iov_len) < 0) {
                return -EIO;
            }
        }
    }
    return 0;
}

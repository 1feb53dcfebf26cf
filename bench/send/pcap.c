/* Sending by libpcap: a packet a call, for it has no other. */

#include "send.h"
#include "capture.h"

struct sending {
    struct sender sender; /* where the frames are */
    pcap_t *handle;
};

void
sending_close(struct sending *s)
{
    if (s != NULL) {
        sender_close(&s->sender);
        if (s->handle != NULL) {
            pcap_close(s->handle);
        }
        free(s);
    }
}

struct sending *
sending_open(const struct loop_setup *setup, char error[ERROR_SIZE])
{
    struct capture_setup wanted = {.interface = setup->tx_name};
    struct sending *s = calloc(1, sizeof(*s));

    _Static_assert(ERROR_SIZE >= PCAP_ERRBUF_SIZE, "libpcap's words fit");
    if (s == NULL || sender_open(&s->sender, setup) < 0) {
        snprintf(error, ERROR_SIZE, "out of memory");
        sending_close(s);
        return NULL;
    }
    s->handle = setup->options & LOOP_DEAF
                    ? injector_open(setup->tx_name, error)
                    : capture_open(&wanted, error);
    if (s->handle == NULL) {
        sending_close(s);
        return NULL;
    }
    return s;
}

void
sending_prepare(struct sending *s)
{
    (void)s;
}

int
sending_run(struct sending *s, unsigned rounds)
{
    unsigned i;

    for (; rounds > 0; rounds--) {
        for (i = 0; i < s->sender.batch; i++) {
            const struct iovec *part = &s->sender.parts[i];

            if (pcap_inject(s->handle, part->iov_base, part->iov_len) < 0) {
                return -EIO;
            }
        }
    }
    return 0;
}

/* Sending with libpcap. */

#include "batch.h"
#include "capture.h"

struct side {
    struct batch *out; /* the frames */
    pcap_t *handle;
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        batch_close(s->out);
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

    _Static_assert(ERROR_SIZE >= PCAP_ERRBUF_SIZE, "libpcap's message fits");
    snprintf(error, ERROR_SIZE, "out of memory");
    if (s == NULL || (s->out = batch_open_full(setup)) == NULL) {
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
    int error = 0;

    for (; times > 0 && error == 0; times--) {
        error = inject_all(s->handle, s->out->parts, s->out->count);
    }
    return error;
}

/* Sending by a ring that the kernel reads: PACKET_TX_RING with TPACKET_V2. */

#include "batch.h"
#include "ring.h"

/* The offset at which the kernel expects the frame in a slot
   (net/packet/af_packet.c:tpacket_parse_header()). */
#define DATA_OFFSET (TPACKET2_HDRLEN - sizeof(struct sockaddr_ll))

#define BATCHES 2 /* room in the ring */

struct side {
    struct batch *out; /* the frames */
    struct ring ring;
    int copy; /* 0: the frames are in the ring before they are sent */
};

void
side_close(struct side *s)
{
    if (s != NULL) {
        batch_close(s->out);
        ring_close(&s->ring);
        free(s);
    }
}

/* A block for each batch, so that a slot always has the same frame of it. */
struct side *
side_open(const struct side_setup *setup, char error[ERROR_SIZE])
{
    struct side *s = calloc(1, sizeof(*s));
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t needed = (size_t)setup->batch * SLOT_SIZE;
    int result = -ENOMEM;

    if (s != NULL) {
        s->out = batch_open_full(setup);
        s->copy = (setup->options & SIDE_COPY) != 0;
        s->ring.version = TPACKET_V2;
        s->ring.block_size = (needed + page - 1) / page * page;
        s->ring.blocks = BATCHES;
        result = ring_open(&s->ring, setup->tx_name, PACKET_TX_RING);
    }
    if (result == 0 && s->out != NULL
        && s->ring.slots_per_block == setup->batch) {
        return s;
    }
    fail(error, "a ring to send on", setup->tx_name,
         result < 0 ? -result : EINVAL);
    side_close(s);
    return NULL;
}

static void
fill(struct tpacket2_hdr *slot, const struct iovec *part)
{
    memcpy((char *)slot + DATA_OFFSET, part->iov_base, part->iov_len);
}

/* Called after the frames have changed. */
void
side_prepare(struct side *s)
{
    unsigned i;

    /* A slice begins and ends at the start of a block. */
    for (i = 0; i < BATCHES * s->out->count; i++) {
        fill(ring_slot(&s->ring), &s->out->parts[i % s->out->count]);
        ring_next(&s->ring);
    }
}

static int
send_batch(struct side *s)
{
    unsigned i;

    for (i = 0; i < s->out->count; i++) {
        const struct iovec *part = &s->out->parts[i];
        struct tpacket2_hdr *slot = ring_slot(&s->ring);

        /* The kernel may not have sent the slot's last frame yet. */
        while (__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE)
               != TP_STATUS_AVAILABLE) {
            int error = wait_for(s->ring.fd, POLLOUT);

            if (error < 0) {
                return error;
            }
        }
        if (s->copy) {
            fill(slot, part);
        }
        slot->tp_len = (uint32_t)part->iov_len;
        __atomic_store_n(&slot->tp_status, TP_STATUS_SEND_REQUEST,
                         __ATOMIC_RELEASE);
        ring_next(&s->ring);
    }
    /* The address is that of bind(2). */
    return send(s->ring.fd, NULL, 0, MSG_DONTWAIT) < 0 ? -errno : 0;
}

int
side_run(struct side *s, unsigned times)
{
    int error = 0;

    for (; times > 0 && error == 0; times--) {
        error = send_batch(s);
    }
    return error;
}
